"""Log lines that callers can cause as often as they like."""

from node_proxy.dataplane.quiet import INTERVAL, MAX_SORTS, Quiet


def test_one_of_a_sort() -> None:
    """Of a sort one line is written in each interval, and the next says how many were not."""
    quiet = Quiet()
    assert quiet.ask("a", 0.0) == 0
    assert [quiet.ask("a", 0.1 * n) for n in range(1, 4)] == [None] * 3
    assert quiet.ask("a", INTERVAL) == 3
    assert quiet.ask("a", 2 * INTERVAL) == 0


def test_other_sorts() -> None:
    """Each sort is counted by itself."""
    quiet = Quiet()
    assert (quiet.ask("a", 0.0), quiet.ask("b", 0.0), quiet.ask("a", 0.0)) == (0, 0, None)


def test_bounded() -> None:
    """Of more sorts than are remembered the oldest is forgotten: it writes once more, and no memory grows."""
    quiet = Quiet()
    for number in range(MAX_SORTS + 1):
        assert quiet.ask(number, 0.0) == 0
    assert quiet.ask(MAX_SORTS, 0.1) is None
    assert quiet.ask(0, 0.1) == 0
    assert len(quiet._written) == MAX_SORTS
