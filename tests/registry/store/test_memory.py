"""What the store in memory adds to the contract: a virtual clock, and faults."""

from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock

from registry.errors import Conflict, StoreUnavailable
from registry.store.base import Changed, Progress, Removed
from registry.store.memory import MemoryStore


async def test_lease_ends_by_the_clock(autojump_clock: MockClock, memory_store: MemoryStore) -> None:
    """A granted lease ends exactly with its TTL, and a watch that waits is told then."""
    start = trio.current_time()
    lease = await memory_store.grant_lease(10)
    revision = await memory_store.put("a", b"1", lease=lease)
    async with aclosing(memory_store.watch("", after=revision)) as watch:
        assert await anext(watch) == Progress(revision)
        assert await anext(watch) == Removed("a", revision + 1)
    assert trio.current_time() - start == 10


async def test_lease_granted_while_a_watch_waits(
    autojump_clock: MockClock, memory_store: MemoryStore
) -> None:
    """A watch that already waits learns of the end of a lease that is granted later."""
    seen: list[object] = []

    async def follow() -> None:
        async with aclosing(memory_store.watch("", after=1)) as watch:
            async for event in watch:
                seen.append(event)
                if isinstance(event, Removed):
                    return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(1)
        lease = await memory_store.grant_lease(5)
        await memory_store.put("a", b"1", lease=lease)
    assert seen[-1] == Removed("a", 3)


async def test_outage(autojump_clock: MockClock, memory_store: MemoryStore) -> None:
    """During an outage calls fail, and a watch waits for its end and misses nothing."""
    revision = await memory_store.put("a", b"1")
    lease = await memory_store.grant_lease(5)
    await memory_store.put("b", b"1", lease=lease)
    async with aclosing(memory_store.watch("", after=revision)) as watch:
        assert await anext(watch) == Progress(revision)
        with memory_store.outage():
            with pytest.raises(StoreUnavailable):
                await memory_store.get("a")
            with trio.move_on_after(60):
                async with aclosing(memory_store.watch("", after=revision)) as other:
                    await anext(other)
                    raise AssertionError("a watch saw through an outage")
        event = await anext(watch)
        assert isinstance(event, Changed)
        assert await anext(watch) == Progress(revision + 1)
        assert await anext(watch) == Removed("b", revision + 2)


@pytest.mark.parametrize("revision", [0, 1, 4])
async def test_no_such_compaction(memory_store: MemoryStore, revision: int) -> None:
    """Compacting what is compacted already, or is still to come, is a conflict."""
    await memory_store.put("a", b"1")
    await memory_store.put("a", b"2")
    memory_store.compact(1)
    with pytest.raises(Conflict):
        memory_store.compact(revision)
