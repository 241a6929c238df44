"""Where requests go, with what the control plane knows of routes, policies and endpoints. Pure."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from registry.api.authz_view import MeshView
from registry.api.route_words import words_of_backend, words_of_rule
from registry.api.routes_answers import BackendAnswer, MatchAnswer, MissAnswer, RouteExplainAnswer
from registry.api.routes_remarks import remarks_on
from registry.api.service_view import EndpointAnswer, obstacles
from registry.model.backend_policy import BackendPolicy, BackendPolicySpec
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.identity import Identity, InvalidIdentity, WorkloadIdentity
from registry.model.resource import Resource
from registry.model.service import Service, ServicePort
from registry.model.tcp_route import TCPRoute
from registry.rules.fitting import attach
from registry.rules.paths import forwardable
from registry.rules.routing import (
    Backend,
    Fields,
    HttpCall,
    MatchVerdict,
    RouteBook,
    RouteMatch,
    answer_preflight,
    explain_route,
    is_preflight,
    location,
    may_attach,
    rewrite,
)
from registry.store import keys

R = TypeVar("R", bound=Resource)

# A candidate that is not stored yet would be younger than all that is.
_YOUNGEST = 1 << 62
_NO_POLICY = BackendPolicySpec(target_refs=())


class Guide:
    """Answers questions about requests to one port of a service.

    Args:
        view: the mesh.
        revision: of the store.
        service: what is called.
        port: where.
    """

    def __init__(self, view: MeshView, *, revision: int, service: Service, port: ServicePort) -> None:
        self._view = view
        self._revision = revision
        self._service = service
        self._port = port
        self._created = {item.key: item.created for item in view.items}
        self._services = {each.name: each for each in view.stored(Service)}
        self._book = RouteBook(
            http_routes=self._dated(HTTPRoute),
            grpc_routes=self._dated(GRPCRoute),
            tcp_routes=self._dated(TCPRoute),
            services={
                name: {each.port: each.protocol for each in found.spec.ports}
                for name, found in self._services.items()
            },
        )
        policies = attach(self._dated(BackendPolicy)).policies
        self._policies: Mapping[str, BackendPolicy] = {
            service: policy for policy in policies for service in policy.targets
        }

    def explain(
        self, source: Identity | None, *, method: str, host: str, path: str, headers: Mapping[str, str]
    ) -> RouteExplainAnswer:
        """Say where a request goes, and why."""
        namespace = source.namespace if isinstance(source, WorkloadIdentity) else None
        name, number = self._service.name, self._port.port
        remarks = tuple(remarks_on(self._view, self._book, name, self._port, namespace))
        table = self._book.table(name, number, namespace)
        if table is None:
            backends, because = self._without_rules(namespace)
            return self._answer(
                source, remarks, because=because, authority=host, target=forwardable(path), backends=backends
            )
        explanation = explain_route(
            table, HttpCall(method=method, host=host, path=path, headers=dict(headers))
        )
        matches = tuple(map(_describe, explanation.verdicts))
        if explanation.found is None:
            return self._answer(
                source, remarks, status=404, because="routes are attached, and none matches", matches=matches
            )
        fields = [(key.encode(), value.encode()) for key, value in headers.items()]
        return self._by_rule(
            source, remarks, matches, explanation.found, (method, host, forwardable(path), fields)
        )

    def _by_rule(
        self,
        source: Identity | None,
        remarks: tuple[str, ...],
        matches: tuple[MatchAnswer, ...],
        found: RouteMatch,
        request: tuple[str, str, str, Fields],
    ) -> RouteExplainAnswer:
        rule = found.rule
        method, host, target, fields = request
        where = f"rule {rule.number} of the {rule.kind} {rule.route}"
        does = tuple(words_of_rule(rule))
        if rule.cors is not None and is_preflight(method.encode(), fields):
            let = any(
                name == b"access-control-allow-origin" for name, _ in answer_preflight(rule.cors, fields)
            )
            because = f"{where} answers the preflight request, and {'lets' if let else 'does not let'} it be"
            return self._answer(source, remarks, status=204, because=because, does=does, matches=matches)
        if rule.redirect is not None:
            place = location(
                found, rule.redirect, scheme=b"http", authority=host.encode(), target=target.encode()
            ).decode()
            return self._answer(
                source,
                remarks,
                status=rule.redirect.status,
                because=f"{where} redirects to {place}",
                location=place,
                does=does,
                matches=matches,
            )
        backends = self._backends(rule.backends)
        change = rule.rewrite
        if len(rule.backends) == 1:
            change = rule.backends[0].rewrite or change
        if change is not None:
            authority, path = rewrite(host.encode(), target.encode(), found, change)
            host, target = authority.decode(), path.decode()
        lost = not any(each.known and each.share for each in backends)
        return self._answer(
            source,
            remarks,
            status=500 if lost else 0,
            because=f"{where} leads nowhere" if lost else f"{where} matches",
            authority=host,
            target=target,
            does=does,
            backends=backends,
            matches=matches,
        )

    def _answer(
        self,
        source: Identity | None,
        remarks: tuple[str, ...],
        *,
        because: str,
        status: int = 0,
        authority: str = "",
        target: str = "",
        location: str = "",
        does: tuple[str, ...] = (),
        backends: tuple[BackendAnswer, ...] = (),
        matches: tuple[MatchAnswer, ...] = (),
    ) -> RouteExplainAnswer:
        return RouteExplainAnswer(
            revision=self._revision,
            source=str(source) if source else "",
            service=self._service.name,
            port=self._port.port,
            protocol=self._port.protocol.value,
            status=status,
            because=because,
            authority=authority,
            target=target,
            location=location,
            does=does,
            backends=backends,
            matches=matches,
            remarks=remarks,
        )

    def _without_rules(self, namespace: str | None) -> tuple[tuple[BackendAnswer, ...], str]:
        """Give where all goes that no HTTP rule is asked about."""
        name, number = self._service.name, self._port.port
        tcp = self._book.tcp(name, number, namespace)
        if tcp and not may_attach(HTTPRoute.KIND, self._port.protocol):
            return self._backends(tuple(tcp)), "a TCPRoute is attached: connections are shared out by weight"
        return self._backends((Backend(name, number),)), "no route is attached, so that it leads to itself"

    def _backends(self, backends: tuple[Backend, ...]) -> tuple[BackendAnswer, ...]:
        total = sum(backend.weight for backend in backends)
        return tuple(self._backend(backend, backend.weight / total if total else 0.0) for backend in backends)

    def _backend(self, backend: Backend, share: float) -> BackendAnswer:
        policy = self._policies.get(backend.service)
        spec = policy.spec if policy is not None else _NO_POLICY
        return BackendAnswer(
            service=backend.service,
            port=backend.port,
            weight=backend.weight,
            share=share,
            known=backend.known,
            balancing=spec.load_balancing.policy.value,
            policy=policy.name if policy is not None else "",
            does=tuple(words_of_backend(backend)),
            endpoints=tuple(self._endpoints(backend)),
        )

    def _endpoints(self, backend: Backend) -> Iterator[EndpointAnswer]:
        service = self._services.get(backend.service)
        port = (
            next((each for each in service.spec.ports if each.port == backend.port), None)
            if service
            else None
        )
        if service is None or port is None:
            return
        try:
            identities = tuple(sorted(map(str, service.identities(self._view.trust_domain))))
        except InvalidIdentity:
            # Such a service is rejected; nobody may serve it.
            identities = ()
        for node in self._view.fleet.values():
            for workload in node.workloads:
                if service.selects(workload.metadata.namespace, workload.metadata.labels):
                    why = "; ".join(obstacles(node, workload, port.target, identities))
                    yield EndpointAnswer(
                        node=node.name,
                        workload=workload.name,
                        address=node.record.address if node.record else "",
                        port=port.target,
                        identity=workload.spec.identity,
                        health=workload.spec.health.value,
                        usable=not why,
                        why=why,
                    )

    def _dated(self, kind: type[R]) -> tuple[tuple[R, int], ...]:
        return tuple(
            (each, self._created.get(keys.render(keys.key_of(each)), _YOUNGEST))
            for each in self._view.stored(kind)
        )


def _describe(said: MatchVerdict) -> MatchAnswer:
    return MatchAnswer(
        kind=said.rule.kind,
        route=said.rule.route,
        rule=said.rule.number,
        name=said.rule.name,
        match=said.number,
        matched=said.matched,
        chosen=said.chosen,
        because=said.because,
        misses=tuple(
            MissAnswer(field=each.field, wanted=each.wanted, found=each.found) for each in said.misses
        ),
    )
