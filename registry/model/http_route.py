"""HTTPRoute in Gateway API's shape: which requests to a Service go where, and changed how.

What is not supported is rejected by name (`registry.model.unsupported`).
Source: gateway.networking.k8s.io/v1, HTTPRoute; retries are GEP-1731, CORS GEP-1767.
"""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.duration import Duration
from registry.model.gateway import (
    BackendReference,
    HeaderMatch,
    HeaderModifier,
    HeaderName,
    Hostname,
    MatchType,
    ParentReference,
    PreciseHostname,
    RequestMirror,
    Weight,
)
from registry.model.resource import Name, Port, Resource, Strict


class PathMatchType(enum.Enum):
    """How a path is compared. A prefix is one of whole segments: ``/a`` matches ``/a/b`` and not ``/ab``."""

    EXACT = "Exact"
    PATH_PREFIX = "PathPrefix"
    REGULAR_EXPRESSION = "RegularExpression"


class Method(enum.Enum):
    """The methods that a match may name."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"


class PathMatch(Strict, frozen=True, kw_only=True):
    """A path, without query."""

    type: PathMatchType = PathMatchType.PATH_PREFIX
    value: Annotated[str, Meta(max_length=1024)] = "/"


class QueryParamMatch(Strict, frozen=True, kw_only=True):
    """A query parameter; the first of that name counts, and case does."""

    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=1024)]
    type: MatchType = MatchType.EXACT


class HTTPRouteMatch(Strict, frozen=True, kw_only=True):
    """All that is given must hold."""

    path: PathMatch = PathMatch()
    headers: tuple[HeaderMatch, ...] = ()
    query_params: tuple[QueryParamMatch, ...] = ()
    method: Method | None = None


class PathModifierType(enum.Enum):
    """What of a path is replaced."""

    REPLACE_FULL_PATH = "ReplaceFullPath"
    REPLACE_PREFIX_MATCH = "ReplacePrefixMatch"


class PathModifier(Strict, frozen=True, kw_only=True):
    """A new path, or a new beginning of it in the place of the prefix that matched."""

    type: PathModifierType
    replace_full_path: Annotated[str, Meta(max_length=1024)] | None = None
    replace_prefix_match: Annotated[str, Meta(max_length=1024)] | None = None


class Scheme(enum.Enum):
    """What a redirect may lead to."""

    HTTP = "http"
    HTTPS = "https"


class RequestRedirect(Strict, frozen=True, kw_only=True):
    """Answers with where to go instead; what is not given stays as it was asked for."""

    scheme: Scheme | None = None
    hostname: PreciseHostname | None = None
    path: PathModifier | None = None
    port: Port | None = None
    status_code: Annotated[int, Meta(ge=300, le=399)] = 302


class UrlRewrite(Strict, frozen=True, kw_only=True):
    """Changes the host and the path that the backend hears."""

    hostname: PreciseHostname | None = None
    path: PathModifier | None = None


class Cors(Strict, frozen=True, kw_only=True):
    """Answers preflight requests, and tells browsers which origins may read the answers; `max_age` in s."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Annotated[int, Meta(ge=1)] = 5


class FilterType(enum.Enum):
    """What a filter does; only RequestMirror may stand more than once in a rule."""

    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    REQUEST_MIRROR = "RequestMirror"
    REQUEST_REDIRECT = "RequestRedirect"
    URL_REWRITE = "URLRewrite"
    CORS = "CORS"


class HTTPRouteFilter(Strict, frozen=True, kw_only=True):
    """One change; the field that belongs to `type` is given, and no other."""

    type: FilterType
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    cors: Cors | None = None


class HTTPBackendRef(BackendReference, frozen=True, kw_only=True):
    """A backend, its share of the requests, and changes to those that go there; weight 0 gets none."""

    weight: Weight = 1
    filters: tuple[HTTPRouteFilter, ...] = ()


class Timeouts(Strict, frozen=True, kw_only=True):
    """`request` is for everything, retries included, `backend_request` for one try; 0s is no limit."""

    request: Duration | None = None
    backend_request: Duration | None = None


class Retry(Strict, frozen=True, kw_only=True):
    """`attempts` are the tries after the first; `codes` are answers that are tried again.

    `backoff` is the least time between two tries.
    """

    codes: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = ()
    attempts: Annotated[int, Meta(ge=0, le=10)] | None = None
    backoff: Duration | None = None


class HTTPRouteRule(Strict, frozen=True, kw_only=True):
    """Any of `matches` must match; none given match everything."""

    name: Name | None = None
    matches: Annotated[tuple[HTTPRouteMatch, ...], Meta(max_length=64)] = ()
    filters: Annotated[tuple[HTTPRouteFilter, ...], Meta(max_length=16)] = ()
    backend_refs: Annotated[tuple[HTTPBackendRef, ...], Meta(max_length=16)] = ()
    timeouts: Timeouts | None = None
    retry: Retry | None = None


class HTTPRouteSpec(Strict, frozen=True, kw_only=True):
    """`parent_refs` are the Services whose requests it concerns; no `hostnames` are all hosts."""

    parent_refs: Annotated[tuple[ParentReference, ...], Meta(min_length=1, max_length=32)]
    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=16)] = ()
    rules: Annotated[tuple[HTTPRouteRule, ...], Meta(min_length=1, max_length=16)] = (HTTPRouteRule(),)


class HTTPRoute(Resource, frozen=True, kw_only=True):
    """Which requests to a Service go where, and changed how."""

    API_VERSIONS: ClassVar[tuple[str, ...]] = (
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1beta1",
    )
    KIND: ClassVar[str] = "HTTPRoute"
    PLURAL: ClassVar[str] = "httproutes"

    spec: HTTPRouteSpec
