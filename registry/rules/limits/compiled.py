"""A service's limits as the proxy counts them. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from registry.model.backend_policy import (
    BackendPolicySpec,
    Bandwidth,
    ConnectionRate,
    LimitKey,
    LimitKeyType,
    LimitScope,
    RateLimit,
)
from registry.model.duration import seconds
from registry.rules.limits.bucket import Bucket
from registry.rules.routing import HttpCall
from registry.rules.routing.matching import compile_matches

# Shaped bytes may come this many seconds' worth at once: no less than a busy worker may be late, so that
# nothing of the rate is lost; little enough to be even at the scale of a round trip through the internet.
EVENNESS = 0.05
# An Ethernet frame's payload: in smaller pieces than this nothing is gained by pacing.
LEAST_BURST = 1460
# Policies with none are refused; whatever else comes here must not divide by zero.
_LEAST_PERIOD = 0.001


@dataclass(frozen=True, slots=True)
class RequestLimit:
    """A rate of requests.

    Args:
        name: ``namespace/service/limit``.
        amount: the requests in each period, of the whole mesh if `mesh`.
        bucket: how they are counted.
        key: what has a count of its own.
        matches: which requests count; None are all.
        route: ``namespace/name`` of the route that has led here; empty is any.
        mesh: whether all nodes share it.
        stem: tells its counts from all others': a limit that is edited begins anew.
    """

    name: str
    amount: int
    bucket: Bucket
    key: LimitKey
    matches: Callable[[HttpCall], bool] | None
    route: str
    mesh: bool
    stem: str


@dataclass(frozen=True, slots=True)
class FlowLimit:
    """A rate of connections, or of bytes in one direction; `by_caller`, or of all of a `service`."""

    service: str
    bucket: Bucket
    by_caller: bool
    stem: str


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """All of one service's; `upload` and `download` are in bytes, seen from the callers."""

    requests: tuple[RequestLimit, ...]
    connections: tuple[FlowLimit, ...]
    upload: tuple[FlowLimit, ...]
    download: tuple[FlowLimit, ...]

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self.requests or self.connections or self.upload or self.download)


def compile_limits(service: str, policy: BackendPolicySpec) -> ServiceLimits:
    """Compile what the policy attached to a service (``namespace/name``) says."""
    return ServiceLimits(
        requests=tuple(_request_limit(service, each) for each in policy.rate_limits),
        connections=tuple(_connection_limit(service, each) for each in policy.connection_rates),
        upload=tuple(
            _lane(service, each, each.upload, "upload")
            for each in policy.bandwidths
            if each.upload is not None
        ),
        download=tuple(
            _lane(service, each, each.download, "download")
            for each in policy.bandwidths
            if each.download is not None
        ),
    )


def mesh_limits(service: str, policy: BackendPolicySpec) -> dict[str, float]:
    """Name the limits of a service that all nodes share, with what they allow in requests a second."""
    return {
        f"{service}/{each.name}": each.requests / max(_LEAST_PERIOD, seconds(each.per))
        for each in policy.rate_limits
        if each.scope is LimitScope.MESH
    }


def _request_limit(service: str, limit: RateLimit) -> RequestLimit:
    per = max(_LEAST_PERIOD, seconds(limit.per))
    return RequestLimit(
        name=f"{service}/{limit.name}",
        amount=limit.requests,
        bucket=Bucket.of(limit.requests, per=per, burst=limit.burst),
        key=limit.key,
        matches=compile_matches(limit.matches) if limit.matches else None,
        route=f"{service.partition('/')[0]}/{limit.route}" if limit.route else "",
        mesh=limit.scope is LimitScope.MESH,
        stem=_stem("requests", service, limit.name, limit.key, limit.requests, per, limit.burst),
    )


def _connection_limit(service: str, rate: ConnectionRate) -> FlowLimit:
    per = max(_LEAST_PERIOD, seconds(rate.per))
    return FlowLimit(
        service,
        Bucket.of(rate.connections, per=per, burst=rate.burst),
        rate.key.type is LimitKeyType.CALLER,
        _stem("connections", service, rate.key, rate.connections, per, rate.burst),
    )


def _lane(service: str, bandwidth: Bandwidth, rate: int, direction: str) -> FlowLimit:
    return FlowLimit(
        service,
        Bucket.of(rate, per=1.0, burst=max(LEAST_BURST, rate * EVENNESS)),
        bandwidth.key.type is LimitKeyType.CALLER,
        _stem(direction, service, bandwidth.key, rate),
    )


def _stem(*parts: object) -> str:
    return "\n".join(
        f"{part.type.value} {part.header or ''}".lower() if isinstance(part, LimitKey) else str(part)
        for part in parts
    )
