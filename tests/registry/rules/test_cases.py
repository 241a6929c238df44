"""The authorization cases that are data, one by one."""

import pytest

from registry.rules import Permit, authorize, explain
from tests.registry.rules.cases import Case, Scenario, compile_for, read_scenarios, read_world, request_of

WORLD = read_world()
CASES = [
    pytest.param(scenario, case, id=f"{file}: {scenario.name} [{number}]")
    for file, scenario in read_scenarios()
    for number, case in enumerate(scenario.cases)
]


@pytest.mark.parametrize(("scenario", "case"), CASES)
def test_case(scenario: Scenario, case: Case) -> None:
    """The verdict, the policy that decides and the policies that watch are those the case expects."""
    policies, request = compile_for(scenario, case, WORLD), request_of(case, WORLD)
    decision = authorize(policies, request)
    assert ("allow" if isinstance(decision, Permit) else "deny", decision.policy) == (case.verdict, case.by)
    if case.rule is not None:
        assert decision.rule == case.rule
    if case.audited is not None:
        assert decision.audited == case.audited
    assert explain(policies, request).decision == decision


def test_there_are_enough() -> None:
    """There are at least sixty cases that two real proxies can be asked, and more that need HTTP."""
    replayable = [case for _, scenario in read_scenarios() for case in scenario.replayable()]
    assert len(replayable) >= 60
    assert len(CASES) >= 120
