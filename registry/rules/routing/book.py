"""All routes of the mesh as one value: which hold for a Service's port and a caller. Pure.

A route of the Service's own namespace concerns every caller. One of another namespace concerns only callers
from there, and for them such routes take the place of the Service's own. Of several kinds on one port the
most specific holds: GRPCRoute, then HTTPRoute. A route leads to endpoints, never on to other routes.
Source: GEP-1294, "Namespace boundaries", "Route types" and "Multiple routes for a Service".
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.service import PortProtocol
from registry.model.tcp_route import TCPRoute
from registry.rules.routing.attachment import AnyRoute, attaches, parent_of
from registry.rules.routing.compile import Compiler
from registry.rules.routing.index import Entry
from registry.rules.routing.table import RouteTable
from registry.rules.routing.values import Backend

Services = Mapping[str, Mapping[int, PortProtocol]]
HTTPRoutes = Sequence[tuple[HTTPRoute, int]]
GRPCRoutes = Sequence[tuple[GRPCRoute, int]]
TCPRoutes = Sequence[tuple[TCPRoute, int]]


class Attached(NamedTuple):
    """A route that names a service among its parents, and when it was made."""

    route: AnyRoute
    revision: int


class RouteBook:
    """The routes of a mesh; each comes with the revision at which it was made: the older goes first.

    Tables are made when they are asked for, and kept: there is one for each port of a service, and one for
    each namespace with routes of its own for that.

    Args:
        services: what the ports of each service (``namespace/name``) speak.
    """

    def __init__(
        self,
        *,
        http_routes: HTTPRoutes = (),
        grpc_routes: GRPCRoutes = (),
        tcp_routes: TCPRoutes = (),
        services: Services,
    ) -> None:
        self._given = (http_routes, grpc_routes, tcp_routes, services)
        self._services = services
        # By service and the route's namespace.
        self._attached: defaultdict[str, dict[str, list[Attached]]] = defaultdict(dict)
        routes: list[tuple[AnyRoute, int]] = [*http_routes, *grpc_routes, *tcp_routes]
        for route, revision in routes:
            for service in {parent_of(route, parent) for parent in route.spec.parent_refs}:
                by_namespace = self._attached[service]
                by_namespace.setdefault(route.metadata.namespace, []).append(Attached(route, revision))
        self._tables: dict[tuple[str, int, str], RouteTable | None] = {}
        self._backends: dict[tuple[str, int, str], tuple[Backend, ...]] = {}

    @classmethod
    def renew(
        cls,
        former: "RouteBook | None",
        *,
        http_routes: HTTPRoutes = (),
        grpc_routes: GRPCRoutes = (),
        tcp_routes: TCPRoutes = (),
        services: Services,
    ) -> "RouteBook":
        """Give `former`, with the tables it has made, if it is about the same; or else a new book."""
        if former is not None and former.is_about(
            http_routes=http_routes, grpc_routes=grpc_routes, tcp_routes=tcp_routes, services=services
        ):
            return former
        return cls(http_routes=http_routes, grpc_routes=grpc_routes, tcp_routes=tcp_routes, services=services)

    def is_about(
        self,
        *,
        http_routes: HTTPRoutes,
        grpc_routes: GRPCRoutes,
        tcp_routes: TCPRoutes,
        services: Services,
    ) -> bool:
        """Whether it was made of these routes and ports."""
        return self._given == (http_routes, grpc_routes, tcp_routes, services)

    def table(self, service: str, port: int, caller_namespace: str | None) -> RouteTable | None:
        """Give the rules for requests to a port; None when no route is attached: they go to the port itself.

        Args:
            service: ``namespace/name``.
            port: of the service.
            caller_namespace: of the caller's identity; None if it has none.
        """
        attached = self._attached.get(service)
        if attached is None:
            return None
        namespace = _decisive(attached, service, caller_namespace)
        key = (service, port, namespace)
        if key not in self._tables:
            self._tables[key] = self._make(*key)
        table = self._tables[key]
        if table is None and namespace != (own := _namespace(service)):
            # The caller's namespace has routes for other ports only.
            return self.table(service, port, own)
        return table

    def tcp(self, service: str, port: int, caller_namespace: str | None) -> Sequence[Backend]:
        """Give where connections to a port go; empty when no route is attached: to the port itself.

        Of several routes the oldest holds. Their weights may all be 0: then the connection is refused.
        """
        attached = self._attached.get(service)
        if attached is None:
            return ()
        namespace = _decisive(attached, service, caller_namespace)
        key = (service, port, namespace)
        if key not in self._backends:
            self._backends[key] = self._make_tcp(*key)
        backends = self._backends[key]
        if not backends and namespace != (own := _namespace(service)):
            return self.tcp(service, port, own)
        return backends

    def attached(self, service: str) -> Mapping[str, Sequence[Attached]]:
        """Give by namespace the routes that name a service as their parent, whether or not they hold."""
        return self._attached.get(service, {})

    def ports(self, service: str) -> Mapping[int, PortProtocol]:
        """Give what a service's ports speak; none of a service that is not known."""
        return self._services.get(service, {})

    def _make(self, service: str, port: int, namespace: str) -> RouteTable | None:
        compiler = self._compiler(port)
        http: list[Entry] = []
        grpc: list[Entry] = []
        for route, revision in self._on_port(service, port, namespace):
            match route:
                case HTTPRoute():
                    http += compiler.http(route, revision)
                case GRPCRoute():
                    grpc += compiler.grpc(route, revision)
                case TCPRoute():
                    pass
        entries = grpc or http
        return RouteTable(entries) if entries else None

    def _make_tcp(self, service: str, port: int, namespace: str) -> tuple[Backend, ...]:
        routes = [
            (revision, route.name, route)
            for route, revision in self._on_port(service, port, namespace)
            if isinstance(route, TCPRoute)
        ]
        if not routes:
            return ()
        _, _, oldest = min(routes, key=lambda each: each[:2])
        return self._compiler(port).tcp(oldest)

    def _on_port(self, service: str, port: int, namespace: str) -> list[Attached]:
        protocol = self.ports(service).get(port)
        if protocol is None:
            return []
        return [
            each
            for each in self._attached[service].get(namespace, ())
            if attaches(each.route, service, port, protocol, each.route.spec.parent_refs)
        ]

    def _compiler(self, port: int) -> Compiler:
        return Compiler(port=port, is_known=lambda service, number: number in self.ports(service))


def _namespace(service: str) -> str:
    return service.partition("/")[0]


def _decisive(attached: Mapping[str, object], service: str, caller_namespace: str | None) -> str:
    """Give the namespace whose routes decide for a caller; few have any, so that few tables are made."""
    if caller_namespace is not None and caller_namespace in attached:
        return caller_namespace
    return _namespace(service)
