"""The routing cases that are data, asked through real proxies: what is routed is what the rules say."""

import math
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.integration.certificates import Authority
from tests.integration.routing_mesh import Ask, Mesh, run_mesh
from tests.integration.workloads import PATIENCE
from tests.registry.rules.routing.cases import Case, Scenario, read_scenarios
from tests.registry.rules.routing.outcome import assert_outcome, assert_shares

SCENARIOS = [
    pytest.param(scenario, id=f"{file}: {scenario.name}")
    for file, scenario in read_scenarios()
    if any(case.replayable for case in scenario.cases)
]
# The proxies' draws have no seed: shares are off by four standard deviations once in sixteen thousand runs.
DRAWS = 1000
WITHIN = 4 * math.sqrt(0.25 / DRAWS)
# No copy takes so long.
QUIET = 0.3


@pytest.fixture(scope="module")
def mesh(authority: Authority) -> Iterator[Mesh]:
    with run_mesh(authority) as mesh:
        yield mesh


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(mesh: Mesh, scenario: Scenario) -> None:
    """Each request reaches what its case says, in the shape it says, or gets the answer it says."""
    mesh.lead(scenario)
    for case in scenario.cases:
        if not case.replayable:
            continue
        with mesh.caller(case) as ask:
            if case.shares is not None or case.mirrors is not None:
                assert_many(mesh, case, ask)
            else:
                assert_outcome(case, ask())


def assert_many(mesh: Mesh, case: Case, ask: Ask) -> None:
    """Ask so often that chance evens out; less where there is none in it."""
    shares = (case.shares or {}) | (case.mirrors or {})
    draws = DRAWS if any(0 < share < 1 for share in shares.values()) else DRAWS // 10
    mesh.reached.clear()
    outcomes = [ask() for _ in range(draws)]
    answered = Counter(each.backend or str(each.status) for each in outcomes)
    if case.shares is not None:
        assert_shares(answered, case.shares, draws=draws, within=WITHIN)
    if case.mirrors is not None:
        wait_for_copies(mesh)
        copied = mesh.reached - answered
        assert_shares(copied, case.mirrors, draws=draws, within=WITHIN)


def wait_for_copies(mesh: Mesh) -> None:
    """Wait until no more requests reach a backend: nobody waits for the answers to copies."""
    deadline = time.monotonic() + PATIENCE
    before = -1
    while before != (before := mesh.reached.total()) and time.monotonic() < deadline:
        time.sleep(QUIET)


def test_there_are_enough() -> None:
    """At least eighty cases are asked through the proxies."""
    assert sum(case.replayable for _, scenario in read_scenarios() for case in scenario.cases) >= 80
