import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.backend_policy import ConnectionLimits
from registry.rules.balancing.bounds import DEFAULT_PENDING, Bounds, part_of


@given(st.integers(1, 1000), st.integers(1, 64))
def test_parts_add_up(limit: int, workers: int) -> None:
    """The workers' parts are the node's limit, as even as can be; with less than one each it is one each."""
    parts = [part_of(limit, index, workers) for index in range(workers)]
    assert sum(parts) == max(limit, workers)
    assert max(parts) - min(parts) <= 1


def test_no_limit() -> None:
    """Without a limit there is none for any worker."""
    assert part_of(None, 0, 4) == math.inf


def test_each_limit_by_itself() -> None:
    """Connections, requests and waiting ones have each their own limit, and room again when one has ended."""
    bounds = Bounds(ConnectionLimits(connections=1, requests=2, pending=3))
    assert [bounds.connect() for _ in range(2)] == [True, False]
    assert [bounds.request() for _ in range(3)] == [True, True, False]
    assert [bounds.wait() for _ in range(4)] == [True, True, True, False]
    bounds.requests -= 1
    assert bounds.request()
    assert not bounds.idle


def test_waiting_is_always_bounded() -> None:
    """Where the policy does not say how many may wait, there is a limit all the same."""
    bounds = Bounds(ConnectionLimits(connections=1))
    assert sum(bounds.wait() for _ in range(DEFAULT_PENDING + 5)) == DEFAULT_PENDING


@pytest.mark.parametrize(("limit", "more"), [(1, False), (5, True)])
def test_changed(limit: int, more: bool) -> None:
    """Another limit holds at once for what comes; what is there stays counted."""
    bounds = Bounds(ConnectionLimits(requests=2))
    bounds.request()
    bounds.request()
    bounds.change(ConnectionLimits(requests=limit))
    assert bounds.request() is more
    assert bounds.requests == 2 + more
