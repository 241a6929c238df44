import pytest

from registry.rules.balancing.outcome import Outcome, outcome_of


@pytest.mark.parametrize(
    ("status", "grpc", "outcome"),
    [
        (200, None, Outcome.SUCCESS),
        (404, None, Outcome.SUCCESS),
        (429, None, Outcome.SUCCESS),
        (500, None, Outcome.SERVER_ERROR),
        (503, None, Outcome.SERVER_ERROR),
        (200, 0, Outcome.SUCCESS),
        (200, 5, Outcome.SUCCESS),
        (200, 8, Outcome.SUCCESS),
        (200, 13, Outcome.SERVER_ERROR),
        (200, 14, Outcome.SERVER_ERROR),
    ],
)
def test_answers(status: int, grpc: int | None, outcome: Outcome) -> None:
    """An answer is held against an endpoint only if it says that the server is at fault."""
    assert outcome_of(status, grpc) is outcome


def test_what_counts() -> None:
    """What the caller gave up is no failure, and does not count at all."""
    assert {each for each in Outcome if not each.failed} == {Outcome.SUCCESS, Outcome.ABANDONED}
    assert {each for each in Outcome if not each.counts} == {Outcome.ABANDONED}
