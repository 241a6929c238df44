"""Whether a request that failed is tried again, and when. Pure.

Never twice what may have been done already: a try that was seen by a server is repeated only for methods that
mean the same when done twice (RFC 9110 section 9.2.2), unless the operator has said otherwise. Never a body
that was not kept. Within a budget, so that retries cannot multiply what overloads a service.
Source: Gateway API GEP-1731 for what routes say; Finagle and linkerd for budgets.
"""

import enum
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from registry.model.backend_policy import Retries, RetryReason
from registry.model.backend_policy import RetryBudget as BudgetModel
from registry.model.duration import seconds
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.window import Window
from registry.rules.routing.values import RouteRetry

# RFC 9110 section 9.2.2: safe methods, PUT and DELETE.
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
# Answers of proxies about servers behind them, as Envoy's `gateway-error`.
GATEWAY_ERRORS: Final = frozenset({502, 503, 504})
# A route with `retry` and no number: as many as a BackendPolicy gives by default.
ROUTE_ATTEMPTS: Final = 2
# Callers that failed together must not come back together.
JITTER: Final = (1.0, 1.5)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What is tried again, as numbers; times are seconds.

    `attempts` are the tries after the first. `said` are answers (`said_grpc`: gRPC statuses) that an operator
    has named as worth another try whatever the method; `codes` only where it is safe.
    """

    attempts: int
    reasons: frozenset[RetryReason]
    codes: frozenset[int]
    said: frozenset[int]
    said_grpc: frozenset[int]
    backoff: float
    max_backoff: float
    non_idempotent: bool
    hedge_after: float | None
    # Whether the first retry of what was never sent may go without a pause.
    at_once: bool

    @property
    def never(self) -> bool:
        """Whether nothing is ever tried again, so that no body need be kept."""
        return self.attempts == 0


@lru_cache(maxsize=1024)
def compile_retries(retries: Retries, route: RouteRetry | None = None) -> RetryPolicy:
    """Give the policy of a service, or of a route that has one: what the route says goes first.

    A route's `codes` count for every method: whoever writes the route names them for its very requests. With
    GEP-1731 a route that has `retry` always tries again when a connection fails or times out.
    """
    reasons = frozenset(retries.on)
    if route is not None:
        reasons |= {RetryReason.UNSENT, RetryReason.RESET, RetryReason.TIMEOUT}
        if route.codes:
            # The codes given are all there are.
            reasons -= {RetryReason.GATEWAY_ERROR}
    backoff = seconds(retries.backoff)
    if route is None:
        attempts = retries.attempts
    else:
        attempts = ROUTE_ATTEMPTS if route.attempts is None else route.attempts
        backoff = backoff if route.backoff is None else route.backoff
    return RetryPolicy(
        attempts=attempts,
        reasons=reasons,
        codes=frozenset(retries.codes) if route is None or not route.codes else frozenset(),
        said=route.codes if route is not None else frozenset(),
        said_grpc=frozenset(retries.grpc_codes),
        backoff=backoff,
        max_backoff=max(backoff, seconds(retries.max_backoff)),
        non_idempotent=retries.non_idempotent,
        hedge_after=seconds(retries.hedge_after) if retries.hedge_after else None,
        at_once=route is None or route.backoff is None,
    )


class RetryBudget:
    """Bounds the retries of one service: a share of its requests, and a few a second whatever there were.

    Args:
        model: what the operator wrote.
        workers: among how many the few a second are divided, each of which counts for itself.
    """

    def __init__(self, model: BudgetModel, *, workers: int = 1) -> None:
        self.model = model
        self._share = model.percent / 100
        length = seconds(model.window) or 1.0
        self._floor = model.minimum_per_second * length / workers
        # `all` are requests, `some` are retries.
        self._window = Window(length)

    def requested(self, now: float) -> None:
        """Count a request, once however often it is tried."""
        self._window.add(now, all=1)

    def take(self, now: float) -> bool:
        """Count a retry, or a hedge, if there may be one."""
        window = self._window
        window.move(now)
        if window.some + 1 > max(window.all * self._share, self._floor):
            return False
        window.add(now, some=1)
        return True


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a try.

    `untouched`: surely nothing was done with it, since nothing of it was sent, or it was refused unseen.
    `status` and `grpc_status` are of the answer, None if there was none.
    """

    outcome: Outcome
    untouched: bool = False
    status: int | None = None
    grpc_status: int | None = None


