"""Times of requests, without a task and without a cancel scope for each.

A scope costs more than all else that most requests need of a clock: by the time anything is due they are
over. Here a request costs an entry in a dictionary, and one task waits for the earliest of all.
"""

import math
from collections.abc import Callable
from typing import Final, Protocol

import trio

# How exact times are, in seconds: what is due within the same moment is called together, never early.
MOMENT: Final = 0.01
# Of a moment: what arithmetic may be off by.
ROUNDING: Final = 1e-4


class Timed(Protocol):
    """What something is due for."""

    def due(self, now: float) -> float:
        """Do what is due; gives when the next is, by the clock of `now`; infinity for never."""


class Timers:
    """When what is due.

    Args:
        clock: seconds, monotonic.
        crashed: called with the exception being handled when one `due` raises, which is a bug.
    """

    def __init__(self, clock: Callable[[], float], crashed: Callable[[], None]) -> None:
        self._clock = clock
        self._crashed = crashed
        self._moments: dict[int, set[Timed]] = {}
        self._scope = trio.CancelScope()
        self._next: float = math.inf

    def now(self) -> float:
        """Give the time that `due` is measured by."""
        return self._clock()

    def __len__(self) -> int:
        return sum(len(each) for each in self._moments.values())

    def begin(self, timed: Timed, when: float) -> int:
        """Call `timed.due` at `when`; gives what `end` takes. One that is begun again must have ended."""
        moment = math.ceil(when / MOMENT - ROUNDING)
        waiting = self._moments.get(moment)
        if waiting is None:
            self._moments[moment] = {timed}
            if moment < self._next:
                self._next = moment
                self._scope.deadline = trio.current_time() + moment * MOMENT - self._clock()
        else:
            waiting.add(timed)
        return moment

    def end(self, timed: Timed, moment: int) -> None:
        """Forget it; harmless when it was called meanwhile."""
        waiting = self._moments.get(moment)
        if waiting is not None:
            waiting.discard(timed)
            if not waiting:
                del self._moments[moment]

    async def run(self) -> None:
        """Call what is due; runs until cancelled."""
        while True:
            now = self._clock()
            self._call_due(now)
            self._next = min(self._moments, default=math.inf)
            deadline = trio.current_time() + self._next * MOMENT - now
            with trio.CancelScope(deadline=deadline) as self._scope:
                await trio.sleep_forever()

    def _call_due(self, now: float) -> None:
        # A moment that is rounded to just after now would be waited for for no time at all, again and again.
        last = now / MOMENT + ROUNDING
        for moment in sorted(each for each in self._moments if each <= last):
            for timed in self._moments.pop(moment, ()):
                self._call(timed, now)

    def _call(self, timed: Timed, now: float) -> None:
        try:
            again = timed.due(now)
        except Exception:  # noqa: BLE001 - a bug in one request must not end the times of all others
            self._crashed()
            return
        if again < math.inf:
            self.begin(timed, max(again, now + MOMENT))
