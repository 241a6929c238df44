"""What else matters to where a request goes: routes that do not hold, edits that nodes do not take. Pure."""

from collections.abc import Iterator
from itertools import islice

from registry.api.authz_view import MeshView
from registry.model.backend_policy import BackendPolicy
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.resource import Resource
from registry.model.service import PortProtocol, ServicePort
from registry.model.tcp_route import TCPRoute
from registry.rules.routing import RouteBook
from registry.rules.routing.attachment import AnyRoute, attaches
from registry.store import keys

# Nodes may claim to reject what they like; nobody reads more.
_MAX_REJECTED = 20
_KINDS: tuple[type[Resource], ...] = (HTTPRoute, GRPCRoute, TCPRoute, BackendPolicy)


def remarks_on(
    view: MeshView, book: RouteBook, service: str, port: ServicePort, namespace: str | None
) -> Iterator[str]:
    """Say what else may matter.

    Args:
        view: the mesh.
        book: its routes.
        service: what is called, ``namespace/name``.
        port: where.
        namespace: of the caller's identity; None if it has none.
    """
    if port.protocol is PortProtocol.AUTO:
        yield "the first bytes of each connection decide: what is no HTTP goes by TCPRoutes"
    elif not port.protocol.http:
        yield f"port {port.port} is {port.protocol.value}: its requests are not read"
    yield from _passed_over(book, service, port, namespace)
    yield from islice(_rejected(view), _MAX_REJECTED)


def _passed_over(book: RouteBook, service: str, port: ServicePort, namespace: str | None) -> Iterator[str]:
    """Name the routes that are about the service, and yet do not hold here."""

    def holds(route: AnyRoute) -> bool:
        return attaches(route, service, port.port, port.protocol, route.spec.parent_refs)

    own = service.partition("/")[0]
    attached = book.attached(service)
    theirs = attached.get(namespace, ()) if namespace is not None else ()
    decisive = namespace if any(holds(each.route) for each in theirs) else own
    grpc = any(
        isinstance(each.route, GRPCRoute) and holds(each.route) for each in attached.get(decisive or own, ())
    )
    for where, routes in attached.items():
        for route, _ in routes:
            name = f"the {route.KIND} {route.name}"
            if where not in (own, namespace):
                yield f"{name} is for callers of namespace {where} alone"
            elif not holds(route):
                yield f"{name} is attached to other ports, or does not fit this one"
            elif where != decisive:
                yield f"{name} gives way to the routes of namespace {decisive}"
            elif grpc and isinstance(route, HTTPRoute):
                yield f"{name} gives way to the GRPCRoutes that are attached here"


def _rejected(view: MeshView) -> Iterator[str]:
    """Name edits of routes and policies that are not in force, and what is instead."""
    readable = {keys.render(keys.key_of(each)) for kind in _KINDS for each in view.stored(kind)}
    folders = tuple(f"{kind.PLURAL}/" for kind in _KINDS)
    for item in view.items:
        if item.key.startswith(folders) and item.key not in readable:
            yield f"{item.key}: does not parse, and is left out here"
    for node in view.fleet.values():
        for rejection in node.status.rejected if node.status is not None else ():
            if rejection.key.startswith(folders):
                held = rejection.last_good_revision
                instead = "nothing of it" if held is None else f"its revision {held}"
                yield f"{rejection.key}: node {node.name} rejects it, and has {instead} in force"
