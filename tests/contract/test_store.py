"""What every store promises about keys, transactions and leases."""

from contextlib import aclosing

import pytest
import trio

from registry.errors import Conflict, NotFound, StoreError
from registry.store.base import Delete, KeyIs, Put, Removed, Store
from tests.contract.conftest import Subject
from tests.contract.events import contents, take


class TestKeys:
    async def test_missing(self, store: Store) -> None:
        """A key that was never written is None."""
        assert await store.get("services/default/web") is None

    async def test_put(self, store: Store) -> None:
        """A key carries its value and the revisions of its first and last write."""
        first = await store.put("a", b"1")
        last = await store.put("a", b"\x00\xff")
        item = await store.get("a")
        assert item is not None
        assert (item.key, item.value, item.created, item.revision) == ("a", b"\x00\xff", first, last)
        assert last == first + 1

    async def test_created_again(self, store: Store) -> None:
        """A key that was removed and written again is a new one."""
        await store.put("a", b"1")
        await store.delete("a")
        revision = await store.put("a", b"2")
        item = await store.get("a")
        assert item is not None
        assert item.created == item.revision == revision

    async def test_delete(self, store: Store) -> None:
        """Removing says whether the key was there, and spends no revision if it was not."""
        revision = await store.put("a", b"")
        assert not await store.delete("b")
        assert (await store.list("")).revision == revision
        assert await store.delete("a")
        assert await store.get("a") is None

    async def test_unusual_names(self, store: Store) -> None:
        """A key comes back as the text it was written with, whatever the alphabet."""
        await store.put("größe/日本", b"1")
        assert contents(await store.list("größe/")) == {"größe/日本": b"1"}


class TestList:
    async def test_prefix(self, store: Store) -> None:
        """A listing holds the keys that begin with the prefix, in order, and nothing else."""
        for key in ("b/2", "b/1", "a/1", "b", "b/10", "c/1"):
            await store.put(key, key.encode())
        listing = await store.list("b/")
        assert [item.key for item in listing.items] == ["b/1", "b/10", "b/2"]
        assert [item.value for item in listing.items] == [b"b/1", b"b/10", b"b/2"]

    async def test_empty(self, store: Store) -> None:
        """An empty listing still says at which revision it is empty."""
        revision = await store.put("a", b"")
        listing = await store.list("b/")
        assert listing.items == ()
        assert listing.revision == revision

    async def test_past(self, store: Store) -> None:
        """A listing as of a revision shows what stood then."""
        await store.put("a", b"1")
        then = await store.put("b", b"1")
        await store.put("a", b"2")
        await store.delete("b")
        assert (await store.list("", revision=then)).revision == then
        assert contents(await store.list("", revision=then)) == {"a": b"1", "b": b"1"}
        assert contents(await store.list("")) == {"a": b"2"}

    async def test_future(self, store: Store) -> None:
        """A revision that is still to come is a conflict."""
        revision = await store.put("a", b"1")
        with pytest.raises(Conflict):
            await store.list("", revision=revision + 1000)

    async def test_compacted(self, subject: Subject) -> None:
        """A revision before the compaction is a conflict, the compacted one itself is not."""
        before = await subject.store.put("a", b"1")
        kept = await subject.store.put("a", b"2")
        await subject.store.put("a", b"3")
        await subject.compact(kept)
        with pytest.raises(Conflict):
            await subject.store.list("", revision=before)
        assert contents(await subject.store.list("", revision=kept)) == {"a": b"2"}

    async def test_many(self, store: Store) -> None:
        """A listing of more keys than etcd gives at once is whole."""
        for page in range(9):
            await store.commit([], [Put(f"{page}/{number:03}", b"") for number in range(128)])
        listing = await store.list("")
        keys = [item.key for item in listing.items]
        assert len(keys) == 9 * 128
        assert keys == sorted(set(keys))


