import random

import pytest

from registry.model.backend_policy import Retries, RetryReason
from registry.model.backend_policy import RetryBudget as BudgetModel
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.retrying import (
    Again,
    Enough,
    RetryBudget,
    Tried,
    Why,
    compile_retries,
    decide,
    hedge_after,
)
from registry.rules.routing.values import RouteRetry

EVERYTHING = tuple(RetryReason)
UNSENT = Tried(Outcome.UNREACHED, untouched=True)
REFUSED_UNSEEN = Tried(Outcome.RESET, untouched=True)
RESET = Tried(Outcome.RESET)
TIMEOUT = Tried(Outcome.TIMEOUT)
ABANDONED = Tried(Outcome.ABANDONED)


def answered(status: int, grpc: int | None = None) -> Tried:
    """Give a try that was answered."""
    return Tried(Outcome.SERVER_ERROR, status=status, grpc_status=grpc)


def decided(
    tried: Tried,
    retries: Retries = Retries(),  # noqa: B008 - immutable
    route: RouteRetry | None = None,
    *,
    number: int = 1,
    method: bytes = b"GET",
    replayable: bool = True,
    left: float | None = None,
    budget: RetryBudget | None = None,
) -> Again | Enough:
    """Decide about one try, with an ample budget unless one is given."""
    return decide(
        compile_retries(retries, route),
        budget or RetryBudget(BudgetModel(minimum_per_second=100)),
        tried,
        number=number,
        method=method,
        replayable=replayable,
        now=0.0,
        rng=random.Random(5),  # noqa: S311 - repeatable on purpose
        left=left,
    )


def why(decision: Again | Enough) -> Why | RetryReason:
    """Give what a decision says."""
    return decision.why if isinstance(decision, Enough) else decision.reason


class TestReasons:
    @pytest.mark.parametrize(
        ("tried", "reason"),
        [
            (UNSENT, RetryReason.UNSENT),
            (REFUSED_UNSEEN, RetryReason.UNSENT),
            (RESET, RetryReason.RESET),
            (TIMEOUT, RetryReason.TIMEOUT),
            (answered(502), RetryReason.GATEWAY_ERROR),
            (answered(503), RetryReason.GATEWAY_ERROR),
            (answered(504), RetryReason.GATEWAY_ERROR),
        ],
    )
    def test_only_what_is_asked_for(self, tried: Tried, reason: RetryReason) -> None:
        """A failure is tried again for its own reason and no other."""
        assert why(decided(tried, Retries(on=(reason,)))) is reason
        others = tuple(each for each in EVERYTHING if each is not reason)
        if tried is REFUSED_UNSEEN:
            # It is a reset besides.
            assert why(decided(tried, Retries(on=others))) is RetryReason.RESET
        elif tried is UNSENT:
            assert why(decided(tried, Retries(on=others))) is RetryReason.RESET
        else:
            assert why(decided(tried, Retries(on=others))) is Why.FINAL

    @pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 429, 500, 501])
    def test_other_answers_are_final(self, status: int) -> None:
        """Answers that are no gateway's error are the caller's, unless they are named."""
        assert why(decided(answered(status), Retries(on=EVERYTHING))) is Why.FINAL
        if status >= 400:
            assert isinstance(decided(answered(status), Retries(codes=(status,))), Again)

    def test_abandoned(self) -> None:
        """What the caller gave up is not tried again, even if nothing was sent."""
        assert why(decided(ABANDONED, Retries(on=EVERYTHING))) is Why.FINAL
        assert why(decided(Tried(Outcome.ABANDONED, untouched=True), Retries(on=EVERYTHING))) is Why.FINAL

    def test_grpc(self) -> None:
        """Of gRPC the status counts, not that of HTTP, which is 200."""
        assert why(decided(answered(200, 14), Retries(on=EVERYTHING), method=b"POST")) is Why.FINAL
        named = Retries(grpc_codes=(14,))
        assert isinstance(decided(answered(200, 14), named, method=b"POST"), Again)
        assert why(decided(answered(200, 13), named, method=b"POST")) is Why.FINAL


