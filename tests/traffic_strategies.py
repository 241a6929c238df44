"""Hypothesis strategies for valid specs of routes and backend policies."""

from typing import Any

from hypothesis import strategies as st

from registry.model.authorization import TargetKind, TargetRef
from registry.model.backend_policy import (
    Abort,
    BackendPolicySpec,
    BackendTimeouts,
    BalancingPolicy,
    Bandwidth,
    CircuitBreaker,
    ConnectionLimits,
    ConnectionRate,
    Delay,
    Fault,
    HashKey,
    KeyType,
    LimitKey,
    LimitKeyType,
    LimitScope,
    LoadBalancing,
    Locality,
    LocalityPreference,
    OutlierEjection,
    RateLimit,
    Retries,
    RetryBudget,
    RetryReason,
    StickySession,
)
from registry.model.gateway import (
    BackendReference,
    Fraction,
    Header,
    HeaderMatch,
    HeaderModifier,
    MatchType,
    ParentReference,
    RequestMirror,
)
from registry.model.grpc_route import (
    GRPCBackendRef,
    GRPCFilterType,
    GRPCMethodMatch,
    GRPCRouteFilter,
    GRPCRouteMatch,
    GRPCRouteRule,
    GRPCRouteSpec,
)
from registry.model.http_route import (
    Cors,
    FilterType,
    HTTPBackendRef,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
    Method,
    PathMatch,
    PathMatchType,
    PathModifier,
    PathModifierType,
    QueryParamMatch,
    RequestRedirect,
    Retry,
    Scheme,
    Timeouts,
    UrlRewrite,
)
from registry.model.tcp_route import TCPBackendRef, TCPRouteRule, TCPRouteSpec

_names = st.sampled_from(["web", "api", "v1", "v2", "a-b", "x9"])
_ports = st.integers(1, 65535)
_paths = st.sampled_from(["/", "/a", "/a/b", "/caf%C3%A9", "/v1/users;x=1", "/a/"])
_regexes = st.sampled_from([".*", "/v[0-9]+/.*", "(?i)on|off", "[a-z]{1,20}"])
_header_names = st.sampled_from(["x-team", "X-Version", "accept", "authorization"])
_values = st.sampled_from(["red", "blue and green", "Bearer x", "a,b"])
_hostnames = st.sampled_from(["api.example.com", "*.example.com", "web", "a-b.c"])
_precise = st.sampled_from(["api.example.com", "web", "a-b.c"])
_percents = st.integers(0, 100).map(float)
_counts = st.integers(1, 10**9)
_statuses = st.integers(400, 599)


def _tuples(
    elements: st.SearchStrategy[Any], *, least: int = 0, most: int = 2
) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, min_size=least, max_size=most).map(tuple)


def _named(elements: st.SearchStrategy[Any], *, most: int = 2) -> st.SearchStrategy[tuple[Any, ...]]:
    """Give values whose names differ, whatever their case."""
    return st.lists(elements, max_size=most, unique_by=lambda each: (each.name or "").lower()).map(tuple)


def _durations(least: int, most: int) -> st.SearchStrategy[str]:
    """Give durations between so many milliseconds."""

    def write(length: int) -> str:
        minutes, rest = divmod(length, 60_000)
        seconds, milliseconds = divmod(rest, 1000)
        parts = ((minutes, "m"), (seconds, "s"), (milliseconds, "ms"))
        return "".join(f"{amount}{unit}" for amount, unit in parts if amount) or "0s"

    return st.integers(least, most).map(write)


