"""BackendPolicy: how the endpoints of a Service are called, and how much they are asked to bear.

What callers' proxies do (balance, limit, eject, time out, retry, inject faults) and what the proxies before
the workloads do (rate and bandwidth limits). Every part is off, or at its default, until it is written.
"""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.authorization import TargetRef
from registry.model.duration import Duration
from registry.model.gateway import HeaderName
from registry.model.http_route import HTTPRouteMatch
from registry.model.resource import Name, Resource, Strict

Percent = Annotated[float, Meta(ge=0, le=100)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class BalancingPolicy(enum.Enum):
    """How one of several endpoints is chosen."""

    PEAK_EWMA = "PeakEwma"
    LEAST_REQUEST = "LeastRequest"
    ROUND_ROBIN = "RoundRobin"
    RANDOM = "Random"
    RING_HASH = "RingHash"


class KeyType(enum.Enum):
    """What of a request a hash or a sticky session goes by."""

    HEADER = "Header"
    COOKIE = "Cookie"
    SOURCE = "Source"


class HashKey(Strict, frozen=True, kw_only=True):
    """`name` is a header's or a cookie's. `Source` is the caller: its address, or else its identity."""

    type: KeyType
    name: HeaderName | None = None


class LocalityPreference(enum.Enum):
    """Which endpoints are preferred: those of the caller's zone, of its region, or none."""

    ZONE = "Zone"
    REGION = "Region"
    NONE = "None"


class Locality(Strict, frozen=True, kw_only=True):
    """Near endpoints first; with fewer than `healthy_percent` of them healthy some requests overflow."""

    prefer: LocalityPreference = LocalityPreference.ZONE
    healthy_percent: Percent = 70


class StickySession(Strict, frozen=True, kw_only=True):
    """Keeps a caller with its endpoint while that is there. A cookie is made by us; `ttl` is its life."""

    key: HashKey
    ttl: Duration | None = None


class LoadBalancing(Strict, frozen=True, kw_only=True):
    """`hash_on` is for RingHash; `bounded_load`: no endpoint gets more than so many times its even share.

    `slow_start` is the time over which a new endpoint's share grows.
    """

    policy: BalancingPolicy = BalancingPolicy.PEAK_EWMA
    hash_on: HashKey | None = None
    bounded_load: Annotated[float, Meta(ge=1, le=10)] = 1.25
    locality: Locality | None = None
    slow_start: Duration | None = None
    sticky_session: StickySession | None = None


class ConnectionLimits(Strict, frozen=True, kw_only=True):
    """Of one calling node towards the Service: open connections, requests in flight, requests that wait.

    `requests_per_connection`: a connection to an endpoint is closed after so many.
    """

    connections: Count | None = None
    requests: Count | None = None
    pending: Count | None = None
    requests_per_connection: Count | None = None


class CircuitBreaker(Strict, frozen=True, kw_only=True):
    """Opens for `open_for` when the whole Service fails; then `half_open_probes` requests try it.

    It opens after `consecutive_failures`, or when fewer than `success_percent` of at least `minimum_requests`
    within `window` succeed.
    """

    consecutive_failures: Count | None = None
    success_percent: Percent | None = None
    minimum_requests: Count = 20
    window: Duration = "10s"
    open_for: Duration = "5s"
    half_open_probes: Count = 1


class OutlierEjection(Strict, frozen=True, kw_only=True):
    """Passes over an endpoint that fails: 5xx, reset, timeout.

    Ejected after `consecutive_failures`, or when its success rate falls `success_percent_below` points under
    the others' mean. The time doubles from `base_time` to `max_time`. At most `max_ejected_percent` of the
    endpoints are ejected; with fewer than `panic_percent` of them usable, all are used.
    """

    consecutive_failures: Count = 5
    success_percent_below: Percent | None = None
    minimum_requests: Count = 20
    window: Duration = "10s"
    base_time: Duration = "5s"
    max_time: Duration = "60s"
    max_ejected_percent: Percent = 50
    panic_percent: Percent = 30


class BackendTimeouts(Strict, frozen=True, kw_only=True):
    """`connect` is for one endpoint; `request` for everything, `per_try` for one try, `idle` between bytes.

    A route's own timeouts go before these.
    """

    connect: Duration | None = None
    request: Duration | None = None
    per_try: Duration | None = None
    idle: Duration | None = None


class RetryBudget(Strict, frozen=True, kw_only=True):
    """Retries are at most `percent` of the requests of the last `window`, and always `minimum_per_second`."""

    percent: Percent = 20
    minimum_per_second: Annotated[float, Meta(ge=0, le=100_000)] = 3
    window: Duration = "10s"


class RetryReason(enum.Enum):
    """What is tried again; `UNSENT` is a request of which nothing was sent, safe for every method."""

    UNSENT = "unsent"
    RESET = "reset"
    TIMEOUT = "timeout"
    GATEWAY_ERROR = "gateway-error"


class Retries(Strict, frozen=True, kw_only=True):
    """For what no route says. `attempts` are tries after the first, each on another endpoint if there is one.

    Only idempotent methods (RFC 9110 section 9.2.2), unless `non_idempotent`; a body that was not kept whole
    is never sent again. `hedge_after`: a second try begins while the first still waits.
    """

    attempts: Annotated[int, Meta(ge=0, le=10)] = 2
    on: tuple[RetryReason, ...] = (RetryReason.UNSENT, RetryReason.RESET, RetryReason.GATEWAY_ERROR)
    codes: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = ()
    grpc_codes: tuple[Annotated[int, Meta(ge=1, le=16)], ...] = ()
    backoff: Duration = "25ms"
    max_backoff: Duration = "250ms"
    non_idempotent: bool = False
    hedge_after: Duration | None = None
    budget: RetryBudget = RetryBudget()


class LimitScope(enum.Enum):
    """Whether each node counts for itself, or all share one limit."""

    NODE = "Node"
    MESH = "Mesh"


class LimitKeyType(enum.Enum):
    """What has a count of its own: the Service as a whole, each caller's identity, each value of a header."""

    SERVICE = "Service"
    CALLER = "Caller"
    HEADER = "Header"


class LimitKey(Strict, frozen=True, kw_only=True):
    """`header` is the name, for `Header`."""

    type: LimitKeyType = LimitKeyType.SERVICE
    header: HeaderName | None = None


class RateLimit(Strict, frozen=True, kw_only=True):
    """At most `requests` in each `per`, with bursts of up to `burst` (by default `requests`).

    `matches` are the requests that count, as in an HTTPRoute; none given are all. `route` are the requests
    that the HTTPRoute of this name (or GRPCRoute, of the Service's namespace) has led here.
    """

    name: Name
    requests: Count
    per: Duration = "1s"
    burst: Count | None = None
    key: LimitKey = LimitKey()
    matches: Annotated[tuple[HTTPRouteMatch, ...], Meta(max_length=16)] = ()
    route: Name | None = None
    scope: LimitScope = LimitScope.NODE


class ConnectionRate(Strict, frozen=True, kw_only=True):
    """At most `connections` new ones in each `per` on a node, of the Service or of each caller."""

    connections: Count
    per: Duration = "1s"
    burst: Count | None = None
    key: LimitKey = LimitKey()


class Bandwidth(Strict, frozen=True, kw_only=True):
    """At most so many bytes a second on a node: `upload` to the workloads, `download` from them."""

    upload: Count | None = None
    download: Count | None = None
    key: LimitKey = LimitKey()


class Delay(Strict, frozen=True, kw_only=True):
    """Lets a share of the requests wait."""

    percent: Percent
    duration: Duration


class Abort(Strict, frozen=True, kw_only=True):
    """Answers a share of the requests with an error instead of sending them on."""

    percent: Percent
    http_status: Annotated[int, Meta(ge=200, le=599)] | None = None
    grpc_status: Annotated[int, Meta(ge=1, le=16)] | None = None


class Fault(Strict, frozen=True, kw_only=True):
    """An error made on purpose, for requests that any of `matches` matches; none given are all."""

    name: Name
    matches: Annotated[tuple[HTTPRouteMatch, ...], Meta(max_length=16)] = ()
    delay: Delay | None = None
    abort: Abort | None = None


class BackendPolicySpec(Strict, frozen=True, kw_only=True):
    """What holds for the Services it is attached to; a Service has at most one.

    `trusted_forwarders` are callers (``namespace/account``, ``*`` as in policies) whose word about those they
    call for, ``forwarded`` and ``x-forwarded-…``, is passed on; of all others it is thrown away.
    """

    target_refs: Annotated[tuple[TargetRef, ...], Meta(min_length=1)]
    load_balancing: LoadBalancing = LoadBalancing()
    connection_limits: ConnectionLimits = ConnectionLimits()
    circuit_breaker: CircuitBreaker | None = None
    outlier_ejection: OutlierEjection = OutlierEjection()
    timeouts: BackendTimeouts = BackendTimeouts()
    retries: Retries = Retries()
    rate_limits: Annotated[tuple[RateLimit, ...], Meta(max_length=32)] = ()
    connection_rates: Annotated[tuple[ConnectionRate, ...], Meta(max_length=8)] = ()
    bandwidths: Annotated[tuple[Bandwidth, ...], Meta(max_length=8)] = ()
    faults: Annotated[tuple[Fault, ...], Meta(max_length=16)] = ()
    trusted_forwarders: Annotated[tuple[str, ...], Meta(max_length=32)] = ()


class BackendPolicy(Resource, frozen=True, kw_only=True):
    """How the endpoints of Services are called, and how much they are asked to bear."""

    KIND: ClassVar[str] = "BackendPolicy"
    PLURAL: ClassVar[str] = "backendpolicies"

    spec: BackendPolicySpec

    @property
    def targets(self) -> tuple[str, ...]:
        """The services it is attached to, as ``namespace/name``."""
        return tuple(f"{self.metadata.namespace}/{target.name}" for target in self.spec.target_refs)
