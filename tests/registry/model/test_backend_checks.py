"""What people get wrong in a BackendPolicy: each document with one mistake, where and why it is refused."""

from typing import Any

import pytest

from registry.model.parse import from_builtins
from tests.registry.model.documents import BACKEND_POLICY, refusal, with_spec

TARGET = {"kind": "Service", "name": "web"}


def policy(**fields: Any) -> dict[str, Any]:
    """Give a policy that sets these."""
    return with_spec(BACKEND_POLICY, **fields)


def rate(**fields: Any) -> dict[str, Any]:
    """Give a policy with one rate limit."""
    return policy(rateLimits=[{"name": "all", "requests": 10, **fields}])


def fault(**fields: Any) -> dict[str, Any]:
    """Give a policy with one fault."""
    return policy(faults=[{"name": "slow", **fields}])


def balancing(**fields: Any) -> dict[str, Any]:
    """Give a policy about load balancing."""
    return policy(loadBalancing=fields)


ABORT = {"percent": 10, "httpStatus": 503}
HEADER_KEY = {"type": "Header", "header": "x"}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({**BACKEND_POLICY, "spec": {}}, "spec.targetRefs", "is missing"),
    (policy(targetRefs=[]), "spec.targetRefs", "is empty"),
    (policy(targetRefs=[TARGET, TARGET]), "spec.targetRefs[1].name", "already taken"),
    (policy(targetRefs=[{**TARGET, "namespace": "shop"}]), "spec.targetRefs[0].namespace", "is another than"),
    (policy(targetRefs=[{**TARGET, "group": "apps"}]), "spec.targetRefs[0].group", "has no Service"),
    (policy(targetRefs=[{**TARGET, "kind": "Gateway"}]), "spec.targetRefs[0].kind", "is not supported"),
    (
        policy(targetRefs=[{**TARGET, "sectionName": "a"}]),
        "spec.targetRefs[0].sectionName",
        "is not supported",
    ),
    (policy(targetRef=TARGET), "spec.targetRef", "is not supported"),
    (policy(sessionPersistence={}), "spec.sessionPersistence", "is not supported"),
    (policy(retryConstraint={}), "spec.retryConstraint", "is not supported"),
    (policy(timeout={}), "spec.timeout", "is not a known field"),
    # Balancing.
    (balancing(policy="RoundRobbin"), "spec.loadBalancing.policy", "is not known"),
    (balancing(policy="RingHash"), "spec.loadBalancing.hashOn", "is missing"),
    (balancing(hashOn={"type": "Source"}), "spec.loadBalancing.hashOn", "stands beside policy PeakEwma"),
    (balancing(policy="RingHash", hashOn={"type": "Header"}), "spec.loadBalancing.hashOn.name", "is missing"),
    (
        balancing(policy="RingHash", hashOn={"type": "Source", "name": "x"}),
        "spec.loadBalancing.hashOn.name",
        "stands beside type Source",
    ),
    (balancing(boundedLoad=0.9), "spec.loadBalancing.boundedLoad", "out of bounds"),
    (balancing(slowStart="2h"), "spec.loadBalancing.slowStart", "is too long"),
    (
        balancing(locality={"healthyPercent": 101}),
        "spec.loadBalancing.locality.healthyPercent",
        "out of bounds",
    ),
    (
        balancing(stickySession={"key": {"type": "Cookie"}}),
        "spec.loadBalancing.stickySession.key.name",
        "is missing",
    ),
    (
        balancing(stickySession={"key": {"type": "Source"}, "ttl": "1h"}),
        "spec.loadBalancing.stickySession.ttl",
        "the life of a cookie",
    ),
    # Limits on connections, breaker, ejection.
    (policy(connectionLimits={"connections": 0}), "spec.connectionLimits.connections", "out of bounds"),
    (policy(circuitBreaker={}), "spec.circuitBreaker", "would never open"),
    (
        policy(circuitBreaker={"consecutiveFailures": 5, "openFor": "0s"}),
        "spec.circuitBreaker.openFor",
        "is too short",
    ),
    (
        policy(circuitBreaker={"successPercent": 50, "window": "100ms"}),
        "spec.circuitBreaker.window",
        "is too short",
    ),
    (policy(outlierEjection={"baseTime": "0s"}), "spec.outlierEjection.baseTime", "is too short"),
    (
        policy(outlierEjection={"baseTime": "2m", "maxTime": "1m"}),
        "spec.outlierEjection.maxTime",
        "1m is less than baseTime, 2m",
    ),
    (policy(outlierEjection={"panicPercent": -1}), "spec.outlierEjection.panicPercent", "out of bounds"),
    # Timeouts and retries.
    (policy(timeouts={"connect": "0s"}), "spec.timeouts.connect", "is too short"),
    (policy(timeouts={"connect": "2m"}), "spec.timeouts.connect", "is too long"),
    (policy(timeouts={"connect": "5 s"}), "spec.timeouts.connect", "is not well-formed"),
    (
        policy(timeouts={"request": "1s", "perTry": "2s"}),
        "spec.timeouts.request",
        "1s is less than perTry, 2s",
    ),
    (policy(retries={"attempts": 11}), "spec.retries.attempts", "out of bounds"),
    (policy(retries={"on": ["5xx"]}), "spec.retries.on[0]", "is not known"),
    (policy(retries={"on": ["reset", "reset"]}), "spec.retries.on[1]", "already taken"),
    (policy(retries={"codes": [503, 503]}), "spec.retries.codes[1]", "already taken"),
    (policy(retries={"grpcCodes": [0]}), "spec.retries.grpcCodes[0]", "out of bounds"),
    (policy(retries={"backoff": "1s"}), "spec.retries.maxBackoff", "250ms is less than backoff, 1s"),
    (policy(retries={"hedgeAfter": "0s"}), "spec.retries.hedgeAfter", "is too short"),
    (policy(retries={"attempts": 0, "hedgeAfter": "1s"}), "spec.retries.hedgeAfter", "attempts is 0"),
    (policy(retries={"budget": {"window": "0s"}}), "spec.retries.budget.window", "is too short"),
    (policy(retries={"budget": {"percent": 101}}), "spec.retries.budget.percent", "out of bounds"),
    # Rates.
    (rate(requests=0), "spec.rateLimits[0].requests", "out of bounds"),
    (rate(per="0s"), "spec.rateLimits[0].per", "is too short"),
    (rate(per="2h"), "spec.rateLimits[0].per", "is too long"),
    (rate(per="500ms", scope="Mesh"), "spec.rateLimits[0].per", "shorter than the second"),
    (rate(burst=36001), "spec.rateLimits[0].burst", "nothing is limited"),
    (rate(key={"type": "Header"}), "spec.rateLimits[0].key.header", "is missing"),
    (rate(key={"header": "x"}), "spec.rateLimits[0].key.header", "stands beside type Service"),
    (rate(matches=[{"path": {"value": "x"}}]), "spec.rateLimits[0].matches[0].path.value", "is no path"),
    (
        rate(matches=[{"path": {"type": "RegularExpression", "value": "("}}]),
        "spec.rateLimits[0].matches[0].path.value",
        "is no regular expression",
    ),
    (
        policy(rateLimits=[{"name": "a", "requests": 1}] * 2),
        "spec.rateLimits[1].name",
        "already taken",
    ),
    (
        policy(connectionRates=[{"connections": 1, "key": HEADER_KEY}]),
        "spec.connectionRates[0].key.type",
        "connections have not",
    ),
    (
        policy(connectionRates=[{"connections": 1}, {"connections": 2}]),
        "spec.connectionRates[1].key.type",
        "already taken",
    ),
    (policy(bandwidths=[{}]), "spec.bandwidths[0]", "limits nothing"),
    (
        policy(bandwidths=[{"upload": 1, "key": HEADER_KEY}]),
        "spec.bandwidths[0].key.type",
        "connections have not",
    ),
    # Faults.
    (fault(), "spec.faults[0]", "does nothing"),
    (fault(abort={"percent": 10}), "spec.faults[0].abort", "has no status"),
    (fault(abort={**ABORT, "grpcStatus": 14}), "spec.faults[0].abort.grpcStatus", "beside httpStatus"),
    (fault(abort={**ABORT, "httpStatus": 199}), "spec.faults[0].abort.httpStatus", "out of bounds"),
    (fault(abort={**ABORT, "percent": 101}), "spec.faults[0].abort.percent", "out of bounds"),
    (fault(delay={"percent": 1, "duration": "0s"}), "spec.faults[0].delay.duration", "is too short"),
    (fault(delay={"percent": 1, "duration": "6m"}), "spec.faults[0].delay.duration", "is too long"),
    (
        fault(abort=ABORT, matches=[{"method": "CONNECT"}]),
        "spec.faults[0].matches[0].method",
        "answered by the proxy",
    ),
    (policy(faults=[{"name": "a", "abort": ABORT}] * 2), "spec.faults[1].name", "already taken"),
    # Trust.
    (policy(trustedForwarders=["edge"]), "spec.trustedForwarders[0]", "is no caller"),
    (policy(trustedForwarders=["*/*"]), "spec.trustedForwarders[0]", "is no caller"),
    (policy(trustedForwarders=["spiffe://x/ns/a/sa/b"]), "spec.trustedForwarders[0]", "is no caller"),
    (policy(trustedForwarders=["a/b", "a/b"]), "spec.trustedForwarders[1]", "already taken"),
]


