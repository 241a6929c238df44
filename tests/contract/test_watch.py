"""What every store promises about watches."""

from contextlib import aclosing

import pytest
import trio

from registry.store.base import Changed, Delete, Progress, Put, Relisted, Removed, Store, list_all
from tests.contract.conftest import Subject
from tests.contract.events import contents, replay, revision_of, take, values, wait_progress


async def test_past_and_present(store: Store) -> None:
    """A watch gives what happened after its revision, then what happens."""
    start = await store.put("a", b"0")
    await store.put("a", b"1")
    async with aclosing(store.watch("", after=start)) as watch:
        assert values(await take(watch, 1)) == [b"1"]
        await store.put("a", b"2")
        await store.delete("a")
        assert values(await take(watch, 2)) == [b"2", None]


async def test_from_the_beginning(store: Store) -> None:
    """A watch after revision 0 gives everything, as history or, where that is compacted, as a listing."""
    await store.put("a", b"1")
    async with aclosing(store.watch("", after=0)) as watch:
        assert replay(await take(watch, 1)) == {"a": b"1"}


async def test_events_say_what_stands(store: Store) -> None:
    """An event carries what `get` would have given then."""
    revision = (await store.list("")).revision
    async with store.hold_lease(5) as lease:
        await store.put("a", b"1", lease=lease.id)
        item = await store.get("a")
        assert item is not None
        async with aclosing(store.watch("", after=revision)) as watch:
            assert await take(watch, 1) == [Changed(item)]
    async with aclosing(store.watch("", after=item.revision)) as watch:
        assert await take(watch, 1) == [Removed("a", item.revision + 1)]


async def test_prefix(store: Store) -> None:
    """A watch gives only what is under its prefix."""
    revision = await store.put("a/1", b"0")
    async with aclosing(store.watch("b/", after=revision)) as watch:
        for key in ("a/1", "b", "b/1", "c/1", "b/2"):
            await store.put(key, key.encode())
        assert values(await take(watch, 2)) == [b"b/1", b"b/2"]


async def test_one_revision(store: Store) -> None:
    """The events of one commit come together, followed by the word that they are all."""
    revision = await store.put("old", b"0")
    done = await store.commit([], [Put("a", b"1"), Put("b", b"1"), Delete("old")])
    assert done is not None
    async with aclosing(store.watch("", after=revision)) as watch:
        await wait_progress(watch)
        events = [await anext(watch) for _ in range(4)]
    assert [type(event) for event in events] == [Changed, Changed, Removed, Progress]
    assert events[-1] == Progress(done)


async def test_says_that_it_is_in_touch(store: Store) -> None:
    """A watch of a quiet prefix says at once where it stands."""
    revision = await store.put("a", b"1")
    async with aclosing(store.watch("b/", after=revision)) as watch:
        with trio.fail_after(10):
            assert await wait_progress(watch) == revision


async def test_two_watches(store: Store) -> None:
    """Two watches give the same, each at its own pace."""
    revision = (await store.list("")).revision
    async with (
        aclosing(store.watch("", after=revision)) as fast,
        aclosing(store.watch("", after=revision)) as slow,
    ):
        await store.put("a", b"1")
        seen = await take(fast, 1)
        await store.put("a", b"2")
        seen += await take(fast, 1)
        assert await take(slow, 2) == seen


async def test_large_transaction(store: Store) -> None:
    """Events larger than one answer of etcd's arrive whole, in order, once each."""
    revision = (await store.list("")).revision
    writes = [Put(f"{number:03}", bytes([number]) * 100_000) for number in range(14)]
    for _ in range(4):
        await store.commit([], writes)
    async with aclosing(store.watch("", after=revision)) as watch:
        events = await take(watch, 4 * 14)
    assert values(events) == [write.value for write in writes] * 4
    assert [revision_of(event) for event in events] == [
        revision + commit for commit in range(1, 5) for _ in writes
    ]


async def test_long_history(store: Store) -> None:
    """A watch that has thousands of revisions to catch up with gives each of them once."""
    revision = (await store.list("")).revision
    async with trio.open_nursery() as nursery:
        for writer in range(25):

            async def write(name: str) -> None:
                for number in range(100):
                    await store.put(name, str(number).encode())

            nursery.start_soon(write, str(writer))
    async with aclosing(store.watch("", after=revision)) as watch:
        events = await take(watch, 2500)
    assert [revision_of(event) for event in events] == [revision + 1 + number for number in range(2500)]


async def test_slow_reader(store: Store) -> None:
    """A reader that stalls while much is written loses nothing."""
    revision = (await store.list("")).revision
    async with aclosing(store.watch("", after=revision)) as watch:
        await wait_progress(watch)
        for number in range(200):
            await store.put("a", str(number).encode() * 1000)
        assert values(await take(watch, 200)) == [str(number).encode() * 1000 for number in range(200)]


