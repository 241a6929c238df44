"""A lease is renewed while it can be, and known to be lost when it cannot."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock

from registry.errors import Conflict, StoreUnavailable
from registry.store.lease import HeldLease, in_background, keep_alive, revoke_quietly


class Renewals:
    """Answers renewals from a list: seconds promised, or None for no answer; remembers when it was asked."""

    def __init__(self, *answers: int | None) -> None:
        self._answers = list(answers)
        self.asked: list[float] = []

    async def renew(self) -> int:
        """Answer the next one; promises for ever after the last."""
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        answer = self._answers.pop(0) if self._answers else 9
        if answer is None:
            raise StoreUnavailable("away")
        return answer


async def run(renewals: Renewals, *, seconds: float) -> tuple[HeldLease, float]:
    """Keep a lease of 9 s alive for some seconds; gives it and when it was lost."""
    lease = HeldLease(1)
    start = trio.current_time()
    lost_at = float("inf")
    with trio.move_on_after(seconds):
        await keep_alive(lease, granted=start, ttl=9, renew=renewals.renew)
        lost_at = trio.current_time() - start
    renewals.asked = [time - start for time in renewals.asked]
    return lease, lost_at


async def test_renewed_in_thirds(autojump_clock: MockClock) -> None:
    """A renewal goes out every third of the TTL."""
    renewals = Renewals()
    lease, _ = await run(renewals, seconds=20)
    assert not lease.lost
    assert renewals.asked == [3, 6, 9, 12, 15, 18]


async def test_unknown_to_the_store(autojump_clock: MockClock) -> None:
    """A lease that the store does not know is lost at once."""
    lease, lost_at = await run(Renewals(9, 0), seconds=100)
    assert lease.lost
    assert lost_at == 6


async def test_short_outage(autojump_clock: MockClock) -> None:
    """Renewals that fail are tried again soon, and one that succeeds in time saves the lease."""
    renewals = Renewals(9, *[None] * 8)
    lease, _ = await run(renewals, seconds=30)
    assert not lease.lost
    assert renewals.asked[1:4] == [6, 6.5, 7]


async def test_long_outage(autojump_clock: MockClock) -> None:
    """Without an answer the lease is lost one TTL after the last renewal that succeeded was asked for."""
    lease, lost_at = await run(Renewals(9, *[None] * 100), seconds=100)
    assert lease.lost
    assert lost_at == 3 + 9


async def test_renewal_that_hangs(autojump_clock: MockClock) -> None:
    """A renewal that never ends does not delay the knowledge that the lease is lost."""
    lease = HeldLease(1)
    start = trio.current_time()

    async def hang() -> int:
        await trio.sleep_forever()

    await keep_alive(lease, granted=start, ttl=9, renew=hang)
    assert trio.current_time() - start == 9


async def test_wait_lost(autojump_clock: MockClock) -> None:
    """Whoever waits for the loss is told."""
    lease = HeldLease(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.wait_lost)
        await trio.sleep(1)
        lease.mark_lost()


async def test_block_in_front_of_background() -> None:
    """The background task ends with the block, and the block's errors come out as they are."""
    ended = trio.Event()

    async def background() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def block() -> None:
        async with in_background(background):
            await trio.testing.wait_all_tasks_blocked()
            raise Conflict("taken")

    with pytest.raises(Conflict):
        await block()
    assert ended.is_set()


async def test_block_cancelled() -> None:
    """A block that is cancelled ends its background task and its caller's scope, no other."""
    with trio.CancelScope() as scope:
        async with in_background(trio.sleep_forever):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_revoking_has_a_deadline(autojump_clock: MockClock) -> None:
    """Revoking is tried even when cancelled, but not for ever."""
    start = trio.current_time()
    with trio.CancelScope() as scope:
        scope.cancel()
        await revoke_quietly(HeldLease(1), seconds=2, revoke=trio.sleep_forever)
    assert trio.current_time() - start == 2


async def test_revoking_may_fail() -> None:
    """A lease that cannot be revoked is left to expire."""

    async def fail(error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    await revoke_quietly(HeldLease(1), seconds=2, revoke=partial(fail, StoreUnavailable("away")))