@pytest.mark.parametrize(
    ("document", "where", "reason"), WRONG, ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrong(document: dict[str, Any], where: str, reason: str) -> None:
    """A policy with one mistake is refused at its field, with the reason."""
    error = refusal(document)
    assert (error.path, reason in error.reason) == (where, True), error.reason


@pytest.mark.parametrize(
    "document",
    [
        policy(targetRefs=[TARGET, {**TARGET, "name": "api"}]),
        balancing(policy="RingHash", hashOn={"type": "Header", "name": "x-user"}, boundedLoad=1.5),
        balancing(stickySession={"key": {"type": "Cookie", "name": "s"}, "ttl": "24h"}),
        policy(timeouts={"request": "0s", "perTry": "2s", "idle": "0s"}),
        policy(retries={"attempts": 0}),
        rate(per="500ms", burst=36000),
        rate(key=HEADER_KEY, scope="Mesh"),
        policy(connectionRates=[{"connections": 1}, {"connections": 1, "key": {"type": "Caller"}}]),
        policy(bandwidths=[{"download": 1000000}]),
        fault(abort={"percent": 0.5, "grpcStatus": 14}, delay={"percent": 100, "duration": "5m"}),
        policy(trustedForwarders=["*", "edge/*", "*/gateway", "edge/gw-*"]),
    ],
)
def test_right(document: dict[str, Any]) -> None:
    """What makes sense is taken."""
    assert from_builtins(document, where="key").KIND == "BackendPolicy"