class TestSafety:
    @pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"BREW"])
    @pytest.mark.parametrize("tried", [RESET, TIMEOUT, answered(503)])
    def test_methods_that_may_do_harm(self, method: bytes, tried: Tried) -> None:
        """What a server may have done already is not done twice, unless the operator says that it may be."""
        assert why(decided(tried, Retries(on=EVERYTHING), method=method)) is Why.METHOD
        allowed = Retries(on=EVERYTHING, non_idempotent=True)
        assert isinstance(decided(tried, allowed, method=method), Again)

    @pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
    def test_idempotent_methods(self, method: bytes) -> None:
        """Methods that mean the same when done twice are tried again."""
        assert isinstance(decided(RESET, method=method), Again)

    @pytest.mark.parametrize("tried", [UNSENT, REFUSED_UNSEEN])
    def test_untouched(self, tried: Tried) -> None:
        """What surely nothing was done with is tried again whatever the method."""
        assert why(decided(tried, method=b"POST")) is RetryReason.UNSENT

    @pytest.mark.parametrize("tried", [UNSENT, RESET, TIMEOUT, answered(503)])
    def test_never_a_body_that_is_gone(self, tried: Tried) -> None:
        """Without its whole body no request is tried again, whatever the policy."""
        retries = Retries(on=EVERYTHING, non_idempotent=True)
        assert why(decided(tried, retries, replayable=False)) is Why.BODY

    def test_method_case(self) -> None:
        """Methods are case-sensitive: another spelling is another method, and not known to be safe."""
        assert why(decided(RESET, method=b"get")) is Why.METHOD


class TestRoutes:
    def test_codes_of_a_route(self) -> None:
        """The answers that a route names are tried again for every method, others are not."""
        route = RouteRetry(codes=frozenset({500, 409}))
        assert isinstance(decided(answered(500), route=route, method=b"POST"), Again)
        assert isinstance(decided(answered(409), route=route), Again)
        assert why(decided(answered(503), route=route)) is Why.FINAL
        assert why(decided(answered(503), Retries(codes=(503,)), route=route)) is Why.FINAL

    def test_route_without_codes(self) -> None:
        """A route that names none leaves it to the policy of the service."""
        assert isinstance(decided(answered(503), route=RouteRetry()), Again)
        assert isinstance(decided(answered(500), Retries(codes=(500,)), route=RouteRetry()), Again)

    @pytest.mark.parametrize("tried", [UNSENT, RESET, TIMEOUT])
    def test_failed_connections(self, tried: Tried) -> None:
        """With a route's `retry` connections that fail are tried again, where that is safe."""
        nothing = Retries(on=())
        assert why(decided(tried, nothing)) is Why.FINAL
        assert isinstance(decided(tried, nothing, route=RouteRetry()), Again)
        if not tried.untouched:
            assert why(decided(tried, nothing, route=RouteRetry(), method=b"POST")) is Why.METHOD

    @pytest.mark.parametrize(("attempts", "tries"), [(0, 0), (3, 3), (None, 2)])
    def test_attempts(self, attempts: int | None, tries: int) -> None:
        """A route's number of attempts goes before the policy's."""
        route = RouteRetry(attempts=attempts)
        policy = Retries(attempts=7)
        allowed = [isinstance(decided(RESET, policy, route, number=number), Again) for number in range(1, 9)]
        assert allowed.count(True) == tries

    def test_least_pause(self) -> None:
        """A route's `backoff` is kept also before a try of what was never sent."""
        decision = decided(UNSENT, route=RouteRetry(backoff=0.5))
        assert isinstance(decision, Again)
        assert decision.delay >= 0.5


class TestAttempts:
    def test_bounded(self) -> None:
        """After so many tries it is enough."""
        assert isinstance(decided(RESET, Retries(attempts=2), number=2), Again)
        assert why(decided(RESET, Retries(attempts=2), number=3)) is Why.ATTEMPTS
        assert why(decided(UNSENT, Retries(attempts=0))) is Why.ATTEMPTS


