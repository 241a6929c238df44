"""What a BackendPolicy of the right shape may still get wrong by itself. Pure."""

from collections.abc import Iterator
from typing import Final

from registry.model.backend_policy import (
    BackendPolicy,
    BackendPolicySpec,
    BackendTimeouts,
    BalancingPolicy,
    CircuitBreaker,
    HashKey,
    KeyType,
    LoadBalancing,
    OutlierEjection,
    Retries,
)
from registry.model.duration import seconds
from registry.model.fields import show
from registry.model.gateway_checks import duration_problems
from registry.model.identity import LABEL
from registry.model.limit_checks import limit_problems
from registry.model.policy_checks import target_problems
from registry.model.problem import Problem, repeated_problems

# A caller that cannot connect within a minute never will.
_LONGEST_CONNECT: Final = 60.0
# What is counted over a longer time says nothing of now, and is memory for each endpoint.
_LONGEST_WINDOW: Final = 600.0
# A service that is passed over for longer is taken out by somebody who knows why.
_LONGEST_PAUSE: Final = 3600.0
_LONGEST_BACKOFF: Final = 60.0


def backend_policy_problems(policy: BackendPolicy) -> Iterator[Problem]:
    """Give everything that is wrong with a policy taken alone."""
    spec = policy.spec
    for i, target in enumerate(spec.target_refs):
        yield from target_problems(target, f"spec.targetRefs[{i}]", policy.metadata.namespace)
    yield from repeated_problems((each.name for each in spec.target_refs), "spec.targetRefs", "name")
    yield from _balancing(spec.load_balancing)
    if spec.circuit_breaker is not None:
        yield from _breaker(spec.circuit_breaker)
    yield from _ejection(spec.outlier_ejection)
    yield from _timeouts(spec.timeouts)
    yield from _retries(spec.retries)
    yield from limit_problems(spec)
    yield from _forwarders(spec)


def _balancing(balancing: LoadBalancing) -> Iterator[Problem]:
    path = "spec.loadBalancing"
    if balancing.hash_on is not None:
        yield from _hash_key(balancing.hash_on, f"{path}.hashOn")
    ring = balancing.policy is BalancingPolicy.RING_HASH
    if ring and balancing.hash_on is None:
        yield Problem(
            f"{path}.hashOn", "is missing, and policy is RingHash", "write what requests are told apart by"
        )
    elif balancing.hash_on is not None and not ring:
        yield Problem(
            f"{path}.hashOn",
            f"stands beside policy {balancing.policy.value}",
            "write policy: RingHash, or remove it",
        )
    yield from duration_problems(balancing.slow_start, f"{path}.slowStart", least=0, most=_LONGEST_PAUSE)
    if (sticky := balancing.sticky_session) is not None:
        yield from _hash_key(sticky.key, f"{path}.stickySession.key")
        yield from duration_problems(sticky.ttl, f"{path}.stickySession.ttl", least=1)
        if sticky.ttl is not None and sticky.key.type is not KeyType.COOKIE:
            yield Problem(
                f"{path}.stickySession.ttl",
                f"is the life of a cookie, and key.type is {sticky.key.type.value}",
                "remove it, or write type: Cookie",
            )


def _hash_key(key: HashKey, path: str) -> Iterator[Problem]:
    if key.type is KeyType.SOURCE and key.name is not None:
        yield Problem(f"{path}.name", "stands beside type Source, which has none", "remove it")
    elif key.type is not KeyType.SOURCE and key.name is None:
        yield Problem(f"{path}.name", f"is missing, and type is {key.type.value}", "write its name")


def _breaker(breaker: CircuitBreaker) -> Iterator[Problem]:
    path = "spec.circuitBreaker"
    if breaker.consecutive_failures is None and breaker.success_percent is None:
        yield Problem(path, "would never open", "write consecutiveFailures or successPercent")
    yield from duration_problems(breaker.window, f"{path}.window", least=1, most=_LONGEST_WINDOW)
    yield from duration_problems(breaker.open_for, f"{path}.openFor", most=_LONGEST_PAUSE)


def _ejection(ejection: OutlierEjection) -> Iterator[Problem]:
    path = "spec.outlierEjection"
    yield from duration_problems(ejection.window, f"{path}.window", least=1, most=_LONGEST_WINDOW)
    yield from duration_problems(ejection.base_time, f"{path}.baseTime", most=_LONGEST_PAUSE)
    yield from duration_problems(ejection.max_time, f"{path}.maxTime", most=_LONGEST_PAUSE)
    yield from _ordered(ejection.base_time, ejection.max_time, f"{path}.maxTime", "baseTime")


def _timeouts(timeouts: BackendTimeouts) -> Iterator[Problem]:
    path = "spec.timeouts"
    yield from duration_problems(timeouts.connect, f"{path}.connect", most=_LONGEST_CONNECT)
    yield from duration_problems(timeouts.request, f"{path}.request", least=0)
    yield from duration_problems(timeouts.per_try, f"{path}.perTry", least=0)
    yield from duration_problems(timeouts.idle, f"{path}.idle", least=0)
    if timeouts.per_try and timeouts.request and seconds(timeouts.request):
        yield from _ordered(timeouts.per_try, timeouts.request, f"{path}.request", "perTry")


def _retries(retries: Retries) -> Iterator[Problem]:
    path = "spec.retries"
    for name, values in (
        ("on", tuple(each.value for each in retries.on)),
        ("codes", retries.codes),
        ("grpcCodes", retries.grpc_codes),
    ):
        yield from repeated_problems(values, f"{path}.{name}", "")
    yield from duration_problems(retries.backoff, f"{path}.backoff", most=_LONGEST_BACKOFF)
    yield from duration_problems(retries.max_backoff, f"{path}.maxBackoff", most=_LONGEST_BACKOFF)
    yield from _ordered(retries.backoff, retries.max_backoff, f"{path}.maxBackoff", "backoff")
    yield from duration_problems(retries.hedge_after, f"{path}.hedgeAfter", most=_LONGEST_BACKOFF)
    if retries.hedge_after is not None and not retries.attempts:
        yield Problem(
            f"{path}.hedgeAfter", "begins a second try, and attempts is 0", "write attempts: 1 or more"
        )
    yield from duration_problems(
        retries.budget.window, f"{path}.budget.window", least=1, most=_LONGEST_WINDOW
    )


def _ordered(less: str, more: str, path: str, other: str) -> Iterator[Problem]:
    if seconds(more) < seconds(less):
        yield Problem(path, f"{more} is less than {other}, {less}", "write at least as much")


def _forwarders(spec: BackendPolicySpec) -> Iterator[Problem]:
    """Find callers that there cannot be: an exact account, or a pattern with one ``*`` at an end."""
    for i, text in enumerate(spec.trusted_forwarders):
        namespace, slash, account = text.partition("/")
        if text == "*":
            continue
        star = "*" in text
        if (
            not slash
            or text.count("*") > 1
            or (star and not text.startswith("*") and not text.endswith("*"))
            or not all(_could_be_name(part) for part in (namespace, account))
        ):
            yield Problem(
                f"spec.trustedForwarders[{i}]",
                f"{show(text)} is no caller",
                "write <namespace>/<account>, <namespace>/*, or * for every caller of the mesh",
            )
    yield from repeated_problems(spec.trusted_forwarders, "spec.trustedForwarders", "")


def _could_be_name(part: str) -> bool:
    return part == "*" or bool(LABEL.match(part.replace("*", "x")))
