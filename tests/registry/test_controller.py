"""The controller's driver: who leads, and what happens when that changes."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock

from registry.controller import BURST_SECONDS, LEASE_SECONDS, LONGEST_WAIT, RETRY_SECONDS, Controller
from registry.errors import StoreForbidden
from registry.model.mesh import DEFAULT_VIP_HOLD_DOWN
from registry.model.parse import parse_as
from registry.model.status import Status
from registry.store.base import Changed, Delete, KeyIs, KeyValue, Put, WatchEvent, Write
from registry.store.memory import MemoryStore

KEY = "services/default/web"
SERVICE = (
    b"apiVersion: nodemesh/v1\nkind: Service\nmetadata: {name: web}\n"
    b"spec: {ports: [{port: 80}], selector: {app: web}}\n"
)
MESH = (
    b"apiVersion: nodemesh/v1\nkind: Mesh\nmetadata: {name: mesh, namespace: nodemesh-system}\n"
    b"spec: {trustDomain: mesh.test, vipRanges: [10.9.0.0/24]}\n"
)
LEADER = "leader/controller"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@asynccontextmanager
async def running(store: MemoryStore, *replicas: str) -> AsyncIterator[list[trio.CancelScope]]:
    """Run controllers; gives a scope for each by which it is killed."""
    scopes: list[trio.CancelScope] = []

    async def run(replica: str, scope: trio.CancelScope) -> None:
        with scope:
            await Controller(store=store, trust_domain="mesh.test", replica=replica).run()

    async with trio.open_nursery() as nursery:
        for replica in replicas:
            scopes.append(trio.CancelScope())
            nursery.start_soon(run, replica, scopes[-1])
        await settle()
        yield scopes
        nursery.cancel_scope.cancel()


async def settle(seconds: float = 10 * BURST_SECONDS) -> None:
    await trio.sleep(seconds)


async def read(store: MemoryStore, key: str) -> KeyValue:
    item = await store.get(key)
    assert item is not None
    return item


async def accepted(store: MemoryStore, key: str = KEY) -> bool:
    item = await read(store, f"status/{key}")
    return parse_as(Status, item.value, where=item.key).spec.accepted


async def test_follows(store: MemoryStore, autojump_clock: MockClock) -> None:
    """What was written before it started, and what is written, changed and removed after, is judged."""
    await store.put(KEY, SERVICE)
    async with running(store, "one"):
        assert await accepted(store)
        await store.put(KEY, b"nonsense: [")
        await settle()
        assert not await accepted(store)
        await store.delete(KEY)
        await settle()
        assert not await accepted(store)


async def test_one_leads(store: MemoryStore, autojump_clock: MockClock) -> None:
    """Of several replicas one leads, and the others write nothing."""
    async with running(store, "one", "two", "three"):
        before = (await read(store, LEADER)).revision
        revision = await store.put(KEY, SERVICE)
        await settle()
        assert (await store.list("")).revision == revision + 1
        assert (await read(store, LEADER)).revision == before


async def test_successor(store: MemoryStore, autojump_clock: MockClock) -> None:
    """When the leader ends another replica takes over at once, and addresses stay."""
    async with running(store, "one", "two") as scopes:
        await store.put(KEY, SERVICE)
        await settle()
        before = (await read(store, f"status/{KEY}")).value
        leader = (await read(store, LEADER)).value.decode()
        scopes[("one", "two").index(leader)].cancel()
        await settle()
        assert (await read(store, LEADER)).value.decode() != leader
        assert (await read(store, f"status/{KEY}")).value == before
        await store.put(KEY, b"nonsense: [")
        await settle()
        assert not await accepted(store)


async def test_lost_lease(store: MemoryStore, autojump_clock: MockClock) -> None:
    """A leader whose lease ran out stands for election again."""
    async with running(store, "one"):
        first = await read(store, LEADER)
        store.expire(first.lease)
        await settle(RETRY_SECONDS + 1)
        second = await read(store, LEADER)
        assert second.revision > first.revision
        await store.put(KEY, SERVICE)
        await settle()
        assert await accepted(store)


async def test_deposed(store: MemoryStore, autojump_clock: MockClock) -> None:
    """A leader that has not noticed its end writes nothing any more, and stands back."""
    async with running(store, "one"):
        leader = await read(store, LEADER)
        # Its lease still stands, but the key is another's: as after an expiry it has not heard of.
        assert await store.commit([KeyIs(LEADER, leader.revision)], [Put(LEADER, b"two")])
        await store.put(KEY, SERVICE)
        await settle(LEASE_SECONDS)
        assert await store.get(f"status/{KEY}") is None
        await store.delete(LEADER)
        await settle()
        assert await accepted(store)


async def test_outage(store: MemoryStore, autojump_clock: MockClock) -> None:
    """After an outage of the store it goes on by itself."""
    async with running(store, "one"):
        with store.outage():
            await settle(30)
        await store.put(KEY, SERVICE)
        await settle(2 * RETRY_SECONDS)
        assert await accepted(store)


async def test_starts_before_the_store(store: MemoryStore, autojump_clock: MockClock) -> None:
    """A controller started while the store is away leads once it is there."""
    await store.put(KEY, SERVICE)
    with ExitStack() as outage:
        outage.enter_context(store.outage())
        async with running(store, "one"):
            await settle(5)
            outage.close()
            await settle(2 * RETRY_SECONDS)
            assert await accepted(store)


async def test_compaction(store: MemoryStore, autojump_clock: MockClock) -> None:
    """What happened in a history that was compacted away is judged all the same."""
    await store.put(KEY, SERVICE)
    async with running(store, "one"):
        await store.commit([], [Delete(KEY)])
        await store.put("services/default/api", SERVICE.replace(b"web", b"api"))
        store.compact((await store.list("")).revision)
        await settle()
        assert await accepted(store, "services/default/api")
        assert not await accepted(store)


async def test_release(store: MemoryStore, autojump_clock: MockClock) -> None:
    """Addresses of a deleted service are free after their time, though nothing else happens."""
    await store.put(KEY, SERVICE)
    start = trio.current_time()
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def clock() -> datetime:
        return noon + timedelta(seconds=trio.current_time() - start)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Controller(store=store, trust_domain="mesh.test", replica="one", clock=clock).run)
        await settle()
        await store.delete(KEY)
        await settle(DEFAULT_VIP_HOLD_DOWN - 2)
        assert await store.get(f"status/{KEY}") is not None
        await settle(LONGEST_WAIT)
        assert await store.get(f"status/{KEY}") is None
        nursery.cancel_scope.cancel()


class DeafStore(MemoryStore):
    """A store whose watch tells nothing of statuses, as one that is late."""

    async def watch(self, *prefixes: str, after: int) -> AsyncGenerator[WatchEvent, None]:
        """Give the others' changes."""
        async with aclosing(super().watch(*prefixes, after=after)) as events:
            async for event in events:
                if not (isinstance(event, Changed) and event.item.key.startswith("status/")):
                    yield event


