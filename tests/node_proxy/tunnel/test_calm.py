from hypothesis import given
from hypothesis import strategies as st

from node_proxy.tunnel.calm import BYTES_PER_TOKEN, CAPACITY, EARNED_BY_WORK, REFILL_PER_SECOND, Calm


def spent_until_refused(calm: Calm, now: float) -> int:
    """Spend at one moment; gives how many frames passed."""
    passed = 0
    while calm.spend(now):
        passed += 1
    return passed


def test_burst_up_to_capacity() -> None:
    """A burst of as many frames as the bucket holds passes, and the next is refused."""
    assert spent_until_refused(Calm(0.0), 0.0) == CAPACITY


def test_time_refills() -> None:
    """A second later as many frames pass as a second earns."""
    calm = Calm(10.0)
    spent_until_refused(calm, 10.0)
    # The refused frame is owed.
    assert spent_until_refused(calm, 11.0) == REFILL_PER_SECOND - 1


def test_work_earns() -> None:
    """Each frame of payload pays for control frames."""
    calm = Calm(0.0)
    spent_until_refused(calm, 0.0)
    for _ in range(10):
        calm.credit()
    assert spent_until_refused(calm, 0.0) == 10 * EARNED_BY_WORK - 1


def test_work_is_not_saved_up() -> None:
    """An hour of payload allows no larger burst than a fresh tunnel."""
    calm = Calm(0.0)
    for _ in range(100_000):
        calm.credit()
    assert spent_until_refused(calm, 3600.0) == CAPACITY


def test_large_frames_cost_more() -> None:
    """A frame costs a token, and one more for each KiB of it."""
    calm = Calm(0.0)
    passed = 0
    while calm.spend(0.0, 3 * BYTES_PER_TOKEN):
        passed += 1
    assert passed == CAPACITY / 4


def test_working_peer_is_never_refused() -> None:
    """Two control frames for each frame of payload may go on for ever, even without the refill."""
    calm = Calm(0.0)
    for _ in range(50_000):
        calm.credit()
        assert calm.spend(0.0)
        assert calm.spend(0.0)


@given(st.lists(st.floats(0.0, 0.1), min_size=1, max_size=200))
def test_slow_control_frames_always_pass(pauses: list[float]) -> None:
    """Frames no oftener than the refill pass whatever their rhythm."""
    calm, now = Calm(0.0), 0.0
    for pause in pauses:
        now += pause + 1 / REFILL_PER_SECOND
        assert calm.spend(now)
