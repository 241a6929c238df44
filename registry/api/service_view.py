"""A service as operators need to see it: what was judged of it, and which endpoints can serve it, or why not.

Pure: from the stored values to one answer.
"""

from collections.abc import Iterable, Mapping

from registry.api.bodies import Answer
from registry.api.fleet import NodeState
from registry.errors import InvalidResource
from registry.model.external_service import ExternalService
from registry.model.identity import InvalidIdentity
from registry.model.parse import parse_as
from registry.model.service import Service
from registry.model.status import Status
from registry.model.workload import Health, Workload
from registry.store.base import KeyValue
from registry.store.keys import ResourceKey


class PortAnswer(Answer, frozen=True, kw_only=True):
    """A port callers use, and the workload's port behind it."""

    name: str | None
    port: int
    target_port: int
    protocol: str


class EndpointAnswer(Answer, frozen=True, kw_only=True):
    """A selected workload's port; `why` says why it is not usable and is empty when it is."""

    node: str
    workload: str
    address: str
    port: int
    identity: str
    health: str
    usable: bool
    why: str


class ServiceAnswer(Answer, frozen=True, kw_only=True):
    """A service, its judgement and its endpoints; one outside the mesh has `hosts` instead of endpoints."""

    namespace: str
    name: str
    ports: tuple[PortAnswer, ...]
    identities: tuple[str, ...]
    vips: tuple[str, ...]
    accepted: bool
    reasons: tuple[str, ...]
    endpoints: tuple[EndpointAnswer, ...] = ()
    hosts: tuple[str, ...] = ()
    kind: str = Service.KIND


def describe_external(key: ResourceKey, item: KeyValue, status: KeyValue | None) -> ServiceAnswer:
    """Put together what is known of the external service at `key`."""
    vips, accepted, reasons = _judgement(item, status)
    ports: tuple[PortAnswer, ...] = ()
    hosts: tuple[str, ...] = ()
    try:
        external = parse_as(ExternalService, item.value, where=item.key)
        hosts = external.spec.hosts
        ports = tuple(
            PortAnswer(
                name=port.name, port=port.number, target_port=port.target, protocol=port.protocol.value
            )
            for port in external.spec.ports
        )
    except InvalidResource as error:
        accepted, reasons = False, _with(reasons, error.describe())
    return ServiceAnswer(
        namespace=key.namespace,
        name=key.name,
        ports=ports,
        identities=(),
        vips=vips,
        accepted=accepted,
        reasons=reasons,
        hosts=hosts,
        kind=ExternalService.KIND,
    )


def describe_service(
    key: ResourceKey,
    item: KeyValue,
    status: KeyValue | None,
    fleet: Mapping[str, NodeState],
    *,
    trust_domain: str,
) -> ServiceAnswer:
    """Put together what is known of the service at `key`."""
    vips, accepted, reasons = _judgement(item, status)
    ports: tuple[PortAnswer, ...] = ()
    identities: tuple[str, ...] = ()
    endpoints: tuple[EndpointAnswer, ...] = ()
    try:
        service = parse_as(Service, item.value, where=item.key)
        ports = tuple(
            PortAnswer(name=port.name, port=port.port, target_port=port.target, protocol=port.protocol.value)
            for port in service.spec.ports
        )
        identities = tuple(sorted(str(identity) for identity in service.identities(trust_domain)))
        endpoints = tuple(_endpoints(service, identities, fleet.values()))
    except InvalidResource as error:
        accepted, reasons = False, _with(reasons, error.describe())
    except InvalidIdentity as error:
        accepted, reasons = False, _with(reasons, str(error))
    return ServiceAnswer(
        namespace=key.namespace,
        name=key.name,
        ports=ports,
        identities=identities,
        vips=vips,
        accepted=accepted,
        reasons=reasons,
        endpoints=endpoints,
    )


def _with(reasons: tuple[str, ...], reason: str) -> tuple[str, ...]:
    return reasons if reason in reasons else (*reasons, reason)


def _judgement(item: KeyValue, status: KeyValue | None) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    if status is None:
        return (), False, ("the controller has not judged it yet",)
    try:
        spec = parse_as(Status, status.value, where=status.key).spec
    except InvalidResource as error:
        return (), False, (error.describe(),)
    if spec.revision != item.revision:
        return spec.vips, spec.accepted, (*spec.reasons, "the controller has not judged the newest edit yet")
    return spec.vips, spec.accepted, spec.reasons


def _endpoints(
    service: Service, identities: tuple[str, ...], nodes: Iterable[NodeState]
) -> Iterable[EndpointAnswer]:
    # Two service ports may lead to one workload port: one endpoint.
    targets = tuple(dict.fromkeys(port.target for port in service.spec.ports))
    for node in nodes:
        for workload in node.workloads:
            if not service.selects(workload.metadata.namespace, workload.metadata.labels):
                continue
            for port in targets:
                why = "; ".join(obstacles(node, workload, port, identities))
                yield EndpointAnswer(
                    node=node.name,
                    workload=workload.name,
                    address=node.record.address if node.record else "",
                    port=port,
                    identity=workload.spec.identity,
                    health=workload.spec.health.value,
                    usable=not why,
                    why=why,
                )


def obstacles(node: NodeState, workload: Workload, port: int, identities: tuple[str, ...]) -> Iterable[str]:
    """Say what keeps a workload from serving `port` of a service that these identities may serve."""
    if node.record is None:
        yield f"node {node.name} has no readable record, so its address is unknown"
    if workload.spec.identity not in identities:
        yield f"its identity is not among the service's: {', '.join(identities)}"
    elif not node.may_hold(workload.spec.identity):
        yield f"node {node.name} is not enrolled for its identity"
    elif workload.name in node.objections:
        yield node.objections[workload.name]
    if port not in workload.spec.ports:
        yield f"it does not offer port {port}"
    if workload.spec.health is not Health.HEALTHY:
        yield "it is unhealthy"
