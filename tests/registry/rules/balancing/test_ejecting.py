import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.backend_policy import OutlierEjection
from registry.rules.balancing.candidate import Record
from registry.rules.balancing.ejecting import Ejected, EjectionRule, Ejector

CONSECUTIVE = OutlierEjection(consecutive_failures=3, base_time="5s", max_time="60s")
RATES = OutlierEjection(
    consecutive_failures=1_000_000, success_percent_below=30, minimum_requests=10, window="10s"
)


class Endpoints:
    """Records of endpoints that one ejector judges."""

    def __init__(self, model: OutlierEjection, count: int = 4) -> None:
        self.ejector = Ejector(EjectionRule.of(model))
        self.records = [Record() for _ in range(count)]
        self.now = 1.0

    def answer(self, number: int, *answers: bool) -> list[Ejected]:
        """Let an endpoint succeed or fail, in this order."""
        ejected: list[Ejected] = []
        for good in answers:
            record = self.records[number]
            ejected += self.ejector.judge(record, self.records, failed=not good, now=self.now)
        return ejected

    @property
    def ejected(self) -> list[int]:
        """Which endpoints are ejected now."""
        return [n for n, record in enumerate(self.records) if record.ejected_until > self.now]


class TestConsecutive:
    def test_failures_in_a_row(self) -> None:
        """So many failures in a row eject; a success between them begins the count anew."""
        at = Endpoints(CONSECUTIVE)
        assert at.answer(0, False, False, True, False, False) == []
        (ejected,) = at.answer(0, False)
        assert (ejected.seconds, ejected.cause) == (5.0, "failures")
        assert at.ejected == [0]

    def test_counts_are_apart(self) -> None:
        """Failures of different endpoints do not add up."""
        at = Endpoints(CONSECUTIVE)
        assert [at.answer(number, False, False) for number in range(4)] == [[]] * 4

    def test_back_on_probation(self) -> None:
        """Who comes back and fails once is ejected again, for twice as long."""
        at = Endpoints(CONSECUTIVE)
        at.answer(0, False, False, False)
        times = []
        for _ in range(6):
            at.now = at.records[0].ejected_until
            (ejected,) = at.answer(0, False)
            times.append(ejected.seconds)
        assert times == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]

    def test_cleared_by_a_success(self) -> None:
        """Who comes back and succeeds is held to no more than the others."""
        at = Endpoints(CONSECUTIVE)
        at.answer(0, False, False, False)
        at.now = at.records[0].ejected_until
        assert at.answer(0, True, False, False) == []

    def test_long_good_conduct(self) -> None:
        """An ejection long past does not make the next one longer."""
        at = Endpoints(CONSECUTIVE)
        at.answer(0, False, False, False)
        at.now = at.records[0].ejected_until + 61.0
        at.answer(0, True)
        (ejected,) = at.answer(0, False, False, False)
        assert ejected.seconds == 5.0

    def test_late_failures(self) -> None:
        """What was under way when the endpoint was ejected makes it no longer."""
        at = Endpoints(CONSECUTIVE)
        at.answer(0, False, False, False)
        until = at.records[0].ejected_until
        assert at.answer(0, *[False] * 50) == []
        assert at.records[0].ejected_until == until


class TestCap:
    @pytest.mark.parametrize(
        ("count", "percent", "most"),
        [(4, 50, 2), (5, 50, 2), (10, 10, 1), (3, 1, 1), (2, 50, 1), (1, 100, 0)],
    )
    def test_share(self, count: int, percent: float, most: int) -> None:
        """No more than the share is ejected at once; always one may be, but never the only one."""
        model = OutlierEjection(consecutive_failures=1, max_ejected_percent=percent)
        at = Endpoints(model, count)
        for number in range(count):
            at.answer(number, False)
        assert len(at.ejected) == most

    def test_never(self) -> None:
        """With a share of 0 nobody is ejected."""
        at = Endpoints(OutlierEjection(consecutive_failures=1, max_ejected_percent=0))
        at.answer(0, *[False] * 10)
        assert at.ejected == []

    def test_room_again(self) -> None:
        """When one comes back another may go."""
        at = Endpoints(OutlierEjection(consecutive_failures=1, max_ejected_percent=50), 2)
        at.answer(0, False)
        assert at.answer(1, False) == []
        at.now = at.records[0].ejected_until
        assert len(at.answer(1, False)) == 1


class TestSuccessRate:
    def test_outlier(self) -> None:
        """Who succeeds much less often than the others is ejected at the end of the interval."""
        at = Endpoints(RATES)
        at.answer(0, True)
        at.now += 5.0
        for number in range(4):
            at.answer(number, *([True, False] * 20 if number == 2 else [True] * 40))
        assert at.ejected == []
        at.now += 5.0
        (ejected,) = at.answer(0, True)
        assert (ejected.record, ejected.cause) == (at.records[2], "success_rate")

    def test_all_are_bad(self) -> None:
        """Where all fail alike nobody stands out."""
        at = Endpoints(RATES)
        at.answer(0, True)
        for number in range(4):
            at.answer(number, *[True, False] * 20)
        at.now += 10.0
        assert at.answer(0, True) == []

    def test_too_few_answers(self) -> None:
        """A handful of answers says nothing."""
        at = Endpoints(RATES)
        at.answer(0, True)
        for number in range(4):
            at.answer(number, *([False] * 9 if number == 2 else [True] * 40))
        at.now += 10.0
        assert at.answer(0, True) == []

    def test_each_interval_by_itself(self) -> None:
        """What an endpoint did in an interval that is over does not count in the next."""
        at = Endpoints(RATES)
        at.answer(0, True)
        for number in range(4):
            at.answer(number, *([False] * 20 if number == 2 else [True] * 40))
        at.now += 10.0
        assert len(at.answer(0, True)) == 1
        at.now = at.records[2].ejected_until
        for number in range(4):
            at.answer(number, *[True] * 40)
        at.now += 10.0
        assert at.answer(0, True) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 3)), max_size=200))
def test_cap_holds_always(answers: list[tuple[int, bool, float]]) -> None:
    """Whatever comes, half of the endpoints or more are left, and no ejection is longer than the longest."""
    model = OutlierEjection(
        consecutive_failures=2, success_percent_below=10, minimum_requests=2, base_time="1s", max_time="4s"
    )
    at = Endpoints(model, 5)
    for number, good, pause in answers:
        at.now += pause
        at.answer(number, good)
        assert len(at.ejected) <= 2
        assert all(record.ejected_until <= at.now + 4.0 for record in at.records)
