"""Deadlines of answers: one coarse clock for all attempts, instead of a task for each."""

import math
from collections.abc import Callable
from typing import Protocol

import trio

# How late a missed answer may be noticed.
ANSWER_CHECK_INTERVAL = 0.1


class Waiting(Protocol):
    """Who waits for an answer."""

    def timed_out(self) -> None:
        """Give up waiting."""


class AnswerDeadlines:
    """Who waits until when. The clock is in seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[Waiting, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, waiting: Waiting, deadline: float) -> None:
        """Call `timed_out` unless `end` is said before `deadline`."""
        self._waiting[waiting] = deadline

    def end(self, waiting: Waiting) -> None:
        """Stop the clock; it may have stopped already."""
        self._waiting.pop(waiting, None)

    async def watch(self) -> None:
        """Time out those whose answer does not come; runs until cancelled."""
        while True:
            await trio.sleep(ANSWER_CHECK_INTERVAL)
            if not self._waiting:
                continue
            now = self._clock()
            for waiting in [each for each, deadline in self._waiting.items() if deadline <= now]:
                # One that times out may break its tunnel, and others of the list try again at once.
                if self._waiting.get(waiting, math.inf) <= now:
                    del self._waiting[waiting]
                    waiting.timed_out()
