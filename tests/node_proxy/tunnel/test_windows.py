from hypothesis import given, settings
from hypothesis import strategies as st

from node_proxy.tunnel.frames import MAX_WINDOW
from node_proxy.tunnel.windows import (
    INITIAL_WINDOW,
    LARGEST_WINDOW,
    ReceiveWindow,
    SendWindow,
    WindowBudget,
)

# One reader's habit: (bytes that arrive, in 256ths of the open window; whether it takes them at once).
READS = st.lists(st.tuples(st.integers(1, 256), st.booleans()), max_size=60)


def read_all(window: ReceiveWindow, amount: int, *, prompt: bool = True) -> int:
    """Receive `amount` bytes in chunks, each delivered; gives the credit."""
    credit = 0
    while amount:
        chunk = min(amount, 64 * 1024)
        assert window.take(chunk)
        credit += window.delivered(chunk, prompt=prompt)
        amount -= chunk
    return credit


def test_starts_at_the_initial_size() -> None:
    """The peer may fill a fresh window, and not one byte more."""
    window = ReceiveWindow(WindowBudget())
    assert window.take(INITIAL_WINDOW)
    assert not window.take(1)


def test_credit_waits_for_half_a_window() -> None:
    """Credit is owed until it is worth a frame."""
    window = ReceiveWindow(WindowBudget())
    window.take(INITIAL_WINDOW)
    assert window.delivered(INITIAL_WINDOW // 2 - 1, prompt=False) == 0
    assert window.delivered(1, prompt=False) == INITIAL_WINDOW // 2


def test_reader_that_takes_nothing_gets_no_credit() -> None:
    """Bytes received and not delivered are never credited."""
    window = ReceiveWindow(WindowBudget())
    window.take(INITIAL_WINDOW)
    assert window.delivered(0, prompt=False) == 0
    assert window.open == 0


def test_grows_for_a_prompt_reader() -> None:
    """Two windows' worth taken at once double the window."""
    window = ReceiveWindow(WindowBudget())
    read_all(window, 2 * INITIAL_WINDOW)
    assert window.size == 2 * INITIAL_WINDOW


def test_growth_is_credited() -> None:
    """The peer may use the growth: all that was read plus the doubling has been credited."""
    window = ReceiveWindow(WindowBudget())
    credit = read_all(window, 2 * INITIAL_WINDOW)
    assert credit == 3 * INITIAL_WINDOW
    assert window.open == 2 * INITIAL_WINDOW


def test_hesitation_starts_the_count_again() -> None:
    """A reader that once let bytes wait must be prompt for two windows anew."""
    window = ReceiveWindow(WindowBudget())
    read_all(window, 2 * INITIAL_WINDOW - 64 * 1024)
    read_all(window, 64 * 1024, prompt=False)
    read_all(window, 2 * INITIAL_WINDOW - 64 * 1024)
    assert window.size == INITIAL_WINDOW


def test_slow_reader_keeps_its_window() -> None:
    """A reader that never takes bytes at once gets credit and no growth."""
    window = ReceiveWindow(WindowBudget())
    assert read_all(window, 16 * INITIAL_WINDOW, prompt=False) == 16 * INITIAL_WINDOW
    assert window.size == INITIAL_WINDOW


def test_growth_ends_at_the_largest_window() -> None:
    """However much is read, a window stays at 4 MiB."""
    window = ReceiveWindow(WindowBudget())
    read_all(window, 64 * LARGEST_WINDOW)
    assert window.size == LARGEST_WINDOW


def test_no_growth_without_budget() -> None:
    """When the budget is spent, windows work at the size they have."""
    window = ReceiveWindow(WindowBudget(INITIAL_WINDOW - 1))
    assert read_all(window, 4 * INITIAL_WINDOW) == 4 * INITIAL_WINDOW
    assert window.size == INITIAL_WINDOW


def test_close_returns_the_growth() -> None:
    """A closed window gives the budget all it took."""
    budget = WindowBudget()
    window = ReceiveWindow(budget)
    total = budget.free
    read_all(window, 64 * LARGEST_WINDOW)
    assert budget.free == total - (LARGEST_WINDOW - INITIAL_WINDOW)
    window.close()
    assert budget.free == total


def test_closing_twice_returns_nothing_more() -> None:
    """Growth is given back once."""
    budget = WindowBudget()
    window = ReceiveWindow(budget)
    total = budget.free
    read_all(window, 4 * INITIAL_WINDOW)
    window.close()
    window.close()
    assert budget.free == total


@given(READS)
def test_credit_is_never_more_than_was_delivered_and_granted(reads: list[tuple[int, bool]]) -> None:
    """At every moment: credit sent ≤ bytes delivered + growth, and what is open ≤ the window's size."""
    window = ReceiveWindow(WindowBudget())
    delivered = credited = 0
    for share, prompt in reads:
        amount = window.open * share // 256
        assert window.take(amount)
        delivered += amount
        credited += window.delivered(amount, prompt=prompt)
        assert credited <= delivered + window.size - INITIAL_WINDOW
        assert 0 <= window.open <= window.size


@settings(max_examples=50)
@given(st.lists(READS, max_size=5), st.integers(0, 8 * INITIAL_WINDOW))
def test_budget_is_never_overdrawn_and_always_returned(
    readers: list[list[tuple[int, bool]]], total: int
) -> None:
    """Streams that share a budget never take more than there is, and give all of it back."""
    budget = WindowBudget(total)
    windows = []
    for reads in readers:
        window = ReceiveWindow(budget)
        windows.append(window)
        for share, prompt in reads:
            amount = window.open * share // 256
            window.take(amount)
            window.delivered(amount, prompt=prompt)
            assert budget.free >= 0
    for window in windows:
        window.close()
    assert budget.free == total


def test_send_window_refuses_to_overflow() -> None:
    """A peer that credits past 2^31-1 is told off (RFC 9113 section 6.9.1)."""
    window = SendWindow(MAX_WINDOW - 1)
    assert window.grow(1)
    assert not window.grow(1)


def test_send_window_may_be_negative() -> None:
    """Smaller settings may take back what was credited (RFC 9113 section 6.9.2)."""
    window = SendWindow(10)
    assert window.grow(-30)
    assert window.open == -20
