"""The statuses that operators' resources call for: accepted or rejected, why, and the services' virtual IPs.

Pure: the state as it stands in, the writes that bring it into agreement out. The status of a deleted service
stays until its virtual IPs may be given to another.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from registry.clock import format_time, parse_time
from registry.errors import InvalidResource
from registry.judgement import (
    KINDS_BY_PLURAL,
    OperatorKey,
    check,
    operator_key,
    read_resource,
    status_key,
    unenforceable,
)
from registry.model.authorization import AuthorizationPolicy
from registry.model.external_service import ExternalService
from registry.model.mesh import Mesh, MeshSpec, PolicySigning
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, Metadata, Resource
from registry.model.service import Service
from registry.model.signature import strip
from registry.model.status import Status, StatusSpec
from registry.store import keys
from registry.store.base import Delete, KeyValue, Put, Write
from registry.store.codec import ADDRESSED_PLURALS
from registry.traffic import describe_remarks, remarks_on_traffic
from registry.vips import Network, allocate, read_networks

State = Mapping[str, KeyValue]

# Every edit has all judged anew, and parsing is most of that work: as many are kept as a large mesh has, some
# KB each.
_KEPT_JUDGEMENTS: Final = 8192


def concerns(key: str) -> bool:
    """Whether `plan` looks at this key."""
    return operator_key(key) is not None or _status_key(key) is not None


def plan(
    state: State, *, trust_domain: str, now: datetime, objection: Callable[[KeyValue], str] = lambda _: ""
) -> list[Write]:
    """Give the writes that bring every status into agreement with the resources; none if they agree.

    `objection` says why a value's signature does not hold, nothing if it does. Statuses are ours to sign, so
    one that does not hold is written anew; of resources signatures are asked while `policySigning` says so.
    """
    resources: dict[OperatorKey, KeyValue] = {}
    statuses: dict[keys.StatusKey, KeyValue] = {}
    for item in state.values():
        if (key := operator_key(item.key)) is not None:
            resources[key] = item
        elif (place := _status_key(item.key)) is not None:
            statuses[place] = item
    # Addresses that somebody else wrote into a status are not held.
    vouched = {place: item for place, item in statuses.items() if not objection(item)}
    judged = {key: _judge(key, item, trust_domain) for key, item in resources.items()}
    if _signing_required(judged.get(keys.MeshKey())):
        judged = {key: objection(resources[key]) or verdict for key, verdict in judged.items()}
    services = [verdict for verdict in judged.values() if isinstance(verdict, Service)]
    networks = _networks(judged.get(keys.MeshKey()))
    wanted = {status_key(key) for key in resources}
    orphans = {place: item for place, item in statuses.items() if place not in wanted}
    released = {
        place: status
        for place in orphans
        if place in vouched and (status := _released(place, vouched[place], now)) is not None
    }
    held_back = [vip for status in released.values() for vip in status.vips]
    vips = _allocate(judged, vouched, networks, held_back)
    rivals = _rivals(judged)
    remarks = remarks_on_traffic(judged, {key: item.created for key, item in resources.items()})
    writes: list[Write] = []
    for key, verdict in judged.items():
        place = status_key(key)
        faults = rivals.get(key, ())
        if isinstance(verdict, AuthorizationPolicy):
            faults = tuple(unenforceable(verdict, services))
        about = remarks.get(key, ())
        spec = StatusSpec(
            revision=resources[key].revision,
            accepted=isinstance(verdict, Resource) and not faults and not any(each.grave for each in about),
            reasons=(
                *_reasons(verdict, vips.get(key, ()), networks, len(released)),
                *faults,
                *describe_remarks(about),
            ),
            vips=vips.get(key, ()),
        )
        value = _render(place, spec)
        existing = vouched.get(place)
        if existing is None or strip(existing.value) != value:
            writes.append(Put(keys.render(place), value))
    for place, item in orphans.items():
        status = released.get(place)
        if status is None or _freed_at(status, judged.get(keys.MeshKey())) <= now:
            writes.append(Delete(item.key))
        elif strip(item.value) != (value := _render(place, status)):
            writes.append(Put(item.key, value))
    return writes


def next_release(state: State, *, trust_domain: str, now: datetime) -> datetime | None:
    """Give when the first virtual IPs that are held back will be free; None while none are."""
    item = state.get(keys.render(keys.MeshKey()))
    mesh = None if item is None else _judge(keys.MeshKey(), item, trust_domain)
    moments = [
        _freed_at(status, mesh)
        for item in state.values()
        if (place := _status_key(item.key)) is not None
        and keys.render(keys.ResourceKey(place.plural, place.namespace, place.name)) not in state
        and (status := _released(place, item, now)) is not None
    ]
    return min(moments, default=None)


def _released(place: keys.StatusKey, item: KeyValue, now: datetime) -> StatusSpec | None:
    """Give the status of a service that is no more and whose addresses are held back; None without any."""
    status = _read_status(item)
    if status is None or not status.vips or place.plural not in ADDRESSED_PLURALS:
        return None
    since = status.released_at
    try:
        # A time in the future is a clock that was wrong, here or there.
        since = since if since is not None and parse_time(since) <= now else None
    except ValueError:
        since = None
    return StatusSpec(
        revision=status.revision,
        accepted=False,
        reasons=("it was deleted; its virtual IPs are held back for a while and given to no other service",),
        vips=status.vips,
        released_at=since or format_time(now),
    )


def _freed_at(status: StatusSpec, mesh: Resource | str | None) -> datetime:
    """Give when the addresses of a released status may be given to others."""
    spec = mesh.spec if isinstance(mesh, Mesh) else MeshSpec()
    return parse_time(status.released_at or "") + timedelta(seconds=spec.vip_hold_down)


def _rivals(judged: Mapping[OperatorKey, Resource | str]) -> dict[OperatorKey, tuple[str, ...]]:
    """Say which external services name hosts that another names too: the first by name has them."""
    owners: dict[str, str] = {}
    found: dict[OperatorKey, tuple[str, ...]] = {}
    externals = {key: each for key, each in judged.items() if isinstance(each, ExternalService)}
    for key, external in sorted(externals.items(), key=lambda pair: pair[1].name):
        faults = tuple(
            f"spec.hosts: {host} leads to {owners[host]} already; name it in one of them"
            for host in external.spec.hosts
            if owners.setdefault(host, external.name) != external.name
        )
        if faults:
            found[key] = faults
    return found


def _signing_required(mesh: Resource | str | None) -> bool:
    return isinstance(mesh, Mesh) and mesh.spec.policy_signing is PolicySigning.REQUIRED


def _status_key(text: str) -> keys.StatusKey | None:
    # Statuses of kinds that only a newer replica knows are left to it.
    key = keys.parse(text)
    return key if isinstance(key, keys.StatusKey) and key.plural in KINDS_BY_PLURAL else None


@lru_cache(maxsize=_KEPT_JUDGEMENTS)
def _judge(key: OperatorKey, item: KeyValue, trust_domain: str) -> Resource | str:
    """Give the resource if it is accepted, else the reason why not."""
    try:
        resource = read_resource(key, item.value, where=item.key)
        check(resource, trust_domain=trust_domain, where=item.key)
    except InvalidResource as error:
        return error.describe()
    return resource


def _allocate(
    judged: Mapping[OperatorKey, Resource | str],
    statuses: Mapping[keys.StatusKey, KeyValue],
    networks: tuple[Network, ...] | None,
    held_back: list[str],
) -> dict[OperatorKey, tuple[str, ...]]:
    services = {
        _claimant(key): key
        for key in judged
        if isinstance(key, keys.ResourceKey) and key.plural in ADDRESSED_PLURALS
    }
    # A service that is rejected now keeps what it had: its last good version is still in force at the nodes.
    held = {name: _held(statuses.get(status_key(key))) for name, key in services.items()}
    if networks is None:
        return {services[name]: addresses for name, addresses in held.items()}
    wanting = [name for name, key in services.items() if isinstance(judged[key], Service | ExternalService)]
    given = allocate(held, wanting, networks, held_back)
    return {services[name]: addresses for name, addresses in given.items()}


def _claimant(key: keys.ResourceKey) -> str:
    """Name a service among those that want addresses: the name decides where they are looked for."""
    name = f"{key.namespace}/{key.name}"
    return name if key.plural == Service.PLURAL else f"{key.plural}/{name}"


def _reasons(
    verdict: Resource | str, vips: tuple[str, ...], networks: tuple[Network, ...] | None, held_back: int
) -> Iterator[str]:
    match verdict:
        case str():
            yield verdict
        case Service() | ExternalService() if networks is None and not vips:
            yield "it has no virtual IP yet: the mesh's settings are rejected"
        case Service() | ExternalService() if networks is not None:
            held = f" ({held_back} deleted services hold theirs back for a while)" if held_back else ""
            for network in networks:
                if not any(_within(vip, network) for vip in vips):
                    yield (
                        f"it lacks a virtual IP: {network} of the mesh's vipRanges is used up{held}; "
                        "write a wider range, or delete services"
                    )
        case _:
            pass


def _networks(mesh: Resource | str | None) -> tuple[Network, ...] | None:
    """Give the ranges in force; None while the settings are rejected, when nothing must move."""
    match mesh:
        case None:
            return read_networks(MeshSpec().vip_ranges)
        case Mesh():
            return read_networks(mesh.spec.vip_ranges)
        case _:
            return None


def _within(vip: str, network: Network) -> bool:
    return ip_address(vip) in network


def _held(status: KeyValue | None) -> tuple[str, ...]:
    spec = None if status is None else _read_status(status)
    return () if spec is None else spec.vips


def _read_status(item: KeyValue) -> StatusSpec | None:
    """Read a status; None if it was damaged by hand, when it is written anew, with new addresses."""
    try:
        return parse_as(Status, item.value, where=item.key).spec
    except InvalidResource:
        return None


def _render(place: keys.StatusKey, spec: StatusSpec) -> bytes:
    return render(
        Status(
            api_version=NODEMESH,
            kind=Status.KIND,
            metadata=Metadata(name=place.name, namespace=place.namespace),
            spec=spec,
        )
    )
