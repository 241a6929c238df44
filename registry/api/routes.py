"""Questions about routes, answered by the rules that the proxies run."""

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.authz_view import MeshView
from registry.api.bodies import answer, decode, read_body
from registry.api.fleet import FleetReader
from registry.api.mesh_reading import MeshReader, candidates_asked, source_asked
from registry.api.routes_answers import ExplainAsked
from registry.api.routes_view import Guide
from registry.errors import InvalidResource, NotFound
from registry.model.identity import LABEL
from registry.model.service import Service, ServicePort
from registry.store.base import Store

_DESTINATION: Final = re.compile(r"(?P<namespace>[^/:]+)/(?P<name>[^/:]+)(:(?P<port>[1-9][0-9]{0,4}))?\Z")


class RouteHandlers:
    """``/v1/routes``."""

    def __init__(
        self, *, store: Store, administrators: Administrators, fleet: FleetReader, trust_domain: str
    ) -> None:
        self._mesh = MeshReader(store=store, fleet=fleet, trust_domain=trust_domain)
        self._administrators = administrators
        self._trust_domain = trust_domain

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        only = self._administrators.only
        return [Route("/v1/routes/explain", only(self.explain, reads=True), methods=["POST"])]

    async def explain(self, request: Request, _administrator: str) -> Response:
        """Say by which rule a request goes, to which backend and endpoints, and why not by any other."""
        asked = decode(await read_body(request), ExplainAsked)
        source = source_asked(asked.from_, self._trust_domain)
        candidates = candidates_asked(asked.candidates, self._trust_domain)
        if not asked.path.isascii() or not (asked.path.startswith("/") or asked.path == "*"):
            raise InvalidResource(
                where="request body",
                path="path",
                reason=f"{asked.path!r} is no path of a request",
                mend="begin it with /, and escape what is not ASCII",
            )
        revision, view = await self._mesh.read(candidates)
        service, port = _destination(view, asked.to)
        guide = Guide(view, revision=revision, service=service, port=port)
        return answer(
            guide.explain(
                source,
                method=asked.method,
                host=asked.host or service.metadata.name,
                path=asked.path,
                headers={name.lower(): value for name, value in asked.headers.items()},
            )
        )


def _destination(view: MeshView, text: str) -> tuple[Service, ServicePort]:
    """Find the service and the port that are called.

    Raises:
        InvalidResource: the text is no destination, or does not say which port.
        NotFound: there is no such service, or it has no such port.
    """
    match = _DESTINATION.match(text)
    if match is None or not (LABEL.match(match["namespace"]) and LABEL.match(match["name"])):
        raise _no_destination(f"{text!r} is no destination")
    service = view.service(match["namespace"], match["name"])
    if service is None:
        raise NotFound(f"there is no service {match['namespace']}/{match['name']} that parses")
    ports = service.spec.ports
    offered = ", ".join(str(each.port) for each in ports)
    if match["port"] is None:
        if len(ports) != 1:
            raise _no_destination(f"{service.name} has several ports: {offered}")
        return service, ports[0]
    for port in ports:
        if port.port == int(match["port"]):
            return service, port
    raise NotFound(f"{service.name} has no port {match['port']}; it has {offered or 'none'}")


def _no_destination(reason: str) -> InvalidResource:
    return InvalidResource(
        where="request body", path="to", reason=reason, mend="write namespace/name:port of a service"
    )