class Why(enum.Enum):
    """Why there is no other try; the values are labels of a metric."""

    # The answer, or the failure, is none that is tried again: the usual case, and no refusal.
    FINAL = "final"
    ATTEMPTS = "attempts"
    METHOD = "method"
    BODY = "body"
    DEADLINE = "deadline"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `delay` seconds; `reason` is the metric's label."""

    delay: float
    reason: RetryReason


@dataclass(frozen=True, slots=True)
class Enough:
    """Give the caller what there is."""

    why: Why


def decide(
    policy: RetryPolicy,
    budget: RetryBudget,
    tried: Tried,
    *,
    number: int,
    method: bytes,
    replayable: bool,
    now: float,
    rng: random.Random,
    left: float | None = None,
) -> Again | Enough:
    """Say whether a request is tried again; a retry that may be is taken from the budget.

    Args:
        policy: what is tried again.
        budget: the service's.
        tried: what became of the last try.
        number: how many tries there were, that one included.
        method: the request's; of gRPC always POST.
        replayable: whether the request's body can be sent once more: there is none, or all that was taken
            of it was kept.
        now: seconds of a monotonic clock.
        rng: where the jitter comes from.
        left: seconds until the request's deadline; None without one.
    """
    found = _reason(policy, tried)
    if found is None:
        return Enough(Why.FINAL)
    reason, safe = found
    if number > policy.attempts:
        return Enough(Why.ATTEMPTS)
    if not (safe or policy.non_idempotent or method in IDEMPOTENT):
        return Enough(Why.METHOD)
    if not replayable:
        return Enough(Why.BODY)
    delay = 0.0
    if not (policy.at_once and tried.untouched and number == 1):
        grown = min(policy.max_backoff, policy.backoff * 2.0 ** (number - 1))
        delay = grown * rng.uniform(*JITTER)
    if left is not None and delay >= left:
        return Enough(Why.DEADLINE)
    if not budget.take(now):
        return Enough(Why.BUDGET)
    return Again(delay, reason)


def hedge_after(policy: RetryPolicy, *, method: bytes, replayable: bool) -> float | None:
    """Give the seconds after which a second try begins beside the first; None for never.

    Both may be served, so that only what may be done twice is hedged. It is taken from the budget when it
    begins (`RetryBudget.take`), and counts as one of the attempts.
    """
    if policy.hedge_after is None or policy.never or not replayable:
        return None
    return policy.hedge_after if policy.non_idempotent or method in IDEMPOTENT else None


def _reason(policy: RetryPolicy, tried: Tried) -> tuple[RetryReason, bool] | None:
    """Say what a try is repeated for, and whether that is safe for every method; None if it is not."""
    reasons = policy.reasons
    if tried.outcome is Outcome.ABANDONED:
        return None
    if tried.untouched and RetryReason.UNSENT in reasons:
        return RetryReason.UNSENT, True
    if tried.grpc_status is not None:
        return (RetryReason.GATEWAY_ERROR, True) if tried.grpc_status in policy.said_grpc else None
    if tried.status is not None:
        if tried.status in policy.said:
            return RetryReason.GATEWAY_ERROR, True
        wanted = tried.status in policy.codes or (
            RetryReason.GATEWAY_ERROR in reasons and tried.status in GATEWAY_ERRORS
        )
        return (RetryReason.GATEWAY_ERROR, False) if wanted else None
    if tried.outcome is Outcome.TIMEOUT:
        return (RetryReason.TIMEOUT, False) if RetryReason.TIMEOUT in reasons else None
    if tried.outcome in (Outcome.RESET, Outcome.UNREACHED) and RetryReason.RESET in reasons:
        return RetryReason.RESET, False
    return None
