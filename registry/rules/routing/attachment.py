"""What routes attach to, and for whom. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from registry.model.gateway import ParentReference
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.service import PortProtocol
from registry.model.tcp_route import TCPRoute

AnyRoute = HTTPRoute | GRPCRoute | TCPRoute

# gRPC needs HTTP/2, which a port declared `http` is not asked for.
_PROTOCOLS: Final[Mapping[str, frozenset[PortProtocol]]] = {
    HTTPRoute.KIND: frozenset({PortProtocol.HTTP, PortProtocol.HTTP2, PortProtocol.GRPC, PortProtocol.AUTO}),
    GRPCRoute.KIND: frozenset({PortProtocol.HTTP2, PortProtocol.GRPC, PortProtocol.AUTO}),
    TCPRoute.KIND: frozenset({PortProtocol.TCP, PortProtocol.TLS, PortProtocol.AUTO}),
}


def may_attach(kind: str, protocol: PortProtocol) -> bool:
    """Whether routes of a kind attach to ports that speak `protocol`."""
    return protocol in _PROTOCOLS[kind]


def parent_of(route: AnyRoute, parent: ParentReference) -> str:
    """Give the service, as ``namespace/name``, that a reference of a route is about."""
    return f"{parent.namespace or route.metadata.namespace}/{parent.name}"


def attaches(
    route: AnyRoute, service: str, port: int, protocol: PortProtocol, parents: Iterable[ParentReference]
) -> bool:
    """Whether any of a route's parents is this port of this service."""
    return may_attach(route.KIND, protocol) and any(
        parent_of(route, parent) == service and parent.port in (None, port) for parent in parents
    )