_backends = {"name": _names, "port": _ports}
_parents = st.lists(
    st.builds(
        ParentReference,
        name=_names,
        namespace=st.none() | _names,
        port=st.none() | _ports,
        group=st.sampled_from(["", "core"]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda parent: (parent.namespace, parent.name),
).map(tuple)

_modifiers = st.builds(
    HeaderModifier,
    set=_named(st.builds(Header, name=_header_names, value=_values)),
    add=_named(st.builds(Header, name=_header_names, value=_values)),
    remove=st.lists(_header_names, max_size=2, unique=True).map(tuple),
).filter(lambda modifier: modifier != HeaderModifier())
_mirrors = st.builds(
    RequestMirror,
    backend_ref=st.builds(BackendReference, **_backends),
    percent=st.none() | st.integers(0, 100),
) | st.builds(
    RequestMirror,
    backend_ref=st.builds(BackendReference, **_backends),
    fraction=st.builds(Fraction, numerator=st.integers(0, 10), denominator=st.integers(10, 100)),
)
_full_paths = st.builds(
    PathModifier, type=st.just(PathModifierType.REPLACE_FULL_PATH), replace_full_path=_paths
)
_redirects = st.builds(
    RequestRedirect,
    scheme=st.none() | st.sampled_from(Scheme),
    hostname=_precise,
    path=st.none() | _full_paths,
    port=st.none() | _ports,
    status_code=st.sampled_from([301, 302, 303, 307, 308]),
)
_rewrites = st.builds(UrlRewrite, hostname=_precise, path=st.none() | _full_paths)
_cors = st.builds(
    Cors,
    allow_origins=st.sampled_from([("*",), ("https://a.example.com", "http://*.example.org:8080")]),
    allow_credentials=st.booleans(),
    allow_methods=st.sampled_from([(), ("*",), ("GET", "PUT")]),
    allow_headers=st.sampled_from([(), ("*",), ("x-team",)]),
    expose_headers=st.sampled_from([(), ("x-team",)]),
    max_age=st.integers(1, 86400),
)
_kept: dict[FilterType, tuple[str, st.SearchStrategy[Any]]] = {
    FilterType.REQUEST_HEADER_MODIFIER: ("request_header_modifier", _modifiers),
    FilterType.RESPONSE_HEADER_MODIFIER: ("response_header_modifier", _modifiers),
    FilterType.REQUEST_MIRROR: ("request_mirror", _mirrors),
}
_of_backends = _kept | {FilterType.URL_REWRITE: ("url_rewrite", _rewrites)}
_of_rules = _of_backends | {FilterType.CORS: ("cors", _cors)}


def _filters(
    kinds: dict[FilterType, tuple[str, st.SearchStrategy[Any]]],
) -> st.SearchStrategy[tuple[Any, ...]]:
    every = [
        st.builds(HTTPRouteFilter, type=st.just(kind), **{field: values})
        for kind, (field, values) in kinds.items()
    ]
    return st.lists(st.one_of(*every), max_size=3, unique_by=lambda each: each.type).map(tuple)


_grpc_filters = st.lists(
    st.one_of(
        *(
            st.builds(GRPCRouteFilter, type=st.just(GRPCFilterType(kind.value)), **{field: values})
            for kind, (field, values) in _kept.items()
        )
    ),
    max_size=2,
    unique_by=lambda each: each.type,
).map(tuple)

_header_matches = _named(
    st.builds(HeaderMatch, name=_header_names, value=_values)
    | st.builds(HeaderMatch, name=_header_names, value=_regexes, type=st.just(MatchType.REGULAR_EXPRESSION))
)
_path_matches = st.builds(
    PathMatch, type=st.sampled_from([PathMatchType.EXACT, PathMatchType.PATH_PREFIX]), value=_paths
) | st.builds(PathMatch, type=st.just(PathMatchType.REGULAR_EXPRESSION), value=_regexes)
_http_matches = st.builds(
    HTTPRouteMatch,
    path=_path_matches,
    headers=_header_matches,
    query_params=_named(
        st.builds(QueryParamMatch, name=_names, value=_regexes, type=st.sampled_from(MatchType))
    ),
    method=st.none() | st.sampled_from([each for each in Method if each is not Method.CONNECT]),
)
_rule = {
    "matches": _tuples(_http_matches),
    "timeouts": st.none()
    | st.builds(
        Timeouts,
        request=st.none() | _durations(5000, 60_000) | st.just("0s"),
        backend_request=st.none() | _durations(1, 5000),
    ),
    "retry": st.none()
    | st.builds(
        Retry,
        codes=st.lists(_statuses, max_size=2, unique=True).map(tuple),
        attempts=st.none() | st.integers(0, 10),
        backoff=st.none() | _durations(1, 60_000),
    ),
}
_leading = st.builds(
    HTTPRouteRule,
    filters=_filters(_of_rules),
    backend_refs=_tuples(
        st.builds(HTTPBackendRef, weight=st.integers(0, 10**6), filters=_filters(_of_backends), **_backends)
    ),
    **_rule,
)
_redirecting = st.builds(
    HTTPRouteRule,
    filters=_redirects.map(
        lambda value: (HTTPRouteFilter(type=FilterType.REQUEST_REDIRECT, request_redirect=value),)
    ),
    **_rule,
)

http_route_specs: st.SearchStrategy[HTTPRouteSpec] = st.builds(
    HTTPRouteSpec,
    parent_refs=_parents,
    hostnames=st.lists(_hostnames, max_size=2, unique=True).map(tuple),
    rules=_tuples(_leading | _redirecting, least=1),
)

_grpc_methods = st.builds(
    GRPCMethodMatch,
    service=st.sampled_from(["shop.v1.Orders", "Echo"]),
    method=st.none() | st.sampled_from(["Get", "List_2"]),
) | st.builds(GRPCMethodMatch, type=st.just(MatchType.REGULAR_EXPRESSION), method=_regexes)
grpc_route_specs: st.SearchStrategy[GRPCRouteSpec] = st.builds(
    GRPCRouteSpec,
    parent_refs=_parents,
    hostnames=st.lists(_hostnames, max_size=2, unique=True).map(tuple),
    rules=_tuples(
        st.builds(
            GRPCRouteRule,
            matches=_tuples(
                st.builds(GRPCRouteMatch, method=st.none() | _grpc_methods, headers=_header_matches)
            ),
            filters=_grpc_filters,
            backend_refs=_tuples(
                st.builds(GRPCBackendRef, weight=st.integers(0, 10**6), filters=_grpc_filters, **_backends)
            ),
        ),
        least=1,
    ),
)

tcp_route_specs: st.SearchStrategy[TCPRouteSpec] = st.builds(
    TCPRouteSpec,
    parent_refs=_parents,
    rules=st.builds(
        TCPRouteRule,
        backend_refs=_tuples(st.builds(TCPBackendRef, weight=st.integers(0, 10**6), **_backends), least=1),
    ).map(lambda rule: (rule,)),
)

_keys = st.builds(HashKey, type=st.just(KeyType.SOURCE)) | st.builds(
    HashKey, type=st.sampled_from([KeyType.HEADER, KeyType.COOKIE]), name=_header_names
)
_balancing = {
    "bounded_load": st.sampled_from([1.0, 1.25, 10.0]),
    "locality": st.none()
    | st.builds(Locality, prefer=st.sampled_from(LocalityPreference), healthy_percent=_percents),
    "slow_start": st.none() | _durations(0, 60_000),
    "sticky_session": st.none()
    | st.builds(StickySession, key=_keys)
    | st.builds(
        StickySession,
        key=st.just(HashKey(type=KeyType.COOKIE, name="s")),
        ttl=_durations(1000, 60_000),
    ),
}
_load_balancings = st.builds(
    LoadBalancing, policy=st.just(BalancingPolicy.RING_HASH), hash_on=_keys, **_balancing
) | st.builds(
    LoadBalancing,
    policy=st.sampled_from([each for each in BalancingPolicy if each is not BalancingPolicy.RING_HASH]),
    **_balancing,
)
_limit_keys = st.builds(LimitKey, type=st.sampled_from([LimitKeyType.SERVICE, LimitKeyType.CALLER]))
_rate_limits = _named(
    st.builds(
        RateLimit,
        name=_names,
        requests=_counts,
        per=_durations(1000, 3_600_000),
        burst=st.none() | st.integers(1, 3600),
        key=_limit_keys | st.builds(LimitKey, type=st.just(LimitKeyType.HEADER), header=_header_names),
        matches=_tuples(_http_matches),
        route=st.none() | _names,
        scope=st.sampled_from(LimitScope),
    )
)


def _by_key(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, max_size=2, unique_by=lambda each: each.key.type).map(tuple)


_faults = _named(
    st.builds(
        Fault,
        name=_names,
        matches=_tuples(_http_matches),
        delay=st.builds(Delay, percent=_percents, duration=_durations(1, 300_000)),
        abort=st.none()
        | st.builds(Abort, percent=_percents, http_status=st.integers(200, 599))
        | st.builds(Abort, percent=_percents, grpc_status=st.integers(1, 16)),
    )
)

backend_policy_specs: st.SearchStrategy[BackendPolicySpec] = st.builds(
    BackendPolicySpec,
    target_refs=st.lists(_names, min_size=1, max_size=3, unique=True).map(
        lambda names: tuple(TargetRef(kind=TargetKind.SERVICE, name=name) for name in names)
    ),
    load_balancing=_load_balancings,
    connection_limits=st.builds(
        ConnectionLimits,
        connections=st.none() | _counts,
        requests=st.none() | _counts,
        pending=st.none() | _counts,
        requests_per_connection=st.none() | _counts,
    ),
    circuit_breaker=st.none()
    | st.builds(
        CircuitBreaker,
        consecutive_failures=_counts,
        success_percent=st.none() | _percents,
        window=_durations(1000, 600_000),
        open_for=_durations(1, 600_000),
    ),
    outlier_ejection=st.builds(
        OutlierEjection,
        consecutive_failures=_counts,
        success_percent_below=st.none() | _percents,
        base_time=_durations(1, 60_000),
        max_time=_durations(60_000, 3_600_000),
        max_ejected_percent=_percents,
    ),
    timeouts=st.builds(
        BackendTimeouts,
        connect=st.none() | _durations(1, 60_000),
        request=st.none() | _durations(5000, 60_000),
        per_try=st.none() | _durations(1, 5000),
        idle=st.none() | _durations(0, 60_000),
    ),
    retries=st.builds(
        Retries,
        attempts=st.integers(1, 10),
        on=st.lists(st.sampled_from(RetryReason), max_size=3, unique=True).map(tuple),
        codes=st.lists(_statuses, max_size=2, unique=True).map(tuple),
        grpc_codes=st.lists(st.integers(1, 16), max_size=2, unique=True).map(tuple),
        backoff=_durations(1, 1000),
        max_backoff=_durations(1000, 60_000),
        non_idempotent=st.booleans(),
        hedge_after=st.none() | _durations(1, 60_000),
        budget=st.builds(RetryBudget, percent=_percents, window=_durations(1000, 600_000)),
    ),
    rate_limits=_rate_limits,
    connection_rates=_by_key(
        st.builds(ConnectionRate, connections=_counts, per=_durations(1, 3_600_000), key=_limit_keys)
    ),
    bandwidths=_by_key(st.builds(Bandwidth, upload=_counts, download=st.none() | _counts, key=_limit_keys)),
    faults=_faults,
    trusted_forwarders=st.lists(
        st.sampled_from(["*", "web/*", "web/api", "*/gateway", "edge/gw-*"]), max_size=2, unique=True
    ).map(tuple),
)
