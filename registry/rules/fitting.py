"""Whether routes and backend policies fit the Services that they name, and which of several counts.

Pure. What is grave is a rejection: that part of the resource has no effect, and its author must know. The
rest are warnings: most likely it is not meant, or not yet there.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from registry.model.backend_policy import BackendPolicy
from registry.model.gateway import BackendReference, ParentReference
from registry.model.grpc_route import GRPCBackendRef, GRPCRoute, GRPCRouteFilter, GRPCRouteRule
from registry.model.http_route import HTTPBackendRef, HTTPRoute, HTTPRouteFilter, HTTPRouteRule
from registry.model.service import PortProtocol, Service
from registry.model.tcp_route import TCPRoute, TCPRouteRule
from registry.rules.routing.attachment import AnyRoute, may_attach, parent_of

_HTTP: Final = frozenset({PortProtocol.HTTP, PortProtocol.HTTP2, PortProtocol.GRPC, PortProtocol.AUTO})
_SPELLING: Final = "correct the spelling, or remove it if it is gone"


@dataclass(frozen=True, slots=True)
class Known:
    """What the mesh has, by ``namespace/name``.

    `unread` are Services that are there and rejected, of which nothing is said. `routes` are HTTPRoutes and
    GRPCRoutes.
    """

    services: Mapping[str, Service]
    unread: Collection[str] = ()
    routes: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a resource at its field `path`; `grave` if that part of it has no effect."""

    path: str
    reason: str
    mend: str
    grave: bool = False

    def describe(self) -> str:
        """Give it in one line."""
        return f"{self.path}: {self.reason}; {self.mend}"


@dataclass(frozen=True, slots=True)
class Attached:
    """The policies that count, each with the targets for which it does; `beaten` says why others do not.

    `beaten` is by the policy's ``namespace/name``.
    """

    policies: tuple[BackendPolicy, ...]
    beaten: Mapping[str, tuple[Remark, ...]]


def attach(policies: Iterable[tuple[BackendPolicy, int]]) -> Attached:
    """Let one policy count for each Service: that with the lowest revision, of its making, then by name."""
    owners: dict[str, str] = {}
    winners: list[BackendPolicy] = []
    beaten: dict[str, tuple[Remark, ...]] = {}
    for policy, _ in sorted(policies, key=lambda pair: (pair[1], pair[0].name)):
        won = []
        lost = []
        for i, service in enumerate(policy.targets):
            if service in owners:
                lost.append(_beaten(i, service, owners[service]))
            else:
                owners[service] = policy.name
                won.append(policy.spec.target_refs[i])
        if lost:
            beaten[policy.name] = tuple(lost)
        if len(won) == len(policy.spec.target_refs):
            winners.append(policy)
        elif won:
            spec = msgspec.structs.replace(policy.spec, target_refs=tuple(won))
            winners.append(msgspec.structs.replace(policy, spec=spec))
    return Attached(tuple(winners), beaten)


def route_remarks(route: AnyRoute, known: Known) -> Iterator[Remark]:
    """Say what of a route does not fit the mesh's services."""
    for i, parent in enumerate(route.spec.parent_refs):
        yield from _parent(route, parent, f"spec.parentRefs[{i}]", known)
    for path, backend in backend_refs(route):
        yield from _backend(route, backend, path, known)


def policy_remarks(policy: BackendPolicy, known: Known) -> Iterator[Remark]:
    """Say what of a policy does not fit the mesh's services and routes."""
    for i, name in enumerate(policy.targets):
        service = known.services.get(name)
        if service is None:
            yield from _unknown_service(f"spec.targetRefs[{i}].name", name, known)
        elif not any(port.protocol in _HTTP for port in service.spec.ports):
            for path, mend in _needs_http(policy):
                yield Remark(path, f"needs HTTP, and {_spoken(service)}", mend, grave=True)
    for i, limit in enumerate(policy.spec.rate_limits):
        named = None if limit.route is None else f"{policy.metadata.namespace}/{limit.route}"
        if named is not None and named not in known.routes:
            yield Remark(
                f"spec.rateLimits[{i}].route", f"there is no HTTPRoute or GRPCRoute {named}", _SPELLING
            )


