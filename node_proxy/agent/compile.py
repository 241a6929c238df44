"""From MeshState and the node's own configuration to the Snapshot that the workers enforce.

No I/O. Whatever is left out of a service is left out with a reason, for people to read in /config.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from node_proxy.agent.external_views import external_views
from node_proxy.agent.faults import faults_in_force
from node_proxy.agent.records import OwnResources
from node_proxy.agent.retention import Retention
from node_proxy.agent.state import MeshState
from node_proxy.agent.unenforceable import find_rejections
from node_proxy.config import NodeConfig, WorkloadConfig
from node_proxy.snapshot import Endpoint, LocalWorkload, ServicePortView, ServiceView, Snapshot
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.identity import WorkloadIdentity
from registry.model.peer_authentication import PeerAuthentication
from registry.model.resource import Resource
from registry.model.service import Service, ServicePort
from registry.model.status import Status
from registry.model.tcp_route import TCPRoute
from registry.model.workload import Health, Node, NodeSpec, Rejection, Workload
from registry.rules.fitting import attach
from registry.rules.layer7 import protocols_of
from registry.store import keys

R = TypeVar("R", bound=Resource)


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that a service selects and does not use; `port` is None when it concerns all of them."""

    service: str
    port: int | None
    node: str
    workload: str
    reason: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """A snapshot, what was left out of it, and which virtual IP ranges the mesh uses.

    `rejections` are policies and routes in it that cannot be enforced as they are meant. `faults` are the
    errors that are made on purpose, each in a line for people.
    """

    snapshot: Snapshot
    exclusions: tuple[Exclusion, ...]
    vip_ranges: tuple[str, ...]
    rejections: tuple[Rejection, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A workload somewhere, and how its node is reached; `node` is None when the node has no record."""

    workload: Workload
    node: NodeSpec | None


class Compiler:
    """Compiles snapshots; remembers only which endpoints have vanished (`Retention`).

    Args:
        config: this node's configuration.
        trust_domain: that of the node's certificates.
        resolved: gives the addresses of a name outside the mesh.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        trust_domain: str,
        resolved: Callable[[str], tuple[str, ...]] = lambda _: (),
    ) -> None:
        self._config = config
        self._resolved = resolved
        self._trust_domain = trust_domain
        self._retention: Retention[Candidate] = Retention()

    def compile(self, state: MeshState, *, own: OwnResources, now: float) -> Compiled:
        """Compile the state as it is.

        Args:
            state: what the store says.
            own: this node's own record and workloads, which take the place of what the store says of them.
            now: seconds of a clock that never goes back.
        """
        selectable = _Selectable(state, own, self._config.proxy.node)
        services = sorted((service for _, service in state.of(Service)), key=lambda service: service.name)
        self._retention.forget_all_but(service.name for service in services)
        exclusions: list[Exclusion] = []
        views: list[ServiceView] = []
        for service in services:
            candidates = selectable.behind(service)
            kept = self._retention.keep(service.name, candidates, stored=state, now=now)
            candidates |= {
                key: candidate for key, candidate in kept.items() if _selects(service, candidate.workload)
            }
            views.append(self._view(service, candidates, exclusions, state))
        mesh = state.mesh()
        attached = attach((policy, state.created(key)) for key, policy in state.of(BackendPolicy))
        proxy = self._config.proxy
        local = tuple(local_workload(each, self._trust_domain, services) for each in self._config.workloads)
        snapshot = Snapshot(
            revision=state.revision,
            node=proxy.node,
            addresses=(proxy.address,),
            trust_domain=self._trust_domain,
            default_authorization=mesh.default_authorization,
            services=tuple(views),
            local=local,
            policies=tuple(policy for _, policy in sorted(state.of(AuthorizationPolicy), key=lambda p: p[0])),
            peer_authentications=tuple(
                peers for _, peers in sorted(state.of(PeerAuthentication), key=lambda p: p[0])
            ),
            mtls_mode=mesh.mtls_mode,
            closed_namespaces=state.closed_namespaces(),
            enforcement_grace=mesh.enforcement_grace,
            externals=external_views(state, self._resolved),
            vip_ranges=mesh.vip_ranges,
            nodes=selectable.addresses,
            http_routes=_dated(state, HTTPRoute),
            grpc_routes=_dated(state, GRPCRoute),
            tcp_routes=_dated(state, TCPRoute),
            backend_policies=attached.policies,
            region=proxy.region,
            zone=proxy.zone,
        )
        rejections = find_rejections(state, local, services, attached)
        faults = faults_in_force(attached.policies)
        return Compiled(snapshot, tuple(exclusions), mesh.vip_ranges, rejections, faults)

    def _view(
        self,
        service: Service,
        candidates: dict[str, Candidate],
        exclusions: list[Exclusion],
        state: MeshState,
    ) -> ServiceView:
        identities = {str(each): each for each in service.identities(self._trust_domain)}
        usable: list[Candidate] = []
        for _, candidate in sorted(candidates.items()):
            if reason := _why_unusable(candidate, identities):
                exclusions.append(_exclusion(service, None, candidate, reason))
            else:
                usable.append(candidate)
        ports = tuple(
            ServicePortView(
                port=port.port,
                protocol=port.protocol,
                endpoints=tuple(_endpoints(service, port, usable, identities, exclusions)),
            )
            for port in service.spec.ports
        )
        metadata = service.metadata
        key = keys.render(keys.StatusKey(Service.PLURAL, metadata.namespace, metadata.name))
        status = state.get(key, Status)
        return ServiceView(name=service.name, vips=status.spec.vips if status else (), ports=ports)


