"""Routes made ready: rules with names resolved, and one entry for each of their matches. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from registry.model.duration import seconds
from registry.model.gateway import BackendReference, Header, HeaderModifier, RequestMirror
from registry.model.grpc_route import (
    GRPCBackendRef,
    GRPCRoute,
    GRPCRouteFilter,
    GRPCRouteRule,
)
from registry.model.http_route import (
    HTTPBackendRef,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteRule,
    PathModifier,
    RequestRedirect,
    Retry,
    Timeouts,
    UrlRewrite,
)
from registry.model.tcp_route import TCPRoute
from registry.rules.paths import kept_escapes
from registry.rules.routing.cors import compile_cors
from registry.rules.routing.index import Entry
from registry.rules.routing.matching import PathKind, PathTest, Tests, compile_grpc_match, compile_match
from registry.rules.routing.values import (
    NO_LIMIT,
    Backend,
    Cors,
    HeaderChange,
    Mirror,
    PathChange,
    Redirect,
    Rewrite,
    RouteMatch,
    RouteRetry,
    RouteTimeouts,
    RoutingRule,
)

# What a message's framing and its way hang on is written by the proxies alone. The parser refuses routes that
# change one of these; here it is made sure, since a second content-length would be a smuggled request.
_OURS: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

IsKnown = Callable[[str, int], bool]


class Compiler:
    """Compiles routes for one port of a service.

    Args:
        port: the service's, which redirects name.
        is_known: whether the mesh has a port of a service.
    """

    def __init__(self, *, port: int, is_known: IsKnown) -> None:
        self._port = port
        self._is_known = is_known

    def http(self, route: HTTPRoute, revision: int) -> list[Entry]:
        """Give the entries of an HTTPRoute that was made at `revision`."""
        entries = []
        for number, rule in enumerate(route.spec.rules):
            compiled = self._http_rule(route, number, rule)
            field = f"spec.rules[{number}]"
            tests = [compile_match(match, f"{field}.matches[{i}]") for i, match in enumerate(rule.matches)]
            entries += _entries(compiled, tests, field, route.spec.hostnames, revision)
        return entries

    def grpc(self, route: GRPCRoute, revision: int) -> list[Entry]:
        """Give the entries of a GRPCRoute that was made at `revision`."""
        entries = []
        for number, rule in enumerate(route.spec.rules):
            compiled = self._grpc_rule(route, number, rule)
            field = f"spec.rules[{number}]"
            tests = [
                compile_grpc_match(match, f"{field}.matches[{i}]") for i, match in enumerate(rule.matches)
            ]
            entries += _entries(compiled, tests, field, route.spec.hostnames, revision)
        return entries

    def tcp(self, route: TCPRoute) -> tuple[Backend, ...]:
        """Give the backends of a TCPRoute."""
        return tuple(
            self._backend(ref, route.metadata.namespace, weight=ref.weight)
            for rule in route.spec.rules
            for ref in rule.backend_refs
        )

    def _http_rule(self, route: HTTPRoute, number: int, rule: HTTPRouteRule) -> RoutingRule:
        namespace = route.metadata.namespace
        backends = tuple(self._http_backend(ref, namespace) for ref in rule.backend_refs)
        filters = rule.filters
        return RoutingRule(
            kind=route.KIND,
            route=route.name,
            number=number,
            name=rule.name or "",
            backends=backends,
            total=sum(backend.weight for backend in backends),
            request_headers=_request_headers(filters),
            response_headers=_response_headers(filters),
            mirrors=self._mirrors(filters, namespace),
            redirect=self._redirect(filters),
            rewrite=_rewrite(filters),
            cors=_cors(filters),
            timeouts=_timeouts(rule.timeouts),
            retry=_retry(rule.retry),
        )

    def _grpc_rule(self, route: GRPCRoute, number: int, rule: GRPCRouteRule) -> RoutingRule:
        namespace = route.metadata.namespace
        backends = tuple(self._grpc_backend(ref, namespace) for ref in rule.backend_refs)
        return RoutingRule(
            kind=route.KIND,
            route=route.name,
            number=number,
            name=rule.name or "",
            backends=backends,
            total=sum(backend.weight for backend in backends),
            request_headers=_request_headers(rule.filters),
            response_headers=_response_headers(rule.filters),
            mirrors=self._mirrors(rule.filters, namespace),
        )

    def _http_backend(self, ref: HTTPBackendRef, namespace: str) -> Backend:
        return self._backend(
            ref, namespace, weight=ref.weight, filters=ref.filters, rewrite=_rewrite(ref.filters)
        )

    def _grpc_backend(self, ref: GRPCBackendRef, namespace: str) -> Backend:
        return self._backend(ref, namespace, weight=ref.weight, filters=ref.filters)

    def _backend(
        self,
        ref: BackendReference,
        namespace: str,
        *,
        weight: int = 1,
        filters: Sequence[HTTPRouteFilter] | Sequence[GRPCRouteFilter] = (),
        rewrite: Rewrite | None = None,
    ) -> Backend:
        service = f"{ref.namespace or namespace}/{ref.name}"
        return Backend(
            service,
            ref.port,
            weight=weight,
            known=self._is_known(service, ref.port),
            request_headers=_request_headers(filters),
            response_headers=_response_headers(filters),
            mirrors=self._mirrors(filters, namespace),
            rewrite=rewrite,
        )

    def _mirrors(
        self, filters: Sequence[HTTPRouteFilter] | Sequence[GRPCRouteFilter], namespace: str
    ) -> tuple[Mirror, ...]:
        found = [
            Mirror(self._backend(each.request_mirror.backend_ref, namespace), _share(each.request_mirror))
            for each in filters
            if each.request_mirror is not None
        ]
        # As Gateway API has it: what cannot be found is mirrored to nobody, and the requests go on.
        return tuple(mirror for mirror in found if mirror.backend.known and mirror.share > 0)

    def _redirect(self, filters: Iterable[HTTPRouteFilter]) -> Redirect | None:
        said = next((each.request_redirect for each in filters if each.request_redirect is not None), None)
        return None if said is None else _redirect(said, self._port)


def _entries(
    rule: RoutingRule, tests: Sequence[Tests], field: str, hostnames: tuple[str, ...], revision: int
) -> list[Entry]:
    everything = Tests(PathTest(PathKind.ANY, "", field), None, (), (), field)
    return [
        Entry(each, RouteMatch(rule, number, _prefix(each.path)), hostnames, revision)
        for number, each in enumerate(tests or (everything,))
    ]


def _prefix(path: PathTest) -> str | None:
    return path.value if path.kind in (PathKind.PREFIX, PathKind.ANY) else None


def _request_headers(
    filters: Sequence[HTTPRouteFilter] | Sequence[GRPCRouteFilter],
) -> tuple[HeaderChange, ...]:
    return tuple(
        _header_change(each.request_header_modifier)
        for each in filters
        if each.request_header_modifier is not None
    )


def _response_headers(
    filters: Sequence[HTTPRouteFilter] | Sequence[GRPCRouteFilter],
) -> tuple[HeaderChange, ...]:
    return tuple(
        _header_change(each.response_header_modifier)
        for each in filters
        if each.response_header_modifier is not None
    )


def _header_change(modifier: HeaderModifier) -> HeaderChange:
    return HeaderChange(
        set=_fields(modifier.set),
        add=_fields(modifier.add),
        remove=frozenset(name.lower().encode("latin-1") for name in modifier.remove if not _is_ours(name)),
    )


def _fields(headers: Iterable[Header]) -> tuple[tuple[bytes, bytes], ...]:
    # Of several entries about one header the first counts.
    fields: dict[str, str] = {}
    for header in headers:
        if not _is_ours(header.name):
            fields.setdefault(header.name.lower(), header.value)
    return tuple((name.encode("latin-1"), value.encode("utf-8")) for name, value in fields.items())


def _is_ours(name: str) -> bool:
    lower = name.lower()
    return lower in _OURS or lower.startswith("nodemesh-")


def _share(mirror: RequestMirror) -> float:
    if mirror.fraction is not None:
        return min(1.0, mirror.fraction.numerator / mirror.fraction.denominator)
    return 1.0 if mirror.percent is None else mirror.percent / 100


def _redirect(said: RequestRedirect, listener: int) -> Redirect:
    return Redirect(
        status=said.status_code,
        listener=listener,
        scheme=said.scheme.value if said.scheme is not None else None,
        hostname=said.hostname,
        port=said.port,
        path=_path_change(said.path),
    )


def _rewrite(filters: Iterable[HTTPRouteFilter]) -> Rewrite | None:
    said: UrlRewrite | None = next(
        (each.url_rewrite for each in filters if each.url_rewrite is not None), None
    )
    if said is None:
        return None
    return Rewrite(
        hostname=said.hostname.encode("ascii") if said.hostname is not None else None,
        path=_path_change(said.path),
    )


def _path_change(modifier: PathModifier | None) -> PathChange | None:
    if modifier is None:
        return None
    if modifier.replace_full_path is not None:
        return PathChange(kept_escapes(modifier.replace_full_path), prefix=False)
    return PathChange(kept_escapes(modifier.replace_prefix_match or ""), prefix=True)


def _cors(filters: Iterable[HTTPRouteFilter]) -> Cors | None:
    said = next((each.cors for each in filters if each.cors is not None), None)
    return None if said is None else compile_cors(said)


def _timeouts(said: Timeouts | None) -> RouteTimeouts:
    if said is None:
        return RouteTimeouts()
    return RouteTimeouts(_limit(said.request), _limit(said.backend_request))


def _limit(duration: str | None) -> float | None:
    return None if duration is None else seconds(duration) or NO_LIMIT


def _retry(said: Retry | None) -> RouteRetry | None:
    if said is None:
        return None
    return RouteRetry(
        codes=frozenset(said.codes),
        attempts=said.attempts,
        backoff=None if said.backoff is None else seconds(said.backoff),
    )
