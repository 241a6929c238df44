"""What limits and faults of a BackendPolicy may still get wrong by themselves. Pure."""

from collections.abc import Iterator
from typing import Final

from registry.model.backend_policy import (
    BackendPolicySpec,
    Fault,
    LimitKey,
    LimitKeyType,
    LimitScope,
    RateLimit,
)
from registry.model.duration import seconds
from registry.model.gateway_checks import duration_problems
from registry.model.http_match_checks import match_problems
from registry.model.problem import Problem, repeated_problems

# Whose share is used up waits until the next; a longer time is a quota to be accounted for, not a rate.
_LONGEST_PER: Final = 3600.0
# A bucket that holds more than this many times the limit is no limit.
_MOST_BURST: Final = 3600
# Nodes tell each other what they need about once a second.
_SHORTEST_SHARED: Final = 1.0
# Callers and those who look for the cause give up sooner.
_LONGEST_DELAY: Final = 300.0


def limit_problems(spec: BackendPolicySpec) -> Iterator[Problem]:
    """Find what is wrong with the limits and the faults of a policy."""
    yield from repeated_problems((each.name for each in spec.rate_limits), "spec.rateLimits", "name")
    for i, limit in enumerate(spec.rate_limits):
        yield from _rate(limit, f"spec.rateLimits[{i}]")
    for i, rate in enumerate(spec.connection_rates):
        path = f"spec.connectionRates[{i}]"
        yield from duration_problems(rate.per, f"{path}.per", most=_LONGEST_PER)
        yield from _burst(rate.burst, rate.connections, path)
        yield from _connection_key(rate.key, f"{path}.key")
    yield from repeated_problems(
        (each.key.type.value for each in spec.connection_rates), "spec.connectionRates", "key.type"
    )
    for i, bandwidth in enumerate(spec.bandwidths):
        path = f"spec.bandwidths[{i}]"
        if bandwidth.upload is None and bandwidth.download is None:
            yield Problem(path, "limits nothing", "write upload, download or both, in bytes per second")
        yield from _connection_key(bandwidth.key, f"{path}.key")
    yield from repeated_problems(
        (each.key.type.value for each in spec.bandwidths), "spec.bandwidths", "key.type"
    )
    yield from repeated_problems((each.name for each in spec.faults), "spec.faults", "name")
    for i, fault in enumerate(spec.faults):
        yield from _fault(fault, f"spec.faults[{i}]")


def _rate(limit: RateLimit, path: str) -> Iterator[Problem]:
    yield from duration_problems(limit.per, f"{path}.per", most=_LONGEST_PER)
    if limit.scope is LimitScope.MESH and 0 < seconds(limit.per) < _SHORTEST_SHARED:
        yield Problem(
            f"{path}.per",
            f"{limit.per} is shorter than the second in which nodes agree on their shares of a limit",
            "write at least 1s, or scope: Node",
        )
    yield from _burst(limit.burst, limit.requests, path)
    named = limit.key.header is not None
    if limit.key.type is LimitKeyType.HEADER and not named:
        yield Problem(f"{path}.key.header", "is missing, and type is Header", "write the header's name")
    elif named and limit.key.type is not LimitKeyType.HEADER:
        yield Problem(
            f"{path}.key.header",
            f"stands beside type {limit.key.type.value}",
            "write type: Header, or remove it",
        )
    yield from match_problems(limit.matches, f"{path}.matches")


def _burst(burst: int | None, amount: int, path: str) -> Iterator[Problem]:
    if burst is not None and burst > amount * _MOST_BURST:
        yield Problem(
            f"{path}.burst",
            f"{burst} is so much more than {amount} that nothing is limited",
            f"write at most {amount * _MOST_BURST}",
        )


def _connection_key(key: LimitKey, path: str) -> Iterator[Problem]:
    if key.type is LimitKeyType.HEADER or key.header is not None:
        yield Problem(
            f"{path}.type" if key.type is LimitKeyType.HEADER else f"{path}.header",
            "is about headers, which connections have not",
            "write type: Service or type: Caller",
        )


def _fault(fault: Fault, path: str) -> Iterator[Problem]:
    yield from match_problems(fault.matches, f"{path}.matches")
    if fault.delay is None and fault.abort is None:
        yield Problem(path, "does nothing", "write delay, abort or both")
    if fault.delay is not None:
        yield from duration_problems(fault.delay.duration, f"{path}.delay.duration", most=_LONGEST_DELAY)
    if fault.abort is not None:
        if fault.abort.http_status is None and fault.abort.grpc_status is None:
            yield Problem(f"{path}.abort", "has no status", "write httpStatus or grpcStatus")
        elif fault.abort.http_status is not None and fault.abort.grpc_status is not None:
            yield Problem(f"{path}.abort.grpcStatus", "stands beside httpStatus", "keep one of them")
