"""A writer and a reader that between them notice every event that is lost or doubled."""

import itertools
from contextlib import aclosing

import trio

from registry.store.base import Changed, Relisted, Removed, Store
from tests.contract.events import revision_of, take, values, wait_until

END = b"end"


class Traffic:
    """Counts up in one key of a store, and watches it."""

    def __init__(self, writer: Store, reader: Store) -> None:
        self._writer = writer
        self._reader = reader
        self._stop = trio.Event()
        self.written: list[bytes] = []
        self.seen: list[Changed | Removed | Relisted] = []

    async def write(self) -> None:
        """Write until stopped."""
        for number in itertools.count():
            if self._stop.is_set():
                break
            await self._put(str(number).encode())
            await trio.sleep(0.01)
        await self._put(END)

    async def watch(self) -> None:
        """Watch from the beginning until the writer's last word."""
        async with aclosing(self._reader.watch("counter", after=0)) as watch:
            while values(self.seen[-1:]) != [END]:
                self.seen += await take(watch, 1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write and watch until stopped; started when the first event has been seen."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.write)
            nursery.start_soon(self.watch)
            await wait_until(lambda: bool(self.seen))
            task_status.started()

    def stop(self) -> None:
        """Let the writer write its last word."""
        self._stop.set()

    def check(self) -> None:
        """Check that every write was seen, in order, and no event twice."""
        revisions = [revision_of(event) for event in self.seen]
        assert revisions == sorted(set(revisions))
        # A put whose answer was lost is done again, at a revision of its own.
        assert [value for value, _ in itertools.groupby(values(self.seen))] == self.written

    async def _put(self, value: bytes) -> None:
        await self._writer.put("counter", value)
        self.written.append(value)
