from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.backlog import Backlog


class Reader:
    """A stream that holds bytes; says goodbye when it is cut, as relays do."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        self.cuts = 0

    def cut(self, _outcome: str) -> None:
        """Let go."""
        self.cuts += 1
        self.backlog.forget(self)


def test_largest_is_cut_over_the_limit() -> None:
    """When the sum passes the limit, the stream that holds most goes, and no other."""
    backlog = Backlog(100)
    small, large, last = (Reader(backlog) for _ in range(3))
    backlog.grew(small, 30)
    backlog.grew(large, 60)
    backlog.grew(last, 11)
    assert (small.cuts, large.cuts, last.cuts) == (0, 1, 0)
    assert (backlog.total, backlog.cuts) == (41, 1)


def test_the_one_that_grows_may_be_the_one() -> None:
    """A stream may be cut by its own growth."""
    backlog = Backlog(100)
    reader = Reader(backlog)
    backlog.grew(reader, 101)
    assert (reader.cuts, backlog.total) == (1, 0)


def test_forgetting_twice_is_harmless() -> None:
    """A stream that holds nothing may say that it is gone."""
    backlog = Backlog(100)
    reader = Reader(backlog)
    backlog.grew(reader, 10)
    backlog.forget(reader)
    backlog.forget(reader)
    assert backlog.total == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), max_size=50))
def test_sum_stays_below_the_limit(growths: list[tuple[int, int]]) -> None:
    """Whoever grows by however much, the sum is that of those who are left, and within the limit."""
    backlog = Backlog(100)
    readers = [Reader(backlog) for _ in range(6)]
    for index, amount in growths:
        backlog.grew(readers[index], amount)
        assert backlog.total <= 100
        backlog.shrank(readers[index], 1) if readers[index] in backlog._held else None
    assert backlog.total == sum(backlog._held.values())
