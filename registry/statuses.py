"""The statuses that operators' resources call for: accepted or rejected, why, and the services' virtual IPs.

Pure: the state as it stands in, the writes that bring it into agreement out.
"""

from collections.abc import Callable, Iterator, Mapping

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
from registry.model.mesh import Mesh, MeshSpec, PolicySigning
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, Metadata, Resource
from registry.model.service import Service
from registry.model.signature import strip
from registry.model.status import Status, StatusSpec
from registry.store import keys
from registry.store.base import Delete, KeyValue, Put, Write
from registry.vips import Network, allocate, read_networks

State = Mapping[str, KeyValue]


def concerns(key: str) -> bool:
    """Whether `plan` looks at this key."""
    return operator_key(key) is not None or _status_key(key) is not None


def plan(
    state: State, *, trust_domain: str, objection: Callable[[KeyValue], str] = lambda _: ""
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
    vips = _allocate(judged, vouched, networks)
    writes: list[Write] = []
    for key, verdict in judged.items():
        place = status_key(key)
        unenforced = (
            tuple(unenforceable(verdict, services)) if isinstance(verdict, AuthorizationPolicy) else ()
        )
        spec = StatusSpec(
            revision=resources[key].revision,
            accepted=isinstance(verdict, Resource) and not unenforced,
            reasons=(*_reasons(verdict, vips.get(key, ()), networks), *unenforced),
            vips=vips.get(key, ()),
        )
        value = _render(place, spec)
        existing = vouched.get(place)
        if existing is None or strip(existing.value) != value:
            writes.append(Put(keys.render(place), value))
    wanted = {status_key(key) for key in resources}
    writes.extend(Delete(item.key) for place, item in statuses.items() if place not in wanted)
    return writes


def _signing_required(mesh: Resource | str | None) -> bool:
    return isinstance(mesh, Mesh) and mesh.spec.policy_signing is PolicySigning.REQUIRED


def _status_key(text: str) -> keys.StatusKey | None:
    # Statuses of kinds that only a newer replica knows are left to it.
    key = keys.parse(text)
    return key if isinstance(key, keys.StatusKey) and key.plural in KINDS_BY_PLURAL else None


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
) -> dict[OperatorKey, tuple[str, ...]]:
    services = {
        f"{key.namespace}/{key.name}": key
        for key in judged
        if isinstance(key, keys.ResourceKey) and key.plural == Service.PLURAL
    }
    # A service that is rejected now keeps what it had: its last good version is still in force at the nodes.
    held = {name: _held(statuses.get(status_key(key))) for name, key in services.items()}
    if networks is None:
        return {services[name]: addresses for name, addresses in held.items()}
    wanting = [name for name, key in services.items() if isinstance(judged[key], Service)]
    return {services[name]: given for name, given in allocate(held, wanting, networks).items()}


def _reasons(
    verdict: Resource | str, vips: tuple[str, ...], networks: tuple[Network, ...] | None
) -> Iterator[str]:
    match verdict:
        case str():
            yield verdict
        case Service() if networks is None and not vips:
            yield "it has no virtual IP yet: the mesh's settings are rejected"
        case Service() if networks is not None and len(vips) < len(networks):
            yield "it lacks a virtual IP: a range of the mesh's vipRanges is used up"
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


def _held(status: KeyValue | None) -> tuple[str, ...]:
    if status is None:
        return ()
    try:
        return parse_as(Status, status.value, where=status.key).spec.vips
    except InvalidResource:
        # Damaged by hand: it is written anew, with new addresses.
        return ()


def _render(place: keys.StatusKey, spec: StatusSpec) -> bytes:
    return render(
        Status(
            api_version=NODEMESH,
            kind=Status.KIND,
            metadata=Metadata(name=place.name, namespace=place.namespace),
            spec=spec,
        )
    )