async def test_late_watch(autojump_clock: MockClock) -> None:
    """What a controller has given away it knows before the watch tells: no address is given twice."""
    store = DeafStore()
    await store.put("mesh", MESH)
    async with running(store, "one"):
        for number in range(200):
            await store.put(f"services/default/s{number}", SERVICE.replace(b"web", f"s{number}".encode()))
            if number % 7 == 0:
                await settle()
        await settle()
        statuses = (await store.list("status/services/")).items
        vips = [vip for item in statuses for vip in parse_as(Status, item.value, where=item.key).spec.vips]
        assert len(vips) == len(set(vips)) == 200


async def test_meddling(store: MemoryStore, autojump_clock: MockClock) -> None:
    """A status that somebody else writes or removes is put right."""
    await store.put(KEY, SERVICE)
    async with running(store, "one"):
        good = (await read(store, f"status/{KEY}")).value
        await store.put(f"status/{KEY}", b"nonsense: [")
        await settle()
        assert (await read(store, f"status/{KEY}")).value == good
        await store.delete(f"status/{KEY}")
        await settle()
        assert (await read(store, f"status/{KEY}")).value == good


async def test_slept(store: MemoryStore, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that runs out between its grant and its use costs one attempt."""
    original = store.commit
    slept = False

    async def commit(conditions: list[KeyIs], writes: list[Write]) -> int | None:
        nonlocal slept
        if not slept:
            slept = True
            (claim,) = writes
            assert isinstance(claim, Put)
            store.expire(claim.lease)
        return await original(conditions, writes)

    monkeypatch.setattr(store, "commit", commit)
    await store.put(KEY, SERVICE)
    async with running(store, "one"):
        assert await accepted(store)


class ForbiddingStore(MemoryStore):
    """A store whose credentials do not suffice for elections."""

    async def get(self, key: str) -> KeyValue | None:
        """Refuse."""
        raise StoreForbidden(f"may not read {key}")


async def test_forbidden() -> None:
    """Credentials that do not suffice end the controller: waiting would not mend them."""
    with pytest.raises(StoreForbidden):
        await Controller(store=ForbiddingStore(), trust_domain="mesh.test", replica="one").run()
