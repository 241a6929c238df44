import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from node_proxy.dataplane.http.timers import MOMENT, Timed, Timers


class Call:
    """Notes when it is called, and when it wants to be called again."""

    def __init__(self, *again: float) -> None:
        self.at: list[float] = []
        self._again = list(again)

    def due(self, now: float) -> float:
        """Note it."""
        self.at.append(now)
        return now + self._again.pop(0) if self._again else math.inf


class Broken:
    """A bug."""

    def due(self, _now: float) -> float:
        """Raise."""
        raise ZeroDivisionError


class Running:
    """Timers that run, and how many bugs they met."""

    def __init__(self) -> None:
        self.crashes = 0
        self.timers = Timers(trio.current_time, self._crashed)

    def _crashed(self) -> None:
        self.crashes += 1


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    """Run timers."""
    it = Running()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.timers.run)
        yield it
        nursery.cancel_scope.cancel()


async def test_called_when_due(autojump_clock: trio.testing.MockClock) -> None:
    """Each is called once, at its time or within a moment after it, and never before."""
    async with running() as it:
        start = trio.current_time()
        calls = {after: Call() for after in (5.0, 0.5, 0.25, 5.001)}
        for after, call in calls.items():
            it.timers.begin(call, start + after)
        await trio.sleep(60)
    for after, call in calls.items():
        (at,) = call.at
        assert after <= at - start <= after + MOMENT + 1e-6
    assert len(it.timers) == 0


async def test_ended_is_not_called(autojump_clock: trio.testing.MockClock) -> None:
    """What has ended is never called; ending it again is harmless."""
    async with running() as it:
        call, other = Call(), Call()
        when = trio.current_time() + 1
        moment = it.timers.begin(call, when)
        it.timers.begin(other, when)
        it.timers.end(call, moment)
        it.timers.end(call, moment)
        await trio.sleep(2)
    assert (call.at, len(other.at), len(it.timers)) == ([], 1, 0)


async def test_called_again(autojump_clock: trio.testing.MockClock) -> None:
    """Who names another time is called then."""
    async with running() as it:
        call = Call(1.0, 2.0)
        start = trio.current_time()
        it.timers.begin(call, start + 1)
        await trio.sleep(60)
    assert [at - start for at in call.at] == pytest.approx([1, 2, 4], abs=3 * MOMENT)


async def test_again_at_once_is_no_loop(autojump_clock: trio.testing.MockClock) -> None:
    """Who names a time that is over is called a moment later, and others are not starved."""
    async with running() as it:
        call = Call(*[-1.0] * 5)
        it.timers.begin(call, trio.current_time())
        await trio.sleep(1)
    assert len(call.at) == 6
    assert all(later > earlier for earlier, later in zip(call.at, call.at[1:], strict=False))


async def test_bug(autojump_clock: trio.testing.MockClock) -> None:
    """A bug in one is reported, and the others are called."""
    async with running() as it:
        call = Call()
        when = trio.current_time() + 1
        for each in (Broken(), call, Broken()):
            timed: Timed = each
            it.timers.begin(timed, when)
        it.timers.begin(late := Call(), when + 1)
        await trio.sleep(3)
    assert (it.crashes, len(call.at), len(late.at)) == (2, 1, 1)
