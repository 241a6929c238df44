from hypothesis import given
from hypothesis import strategies as st

from registry.rules.balancing.window import SLOTS, Window


def test_counts() -> None:
    """Both kinds are counted, each by itself."""
    window = Window(10.0)
    window.add(0.0, all=3)
    window.add(1.0, all=1, some=2)
    assert (window.all, window.some) == (4, 2)


def test_forgets() -> None:
    """What is older than the window is forgotten, what is younger is not."""
    window = Window(10.0)
    window.add(0.0, all=1)
    window.add(5.0, all=1)
    window.move(8.9)
    assert window.all == 2
    window.move(10.0)
    assert window.all == 1
    window.move(1000.0)
    assert window.all == 0


def test_cleared() -> None:
    """Nothing is left of what was cleared, then or later."""
    window = Window(10.0)
    window.add(0.0, all=5, some=5)
    window.clear()
    window.move(10.5)
    assert (window.all, window.some) == (0, 0)


@given(st.lists(st.tuples(st.floats(0, 4), st.integers(0, 5)), max_size=60))
def test_like_a_list(steps: list[tuple[float, int]]) -> None:
    """The count lies between those of a window a little shorter and one a little longer."""
    window, now = Window(10.0), 0.0
    seen: list[tuple[float, int]] = []
    for pause, count in steps:
        now += pause
        window.add(now, all=count)
        seen.append((now, count))
        width = 10.0 / SLOTS
        least = sum(each for when, each in seen if when > now - 10.0 + 2 * width)
        most = sum(each for when, each in seen if when >= now - 10.0 - width)
        assert least <= window.all <= most
