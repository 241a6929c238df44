"""The routing cases that are data, one by one."""

import random
from collections import Counter

import pytest

from tests.registry.rules.routing.cases import Case, Scenario, read_scenarios
from tests.registry.rules.routing.outcome import assert_outcome, assert_shares
from tests.registry.rules.routing.play import play

SCENARIOS = list(read_scenarios())
CASES = [
    pytest.param(scenario, case, id=f"{file}: {scenario.name} [{number}]")
    for file, scenario in SCENARIOS
    for number, case in enumerate(scenario.cases)
]
# With so many draws a share that is off by two points is not chance: more than five standard deviations.
DRAWS = 20_000


@pytest.mark.parametrize(("scenario", "case"), CASES)
def test_case(scenario: Scenario, case: Case) -> None:
    """The request reaches what the case says, in the shape it says, or gets the answer it says."""
    book, rng = scenario.book(), random.Random(7)  # noqa: S311 - nothing secret comes of it
    if case.shares is not None or case.mirrors is not None:
        outcomes = [play(book, case, rng) for _ in range(DRAWS)]
        if case.shares is not None:
            reached = Counter(each.backend or str(each.status) for each in outcomes)
            assert_shares(reached, case.shares, draws=DRAWS, within=0.02)
        if case.mirrors is not None:
            copied = Counter(name for each in outcomes for name in each.mirrors)
            assert_shares(copied, case.mirrors, draws=DRAWS, within=0.02)
    outcome = play(book, case, rng)
    assert_outcome(case, outcome)


def test_each_says_what_it_expects() -> None:
    """No case passes because it expects nothing."""
    for _, scenario in SCENARIOS:
        for case in scenario.cases:
            given = (case.backend, case.status, case.shares, case.mirrors)
            assert any(each is not None for each in given), scenario.name


def test_there_are_enough() -> None:
    """There are at least a hundred cases."""
    assert len(CASES) >= 100