class TestCommit:
    async def test_holds(self, store: Store) -> None:
        """When the conditions hold, all writes happen at one revision."""
        await store.put("old", b"")
        revision = await store.put("a", b"1")
        done = await store.commit(
            [KeyIs("a", revision), KeyIs("b", 0)], [Put("a", b"2"), Put("b", b"2"), Delete("old")]
        )
        assert done == revision + 1
        listing = await store.list("")
        assert contents(listing) == {"a": b"2", "b": b"2"}
        assert {item.revision for item in listing.items} == {done}

    @pytest.mark.parametrize("expected", [0, 1])
    async def test_fails(self, store: Store, expected: int) -> None:
        """When one condition fails, nothing is written and no revision is spent."""
        revision = await store.put("a", b"1")
        assert await store.commit([KeyIs("b", 0), KeyIs("a", expected)], [Put("b", b"2")]) is None
        assert await store.get("b") is None
        assert (await store.list("")).revision == revision

    async def test_without_conditions(self, store: Store) -> None:
        """No conditions always hold."""
        assert await store.commit([], [Put("a", b"1"), Put("b", b"1")]) is not None
        assert contents(await store.list("")) == {"a": b"1", "b": b"1"}

    async def test_without_effect(self, store: Store) -> None:
        """A commit that changes nothing gives the revision that stands."""
        revision = await store.put("a", b"1")
        assert await store.commit([KeyIs("a", revision)], []) == revision
        assert await store.commit([], [Delete("b")]) == revision

    async def test_one_winner(self, store: Store) -> None:
        """Of many who change a key from the same revision, exactly one succeeds."""
        revision = await store.put("a", b"")
        won: list[int] = []

        async def change(number: int) -> None:
            if await store.commit([KeyIs("a", revision)], [Put("a", str(number).encode())]) is not None:
                won.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(change, number)
        assert len(won) == 1
        item = await store.get("a")
        assert item is not None
        assert item.value == str(won[0]).encode()

    @pytest.mark.parametrize(
        "writes",
        [
            [Put("a", b"1"), Put("a", b"2")],
            [Put("a", b"1"), Delete("a")],
            [Put(str(number), b"") for number in range(129)],
        ],
    )
    async def test_refused(self, store: Store, writes: list[Put | Delete]) -> None:
        """A commit that writes a key twice, or more keys than etcd allows, is refused whole."""
        with pytest.raises(StoreError):
            await store.commit([], writes)
        assert (await store.list("")).items == ()


class TestLease:
    async def test_held(self, store: Store) -> None:
        """A leased key stands while the lease is held, and goes with it."""
        async with store.hold_lease(5) as lease:
            await store.put("a", b"1", lease=lease.id)
            await store.commit([], [Put("b", b"1", lease.id)])
            items = (await store.list("")).items
            assert [item.lease for item in items] == [lease.id, lease.id]
            assert not lease.lost
        assert (await store.list("")).items == ()

    async def test_cancelled(self, store: Store) -> None:
        """Cancelling the holder still revokes the lease."""
        with trio.CancelScope() as scope:
            async with store.hold_lease(60) as lease:
                await store.put("a", b"1", lease=lease.id)
                scope.cancel()
                await trio.sleep_forever()
        assert await store.get("a") is None

    async def test_error_comes_out_as_it_is(self, store: Store) -> None:
        """What the holder raises is not wrapped."""
        error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError) as caught:
            async with store.hold_lease(5):
                raise error
        assert caught.value is error

    async def test_written_over(self, store: Store) -> None:
        """A key written anew without the lease outlives it."""
        async with store.hold_lease(5) as lease:
            await store.put("a", b"1", lease=lease.id)
            await store.put("a", b"2")
        item = await store.get("a")
        assert item is not None
        assert item.lease == 0

    async def test_not_kept_alive(self, store: Store) -> None:
        """What hangs on a granted lease vanishes when its time is up, at one revision, and watches see it."""
        lease = await store.grant_lease(2)
        await store.put("a", b"1", lease=lease)
        revision = await store.put("b", b"1", lease=lease)
        async with aclosing(store.watch("", after=revision)) as watch:
            with trio.fail_after(20):
                gone = await take(watch, 2)
        assert gone == [Removed("a", revision + 1), Removed("b", revision + 1)]

    async def test_lost(self, subject: Subject) -> None:
        """A holder learns that its lease is gone, and its keys with it."""
        async with subject.store.hold_lease(2) as lease:
            await subject.store.put("a", b"1", lease=lease.id)
            await subject.expire(lease.id)
            with trio.fail_after(20):
                await lease.wait_lost()
            assert lease.lost
            assert await subject.store.get("a") is None

    async def test_kept_alive(self, store: Store) -> None:
        """A held lease outlives its TTL several times over."""
        async with store.hold_lease(2) as lease:
            await store.put("a", b"1", lease=lease.id)
            await trio.sleep(4)
            assert not lease.lost
            assert await store.get("a") is not None

    async def test_unknown(self, store: Store) -> None:
        """Writing on a lease that does not exist is refused."""
        with pytest.raises(NotFound):
            await store.put("a", b"1", lease=4711)
        with pytest.raises(NotFound):
            await store.commit([], [Put("a", b"1", 4711)])
        assert await store.get("a") is None
