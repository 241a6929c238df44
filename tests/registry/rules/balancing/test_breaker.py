import pytest

from registry.model.backend_policy import CircuitBreaker
from registry.rules.balancing.breaker import Breaker, BreakerRule, State

IN_A_ROW = CircuitBreaker(consecutive_failures=3, open_for="5s", half_open_probes=2)
BY_RATE = CircuitBreaker(success_percent=50, minimum_requests=10, window="10s")


def breaker(model: CircuitBreaker = IN_A_ROW) -> Breaker:
    """Give a closed breaker."""
    return Breaker(BreakerRule.of(model))


def opened() -> Breaker:
    """Give one that has opened at 0 s."""
    made = breaker()
    for _ in range(3):
        made.record(0.0, failed=True)
    return made


class TestOpens:
    def test_after_failures_in_a_row(self) -> None:
        """It opens with the last of so many failures in a row, and says so once."""
        made = breaker()
        assert [
            made.record(0.0, failed=failed) for failed in (True, True, False, True, True, True, True)
        ] == [
            *[False] * 5,
            True,
            False,
        ]
        assert made.state is State.OPEN
        assert not made.allow(0.0)

    def test_by_success_rate(self) -> None:
        """It opens when too few of enough requests within the window succeed."""
        made = breaker(BY_RATE)
        for _ in range(5):
            made.record(0.0, failed=False)
        assert [made.record(0.0, failed=True) for _ in range(6)] == [*[False] * 5, True]

    def test_too_few_requests(self) -> None:
        """A few failures say nothing of the rate."""
        made = breaker(BY_RATE)
        assert not any(made.record(0.0, failed=True) for _ in range(9))
        assert made.allow(0.0)

    def test_old_failures_are_forgotten(self) -> None:
        """Failures that have left the window do not open it."""
        made = breaker(BY_RATE)
        for _ in range(9):
            made.record(0.0, failed=True)
        assert not made.record(11.0, failed=True)

    def test_neither_is_asked_for(self) -> None:
        """Without a rule nothing opens it."""
        made = breaker(CircuitBreaker())
        assert not any(made.record(0.0, failed=True) for _ in range(100))


class TestHalfOpen:
    def test_probes(self) -> None:
        """When its time is over so many requests pass, and no more."""
        made = opened()
        assert not made.allow(4.9)
        assert [made.allow(5.0) for _ in range(4)] == [True, True, False, False]
        assert made.state is State.HALF_OPEN

    def test_closes(self) -> None:
        """When all probes have succeeded it is closed, with a clean count."""
        made = opened()
        made.allow(5.0)
        assert not made.record(5.0, failed=False)
        assert made.record(5.0, failed=False)
        assert made.state is State.CLOSED
        assert not any(made.record(5.0, failed=True) for _ in range(2))

    def test_opens_again(self) -> None:
        """One failed probe opens it for another while."""
        made = opened()
        made.allow(5.0)
        assert made.record(5.5, failed=True)
        assert not made.allow(10.4)
        assert made.allow(10.5)

    def test_probes_that_never_return(self) -> None:
        """Probes that say nothing for as long as it was open are given up for new ones."""
        made = opened()
        assert [made.allow(5.0) for _ in range(3)] == [True, True, False]
        assert not made.allow(9.9)
        assert [made.allow(10.0) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("failed", [True, False])
def test_late_news(failed: bool) -> None:
    """What was under way when it opened changes nothing."""
    made = opened()
    assert not made.record(1.0, failed=failed)
    assert not made.allow(4.9)
    assert made.allow(5.0)
