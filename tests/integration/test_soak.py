"""Random flows for a while, both ways at once: sizes, chunks, pauses, half-closes and resets are drawn.

They run once, for all tests. ``SOAK_SEED=…`` draws the same flows again, ``SOAK_FLOWS=…`` more of them.
"""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
import trio

from node_proxy.dataplane import telemetry
from tests.integration.certificates import Authority
from tests.integration.flows import Material, Plan, Role, draw_plans
from tests.integration.levels import Level, drain, level, total, wait_open
from tests.integration.mutual import run_mutual
from tests.integration.soak import Outcome, Soak
from tests.integration.worker import LogLine

SEED = int(os.environ.get("SOAK_SEED", secrets.randbits(32)))
FLOWS = int(os.environ.get("SOAK_FLOWS", 800))


@dataclass
class Course:
    """What was planned and what came of it; of the workers, their levels and last words.

    `tunnels` are those that stay when nothing is in them any more.
    """

    plans: list[Plan]
    soak: Soak
    before: list[Level]
    after: list[Level]
    tunnels: float
    last_words: list[LogLine]

    def outcomes(self, plan: Plan) -> dict[Role, Outcome | None]:
        """Give what each end saw; None when it never heard of the flow."""
        return {role: self.soak.outcomes[role].get(plan.number) for role in Role}


@pytest.fixture(scope="module")
def course(authority: Authority) -> Iterator[Course]:
    """Let all flows run through a pair of workers, and the workers end."""
    # Shown when a test fails.
    print(f"SOAK_SEED={SEED}")
    rng = Random(SEED)  # noqa: S311 - test data
    plans = draw_plans(rng, FLOWS)
    soak = Soak(plans, Material(rng))
    with run_mutual(authority) as hosts:
        workers = [host.worker for host in hosts]
        before = [level(worker) for worker in workers]
        listeners = [listener for host in hosts for listener in host.listeners.values()]
        ports = [port for worker in workers for port in worker.ports.values()]
        trio.run(soak.run, listeners, ports)
        tunnels = sum(total(wait_open(worker, 0), telemetry.TUNNELS_OPEN) for worker in workers)
        after = [level(worker) for worker in workers]
        yield Course(plans, soak, before, after, tunnels, [drain(worker) for worker in workers])


def test_completed_flows_are_exact(course: Course) -> None:
    """Whatever nobody resets arrives whole both ways and ends cleanly at both ends."""
    for plan in course.plans:
        if plan.resetter is None:
            for role, outcome in course.outcomes(plan).items():
                whole = Outcome(plan.halves[role.other].size, exact=True, ended=True, broken=False)
                assert outcome == whole, f"{role} of {plan}, SOAK_SEED={SEED}"


def test_resets_never_look_like_clean_ends(course: Course) -> None:
    """Who is reset hears an error, not an end, and has got nothing but the beginning of what was sent."""
    for plan in course.plans:
        if plan.resetter is not None:
            outcome = course.outcomes(plan)[plan.resetter.other]
            if outcome is not None:
                assert (outcome.exact, outcome.ended, outcome.broken) == (True, False, True), (
                    f"{plan.resetter.other} of {plan} saw {outcome}, SOAK_SEED={SEED}"
                )
    assert not any(course.soak.unnamed), f"SOAK_SEED={SEED}"


def test_who_resets_got_what_was_sent(course: Course) -> None:
    """What came before somebody's own reset is the beginning of what was sent."""
    for plan in course.plans:
        if plan.resetter is not None:
            outcome = course.outcomes(plan)[plan.resetter]
            assert outcome is None or (outcome.exact and not outcome.broken), f"{plan}, SOAK_SEED={SEED}"


def test_descriptors_are_given_back(course: Course) -> None:
    """When the last flow is over, a worker has its former descriptors and one for each tunnel."""
    for before, after in zip(course.before, course.after, strict=True):
        assert after.descriptors <= before.descriptors + course.tunnels


def test_nothing_is_left_open(course: Course) -> None:
    """At the end neither worker has a stream or a connection to cut."""
    assert [(words["cut_inbound"], words["cut_outbound"]) for words in course.last_words] == [(0, 0)] * 2
