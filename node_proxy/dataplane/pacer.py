"""Who waits until more bytes may pass: one task of a worker calls them, each when its turn has come."""

from collections.abc import Callable
from typing import Protocol

import trio

# The clock of the kernel's timers: nobody is called more often than this, in seconds.
LEAST_PAUSE = 0.001


class Paced(Protocol):
    """Who waits for its turn."""

    def on_paced(self) -> None:
        """Go on: something may pass. Called once for each `Pacer.wait`, outside the reactor's turns."""

    def on_crash(self, error: Exception) -> None:
        """Give up: `on_paced` raised `error`, which is a bug."""


class _Queue:
    """Those that wait for one bucket, the longest first, whose turn is at `due`; the next is `step` later."""

    __slots__ = ("due", "step", "waiting")

    def __init__(self, due: float, step: float) -> None:
        self.due = due
        self.step = step
        self.waiting: dict[Paced, None] = {}


class Pacer:
    """Calls waiters in the order in which they came, at the pace of what they wait for.

    Args:
        clock: the worker's.
        crashed: told, within the handling of it, of an exception that is a bug.
    """

    def __init__(self, clock: Callable[[], float], crashed: Callable[[], None]) -> None:
        self._clock = clock
        self._crashed = crashed
        self._queues: dict[int, _Queue] = {}
        self._next = float("inf")
        self._sooner = trio.Event()

    def wait(self, bucket: int, waiter: Paced, *, delay: float, step: float) -> None:
        """Call `waiter` once those before it at `bucket` have had their turns.

        Args:
            bucket: the key of what is waited for.
            waiter: who is called.
            delay: seconds until a piece may pass.
            step: seconds that a piece takes.
        """
        queue = self._queues.get(bucket)
        if queue is None:
            queue = self._queues[bucket] = _Queue(self._clock() + delay, step)
        queue.waiting[waiter] = None
        if queue.due < self._next:
            self._sooner.set()

    def forget(self, bucket: int, waiter: Paced) -> None:
        """Call `waiter` no more; harmless when it does not wait."""
        queue = self._queues.get(bucket)
        if queue is not None:
            queue.waiting.pop(waiter, None)
            if not queue.waiting:
                del self._queues[bucket]

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            self._sooner = trio.Event()
            self._next = self._release()
            with trio.move_on_after(max(LEAST_PAUSE, self._next - self._clock())):
                await self._sooner.wait()

    def _release(self) -> float:
        """Call those whose turns have come; gives when the next one's does."""
        now = self._clock()
        for bucket, queue in list(self._queues.items()):
            while queue.due <= now and queue.waiting:
                waiter = next(iter(queue.waiting))
                self.forget(bucket, waiter)
                queue.due += queue.step
                self._call(waiter)
        return min((queue.due for queue in self._queues.values()), default=float("inf"))

    def _call(self, waiter: Paced) -> None:
        try:
            waiter.on_paced()
        except Exception as error:  # noqa: BLE001 - a bug costs its connection, not the worker
            self._crashed()
            waiter.on_crash(error)