def local_workload(workload: WorkloadConfig, trust_domain: str, services: Iterable[Service]) -> LocalWorkload:
    """Give a declared workload as the workers see it; `services` are all of the mesh."""
    identity = workload.identity(trust_domain)
    behind = [service for service in services if service.selects(workload.namespace, workload.labels)]
    return LocalWorkload(
        name=workload.qualified,
        namespace=workload.namespace,
        labels=workload.labels,
        identity=str(identity),
        server_name=identity.server_name,
        ports=workload.ports,
        dial=workload.address,
        owner=workload.owner,
        preserve_source=workload.preserve_source,
        proxy_protocol=workload.proxy_protocol is not None,
        services=tuple(service.name for service in behind),
        protocols=protocols_of(
            behind, namespace=workload.namespace, labels=workload.labels, ports=workload.ports
        ),
    )


def _dated(state: MeshState, kind: type[R]) -> tuple[tuple[R, int], ...]:
    """Give the routes of a kind, the oldest first: which of two goes first is decided by that."""
    found = ((route, state.created(key)) for key, route in state.of(kind))
    return tuple(sorted(found, key=lambda pair: (pair[1], pair[0].name)))


class _Selectable:
    """Every registered workload, indexed so that a service looks only at those that carry its first label."""

    def __init__(self, state: MeshState, own: OwnResources, own_node: str) -> None:
        nodes = {node.metadata.name: node.spec for _, node in state.of(Node)}
        workloads = {key: workload for key, workload in state.of(Workload) if workload.spec.node != own_node}
        for key, resource in own.items():
            if isinstance(resource, Workload):
                workloads[key] = resource
            else:
                nodes[own_node] = resource.spec
        # What each node says that it has; who believes it is another's business.
        self.addresses = {name: spec.address for name, spec in nodes.items()}
        self._by_namespace: dict[str, dict[str, Candidate]] = defaultdict(dict)
        self._by_label: dict[tuple[str, str, str], dict[str, Candidate]] = defaultdict(dict)
        for key, workload in workloads.items():
            candidate = Candidate(workload, nodes.get(workload.spec.node))
            namespace = workload.metadata.namespace
            self._by_namespace[namespace][key] = candidate
            for label, value in workload.metadata.labels.items():
                self._by_label[namespace, label, value][key] = candidate

    def behind(self, service: Service) -> dict[str, Candidate]:
        """Give the workloads that `service` selects, by key."""
        namespace = service.metadata.namespace
        first = next(iter(service.spec.selector.items()), None)
        some = self._by_label.get((namespace, *first), {}) if first else self._by_namespace.get(namespace, {})
        return {key: candidate for key, candidate in some.items() if _selects(service, candidate.workload)}


def _selects(service: Service, workload: Workload) -> bool:
    return service.selects(workload.metadata.namespace, workload.metadata.labels)


def _why_unusable(candidate: Candidate, identities: Mapping[str, WorkloadIdentity]) -> str:
    if candidate.workload.spec.identity not in identities:
        allowed = ", ".join(sorted(identities))
        return (
            f"its identity {candidate.workload.spec.identity} is not one that may serve this name ({allowed})"
        )
    if candidate.node is None:
        return f"node {candidate.workload.spec.node} has no record"
    return ""


def _endpoints(
    service: Service,
    port: ServicePort,
    usable: list[Candidate],
    identities: Mapping[str, WorkloadIdentity],
    exclusions: list[Exclusion],
) -> Iterator[Endpoint]:
    for candidate in usable:
        spec = candidate.workload.spec
        if port.target not in spec.ports or candidate.node is None:
            offered = ", ".join(str(each) for each in spec.ports)
            reason = f"it does not offer port {port.target}, only {offered}"
            exclusions.append(_exclusion(service, port.port, candidate, reason))
            continue
        yield Endpoint(
            node=spec.node,
            workload=candidate.workload.name,
            address=candidate.node.address,
            port=port.target,
            tunnel_port=candidate.node.tunnel_port,
            identity=spec.identity,
            server_name=identities[spec.identity].server_name,
            weight=spec.weight,
            healthy=spec.health is Health.HEALTHY,
            region=candidate.node.region,
            zone=candidate.node.zone,
        )


def _exclusion(service: Service, port: int | None, candidate: Candidate, reason: str) -> Exclusion:
    return Exclusion(
        service=service.name,
        port=port,
        node=candidate.workload.spec.node,
        workload=candidate.workload.name,
        reason=reason,
    )