def backend_refs(route: AnyRoute) -> Iterator[tuple[str, BackendReference]]:
    """Give every backend that a route names, mirrors included, with its field."""
    rules: Sequence[HTTPRouteRule | GRPCRouteRule | TCPRouteRule] = route.spec.rules
    for i, rule in enumerate(rules):
        path = f"spec.rules[{i}]"
        for j, backend in enumerate(rule.backend_refs):
            yield f"{path}.backendRefs[{j}]", backend
            if isinstance(backend, HTTPBackendRef | GRPCBackendRef):
                yield from _mirrors(backend.filters, f"{path}.backendRefs[{j}].filters")
        if not isinstance(rule, TCPRouteRule):
            yield from _mirrors(rule.filters, f"{path}.filters")


def _mirrors(
    filters: Sequence[HTTPRouteFilter | GRPCRouteFilter], path: str
) -> Iterator[tuple[str, BackendReference]]:
    for i, each in enumerate(filters):
        if each.request_mirror is not None:
            yield f"{path}[{i}].requestMirror.backendRef", each.request_mirror.backend_ref


def _parent(route: AnyRoute, parent: ParentReference, path: str, known: Known) -> Iterator[Remark]:
    name = parent_of(route, parent)
    service = known.services.get(name)
    if service is None:
        yield from _unknown_service(f"{path}.name", name, known)
    elif parent.port is None:
        if not any(may_attach(route.KIND, port.protocol) for port in service.spec.ports):
            reason = f"{route.KIND}s have no effect there: {_spoken(service)}"
            yield Remark(path, reason, _protocol_mend(route), grave=True)
    else:
        port = next((port for port in service.spec.ports if port.port == parent.port), None)
        if port is None:
            yield _unknown_port(f"{path}.port", service, parent.port)
        elif not may_attach(route.KIND, port.protocol):
            reason = (
                f"{route.KIND}s have no effect there: port {port.port} of {name} is {port.protocol.value}"
            )
            yield Remark(f"{path}.port", reason, _protocol_mend(route), grave=True)


def _backend(route: AnyRoute, backend: BackendReference, path: str, known: Known) -> Iterator[Remark]:
    name = f"{route.metadata.namespace}/{backend.name}"
    service = known.services.get(name)
    if service is None:
        yield from _unknown_service(f"{path}.name", name, known, _failing(route))
        return
    port = next((port for port in service.spec.ports if port.port == backend.port), None)
    if port is None:
        yield _unknown_port(f"{path}.port", service, backend.port, _failing(route))
    elif not isinstance(route, TCPRoute) and port.protocol not in _HTTP:
        yield Remark(
            f"{path}.port",
            f"port {port.port} of {name} is {port.protocol.value}, and is sent HTTP",
            "set the port's protocol to http, http2 or grpc in the Service",
        )


def _needs_http(policy: BackendPolicy) -> Iterator[tuple[str, str]]:
    if policy.spec.rate_limits:
        yield "spec.rateLimits", "write connectionRates, or set a port's protocol to http in the Service"
    if policy.spec.faults:
        yield "spec.faults", "remove them, or set a port's protocol to http in the Service"


def _beaten(number: int, service: str, owner: str) -> Remark:
    return Remark(
        f"spec.targetRefs[{number}]",
        f"the Service {service} has a BackendPolicy already, {owner}, which is older and counts",
        "write everything into one of them, and remove the other",
        grave=True,
    )


def _unknown_service(path: str, name: str, known: Known, effect: str = "") -> Iterator[Remark]:
    if name not in known.unread:
        yield Remark(path, f"there is no Service {name}{effect}", _SPELLING)


def _unknown_port(path: str, service: Service, port: int, effect: str = "") -> Remark:
    offered = ", ".join(str(each.port) for each in service.spec.ports)
    return Remark(path, f"{service.name} has no port {port}, only {offered}{effect}", _SPELLING)


def _failing(route: AnyRoute) -> str:
    if isinstance(route, TCPRoute):
        return ": its share of the connections is refused"
    return ": its share of the requests is answered with 500"


def _spoken(service: Service) -> str:
    spoken = ", ".join(sorted({port.protocol.value for port in service.spec.ports}))
    return f"{service.name} speaks only {spoken}"


def _protocol_mend(route: AnyRoute) -> str:
    match route:
        case HTTPRoute():
            return "set the port's protocol to http in the Service, or write a TCPRoute"
        case GRPCRoute():
            return "set the port's protocol to grpc in the Service"
        case TCPRoute():
            return "write an HTTPRoute or a GRPCRoute, or set the port's protocol to tcp in the Service"