class TestCompaction:
    async def test_relisted(self, subject: Subject) -> None:
        """A watch from before the compaction gets everything that stands, then goes on from there."""
        store = subject.store
        start = await store.put("a", b"1")
        await store.put("gone", b"1")
        await store.delete("gone")
        await store.put("b", b"1")
        await subject.compact(await store.put("a", b"2"))
        async with aclosing(store.watch("", after=start)) as watch:
            (relisted,) = await take(watch, 1)
            assert isinstance(relisted, Relisted)
            assert contents(relisted.listing) == {"a": b"2", "b": b"1"}
            await store.put("a", b"3")
            (changed,) = await take(watch, 1)
        assert values([changed]) == [b"3"]
        assert revision_of(changed) == relisted.listing.revision + 1

    async def test_not_needed(self, subject: Subject) -> None:
        """A watch from the compacted revision itself has lost nothing."""
        start = await subject.store.put("a", b"1")
        await subject.store.put("a", b"2")
        await subject.compact(start)
        async with aclosing(subject.store.watch("", after=start)) as watch:
            assert values(await take(watch, 1)) == [b"2"]

    async def test_removal_at_the_compacted_revision(self, subject: Subject) -> None:
        """A removal at the very revision that is compacted is not lost."""
        start = await subject.store.put("a", b"1")
        await subject.store.delete("a")
        await subject.compact(start + 1)
        await subject.store.put("b", b"1")
        async with aclosing(subject.store.watch("", after=start)) as watch:
            (relisted,) = await take(watch, 1)
        assert isinstance(relisted, Relisted)
        assert contents(relisted.listing) == {"b": b"1"}

    async def test_open_watch(self, subject: Subject) -> None:
        """A watch that has kept up is not disturbed by a compaction."""
        revision = await subject.store.put("a", b"1")
        async with aclosing(subject.store.watch("", after=revision)) as watch:
            await wait_progress(watch)
            await subject.store.put("a", b"2")
            assert values(await take(watch, 1)) == [b"2"]
            await subject.compact(revision + 1)
            await subject.store.put("a", b"3")
            assert values(await take(watch, 1)) == [b"3"]


class TestCancellation:
    async def test_blocked(self, store: Store) -> None:
        """A watch that waits can be cancelled, and nothing waits any more."""
        revision = await store.put("a", b"1")
        with trio.fail_after(10), trio.CancelScope() as scope:
            async with aclosing(store.watch("", after=revision)) as watch:
                await wait_progress(watch)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(anext, watch)
                    await trio.sleep(0.1)
                    scope.cancel()
        assert scope.cancelled_caught

    async def test_closed(self, store: Store) -> None:
        """A watch that is closed after an event is at its end."""
        revision = await store.put("a", b"1")
        await store.put("a", b"2")
        watch = store.watch("", after=revision)
        await take(watch, 1)
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_several_prefixes(store: Store) -> None:
    """A watch of several prefixes gives what is under each of them, each in order, and nothing else."""
    revision = await store.put("a/1", b"0")
    async with aclosing(store.watch("b/", "d/", after=revision)) as watch:
        assert await wait_progress(watch) == revision
        for key in ("a/1", "b/1", "c/1", "d/1", "b/2", "e"):
            await store.put(key, key.encode())
        given = values(await take(watch, 3))
    assert sorted(given, key=str) == [b"b/1", b"b/2", b"d/1"]
    assert given.index(b"b/1") < given.index(b"b/2")


async def test_several_prefixes_catch_up(store: Store) -> None:
    """A watch of several prefixes misses nothing of what happened before it, under any of them."""
    start = (await store.list("")).revision
    for number in range(20):
        await store.put(f"{'bd'[number % 2]}/{number}", b"1")
    async with aclosing(store.watch("b/", "d/", "f/", after=start)) as watch:
        events = await take(watch, 20)
    assert len(replay(events)) == 20


async def test_several_prefixes_relisted_whole(subject: Subject) -> None:
    """Where the history is compacted, a watch of several prefixes gives all that stands under all of them."""
    store = subject.store
    await store.put("b/1", b"1")
    for key in ("c/1", "d/1"):
        revision = await store.put(key, b"1")
    await subject.compact(revision)
    async with aclosing(store.watch("b/", "d/", after=1)) as watch:
        (event,) = await take(watch, 1)
        assert isinstance(event, Relisted)
        assert [item.key for item in event.listing.items] == ["b/1", "d/1"]
        await store.put("d/2", b"2")
        assert values(await take(watch, 1)) == [b"2"]


async def test_list_all(store: Store) -> None:
    """A listing of several prefixes is ordered by key and of one revision."""
    for key in ("d/1", "c/1", "b/1"):
        revision = await store.put(key, b"1")
    listing = await list_all(store, ("d/", "b/"))
    assert ([item.key for item in listing.items], listing.revision) == (["b/1", "d/1"], revision)
