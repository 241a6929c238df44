"""Questions about authorization, answered by the rules that the proxies run: check, explain, diff, lint."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.authz_answers import (
    CandidatesAsked,
    CheckAnswer,
    CheckAsked,
    ExplainAnswer,
    ExplainedAnswer,
    VerdictAnswer,
    describe,
    verdict,
)
from registry.api.authz_diff import compare
from registry.api.authz_lint import LintAnswer, look
from registry.api.authz_view import MeshView, Recorded, Target, recorded_request
from registry.api.bodies import answer, decode, read_body
from registry.api.fleet import FleetReader
from registry.api.mesh_reading import MeshReader, candidates_asked, source_asked
from registry.api.service_view import obstacles
from registry.errors import InvalidResource, NotFound
from registry.model.identity import LABEL
from registry.model.service import Service
from registry.model.workload import Workload
from registry.rules import AuthRequest, HttpRequest
from registry.rules.layer7 import READ_PROTOCOLS
from registry.store.base import Store

_DESTINATION = re.compile(r"(?P<namespace>[^/:]+)/(?P<name>[^/:]+):(?P<port>[1-9][0-9]{0,4})\Z")


class AuthorizationHandlers:
    """``/v1/authz``."""

    def __init__(
        self, *, store: Store, administrators: Administrators, fleet: FleetReader, trust_domain: str
    ) -> None:
        self._mesh = MeshReader(store=store, fleet=fleet, trust_domain=trust_domain)
        self._administrators = administrators
        self._trust_domain = trust_domain

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        only = self._administrators.only
        return [
            Route("/v1/authz/check", only(self.check, reads=True), methods=["POST"]),
            Route("/v1/authz/explain/{decision}", only(self.explain), methods=["GET"]),
            Route("/v1/authz/diff", only(self.diff, reads=True), methods=["POST"]),
            Route("/v1/authz/lint", only(self.lint, reads=True), methods=["POST"]),
        ]

    async def check(self, request: Request, _administrator: str) -> Response:
        """Say whether a caller may reach each workload behind a service, or a workload, and why."""
        asked = decode(await read_body(request), CheckAsked)
        source = source_asked(asked.from_, self._trust_domain)
        source_ip = _address(asked.source_ip)
        candidates = candidates_asked(asked.candidates, self._trust_domain)
        revision, view = await self._mesh.read(candidates)
        service, targets = _destination(view, asked.to)
        http = _http(asked)
        return answer(
            CheckAnswer(
                revision=revision,
                source=str(source) if source else "",
                service=service.name if service else "",
                workloads=tuple(
                    _ask(view, target, target.request(source, source_ip=source_ip), http, service)
                    for target in targets
                ),
            )
        )

    async def explain(self, request: Request, _administrator: str) -> Response:
        """Show a recorded decision and what the present policies say to the same call."""
        wanted = request.path_params["decision"]
        revision, view = await self._mesh.read(())
        found = [each for each in view.decisions() if wanted in each.record.ids]
        if not found:
            raise NotFound(
                f"no node remembers a decision {wanted!r}; they keep the latest of each kind, and "
                "tell within seconds. The proxies' logs have them all: `authz check` takes what stands there"
            )
        # A node may write what it likes of itself: what another says of the same id is not hidden by it.
        items = tuple(_explained(view, each) for each in found)
        return answer(ExplainAnswer(revision=revision, items=items))

    async def diff(self, request: Request, _administrator: str) -> Response:
        """Say which of the recorded calls would be answered otherwise if the candidates were stored."""
        asked = decode(await read_body(request), CandidatesAsked)
        candidates = candidates_asked(asked.candidates, self._trust_domain)
        if not candidates:
            raise InvalidResource(where="request body", path="candidates", reason="holds no resource")
        revision, view = await self._mesh.read(())
        return answer(compare(view, view.changed_by(candidates), revision=revision))

    async def lint(self, request: Request, _administrator: str) -> Response:
        """Say what is most likely not meant in the policies, or in those that candidates bring about."""
        asked = decode(await read_body(request), CandidatesAsked)
        candidates = candidates_asked(asked.candidates, self._trust_domain)
        revision, view = await self._mesh.read(())
        return answer(LintAnswer(revision=revision, findings=look(view, candidates)))


def _address(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise InvalidResource(
            where="request body", path="sourceIp", reason=str(error), mend="write an IP address"
        ) from error


def _http(asked: CheckAsked) -> HttpRequest | None:
    if asked.method is None and asked.path is None and asked.host is None and not asked.headers:
        return None
    return HttpRequest(
        method=asked.method or "GET",
        path=asked.path or "/",
        host=asked.host or asked.to.partition(":")[0].partition("/")[2],
        headers={name.lower(): value for name, value in asked.headers.items()},
    )


def _destination(view: MeshView, text: str) -> tuple[Service | None, list[Target]]:
    """Find what is called: a service's port, or the port of the workloads of a name.

    Gives the service if it is one, and the workloads behind it.

    Raises:
        InvalidResource: the text is no destination.
        NotFound: nothing has that name and port; says which ports there are.
    """
    match = _DESTINATION.match(text)
    if match is None or not (LABEL.match(match["namespace"]) and LABEL.match(match["name"])):
        raise InvalidResource(
            where="request body",
            path="to",
            reason=f"{text!r} is no destination",
            mend="write namespace/name:port of a service or a workload",
        )
    name, port = f"{match['namespace']}/{match['name']}", int(match["port"])
    service = view.service(match["namespace"], match["name"])
    for each in service.spec.ports if service is not None else ():
        if service is not None and each.port == port:
            return service, list(view.targets(_selected_by(service), each.target))
    targets = list(view.targets(lambda each: each.name == name and port in each.spec.ports, port))
    if not targets:
        raise NotFound(f"nothing called {name} has port {port}; {_ports(view, service, name)}")
    return None, targets


def _selected_by(service: Service) -> Callable[[Workload], bool]:
    return lambda each: service.selects(each.metadata.namespace, each.metadata.labels)


def _ports(view: MeshView, service: Service | None, name: str) -> str:
    """Say which ports a name does have."""
    of_service = sorted(each.port for each in service.spec.ports) if service is not None else []
    of_workloads = sorted(
        {
            port
            for node in view.fleet.values()
            for workload in node.workloads
            if workload.name == name
            for port in workload.spec.ports
        }
    )
    said = [
        f"the {kind} of that name has {', '.join(map(str, ports))}"
        for kind, ports in (("service", of_service), ("workload", of_workloads))
        if ports
    ]
    return "; ".join(said) or "there is no service and no registered workload of that name"


def _ask(
    view: MeshView, target: Target, request: AuthRequest, http: HttpRequest | None, service: Service | None
) -> VerdictAnswer:
    remarks = list(_doubts(view, service, target))
    spoken = view.protocol(target)
    if http is not None:
        if spoken in READ_PROTOCOLS:
            request = replace(request, http=http)
        else:
            remarks.append(
                f"port {target.port} is {spoken.value}, whose requests the proxies do not read: "
                "method, path, host and headers decide nothing"
            )
    elif spoken.http:
        request = replace(request, opening=True)
        remarks.append(
            f"port {target.port} is {spoken.value}: this is whether a connection may be opened; each request "
            "in it is decided upon by itself"
        )
    return verdict(view, target, request, remarks=tuple(remarks))


def _doubts(view: MeshView, service: Service | None, target: Target) -> Iterator[str]:
    """Say why the workload may not be reached, whatever the policies say."""
    if service is not None:
        identities = tuple(sorted(str(each) for each in service.identities(view.trust_domain)))
        yield from obstacles(target.node, target.workload, target.port, identities)
    elif not target.node.may_hold(target.workload.spec.identity):
        yield f"node {target.node.name} is not enrolled for its identity"


def _explained(view: MeshView, recorded: Recorded) -> ExplainedAnswer:
    now, why_not = _replay(view, recorded)
    return ExplainedAnswer(
        decision=describe(recorded),
        now=now,
        differs=now is not None and now.outcome != recorded.record.outcome.value,
        why_not=why_not,
    )


def _replay(view: MeshView, recorded: Recorded) -> tuple[VerdictAnswer | None, str]:
    """Ask again what was decided; gives the answer, or why there is none."""
    record = recorded.record
    if not record.destination:
        return None, f"no workload of {recorded.node} had what was asked for, so that no policy was asked"
    target = view.target(recorded.node, record.destination, record.port)
    if target is None:
        return None, f"{record.destination} is not registered at {recorded.node} with port {record.port} now"
    remarks = () if record.request is None else ("it is asked without a header, which is not recorded",)
    return verdict(view, target, recorded_request(record), remarks=remarks), ""