class TestPauses:
    def test_grow(self) -> None:
        """Pauses double up to their longest, each with up to half as much again."""
        retries = Retries(attempts=10, backoff="25ms", max_backoff="250ms")
        for number, least in enumerate([0.025, 0.05, 0.1, 0.2, 0.25, 0.25], start=1):
            decision = decided(RESET, retries, number=number)
            assert isinstance(decision, Again)
            assert least <= decision.delay <= 1.5 * least

    def test_first_retry_of_what_was_not_sent(self) -> None:
        """Where nothing was sent another endpoint is tried at once; the time after that with a pause."""
        first, second = (decided(UNSENT, number=number) for number in (1, 2))
        assert isinstance(first, Again)
        assert isinstance(second, Again)
        assert first.delay == 0.0
        assert second.delay > 0.0

    def test_deadline(self) -> None:
        """When the pause would outlast the deadline there is no use in it."""
        assert isinstance(decided(RESET, left=1.0), Again)
        assert why(decided(RESET, left=0.02)) is Why.DEADLINE


class TestBudget:
    def test_share(self) -> None:
        """Retries are at most the share of the requests of the window."""
        budget = RetryBudget(BudgetModel(percent=20, minimum_per_second=0))
        for _ in range(100):
            budget.requested(0.0)
        assert sum(budget.take(0.0) for _ in range(100)) == 20

    def test_floor(self) -> None:
        """A service with few requests has a few retries a second all the same."""
        budget = RetryBudget(BudgetModel(percent=20, minimum_per_second=3, window="10s"))
        budget.requested(0.0)
        assert sum(budget.take(0.0) for _ in range(100)) == 30

    def test_floor_is_divided(self) -> None:
        """The few a second are the node's, and divided among its workers."""
        budget = RetryBudget(BudgetModel(percent=0, minimum_per_second=4, window="10s"), workers=4)
        assert sum(budget.take(0.0) for _ in range(100)) == 10

    def test_renewed(self) -> None:
        """What was spent comes back when it has left the window."""
        budget = RetryBudget(BudgetModel(percent=0, minimum_per_second=1, window="10s"))
        assert sum(budget.take(0.0) for _ in range(100)) == 10
        assert not budget.take(9.0)
        assert budget.take(11.0)

    def test_off(self) -> None:
        """With neither share nor floor nothing is tried again."""
        budget = RetryBudget(BudgetModel(percent=0, minimum_per_second=0))
        budget.requested(0.0)
        assert not budget.take(0.0)

    def test_spent(self) -> None:
        """Without budget there is no other try, and what is not tried again costs none."""
        budget = RetryBudget(BudgetModel(percent=0, minimum_per_second=0.1, window="10s"))
        assert why(decided(RESET, budget=budget, number=9)) is Why.ATTEMPTS
        assert isinstance(decided(RESET, budget=budget), Again)
        assert why(decided(RESET, budget=budget)) is Why.BUDGET

    def test_retry_storm(self) -> None:
        """When everything fails at 500 requests/s, what a service is sent grows by a fifth and no more."""
        rng = random.Random(2)  # noqa: S311 - repeatable on purpose
        budget, policy = RetryBudget(BudgetModel()), compile_retries(Retries(attempts=10))
        sent = requests = 0
        for tick in range(60 * 500):
            now = tick / 500
            requests += 1
            budget.requested(now)
            number, again = 1, True
            while again:
                sent += 1
                decision = decide(
                    policy,
                    budget,
                    RESET,
                    number=number,
                    method=b"GET",
                    replayable=True,
                    now=now,
                    rng=rng,
                )
                again, number = isinstance(decision, Again), number + 1
        assert 1.15 < sent / requests <= 1.25


class TestHedging:
    def test_off_by_default(self) -> None:
        """Nothing is hedged unless it is asked for."""
        assert hedge_after(compile_retries(Retries()), method=b"GET", replayable=True) is None

    @pytest.mark.parametrize(
        ("method", "replayable", "attempts", "after"),
        [
            (b"GET", True, 1, 0.1),
            (b"GET", True, 0, None),
            (b"GET", False, 1, None),
            (b"POST", True, 1, None),
        ],
    )
    def test_what_may_be_done_twice(
        self, method: bytes, replayable: bool, attempts: int, after: float | None
    ) -> None:
        """Only what may be done twice, and can be sent twice, is."""
        policy = compile_retries(Retries(hedge_after="100ms", attempts=attempts))
        assert hedge_after(policy, method=method, replayable=replayable) == after
