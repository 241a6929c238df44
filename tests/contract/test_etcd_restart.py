"""What the store over etcd survives of its servers: one that dies, one that forgets, a cluster."""

from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from registry.errors import StoreUnavailable
from registry.store.base import KeyIs, Put, Relisted, Store
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd
from tests.contract.events import contents, take, wait_progress, wait_until
from tests.contract.servers import OwnEtcd, open_cluster
from tests.contract.traffic import Traffic

PREFIX = "/test/"


def config(*endpoints: str, timeout: float = 20.0) -> EtcdConfig:
    """Give a configuration patient enough for a server to start again on a busy machine."""
    return EtcdConfig(endpoints=endpoints, prefix=PREFIX, timeout=timeout)


async def test_watch_and_writes(own_etcd: OwnEtcd) -> None:
    """A killed and restarted server fails no write, and a watch loses and doubles nothing."""
    with trio.fail_after(60):
        async with open_etcd(config(own_etcd.endpoint)) as store:
            traffic = Traffic(store, store)
            async with trio.open_nursery() as nursery:
                await nursery.start(traffic.run)
                for _ in range(2):
                    await trio.sleep(0.3)
                    await own_etcd.restart()
                await trio.sleep(0.3)
                traffic.stop()
    traffic.check()


async def test_lease(own_etcd: OwnEtcd) -> None:
    """A held lease survives a restart shorter than its TTL."""
    with trio.fail_after(60):
        async with open_etcd(config(own_etcd.endpoint)) as store, store.hold_lease(5) as lease:
            await store.put("a", b"1", lease=lease.id)
            await own_etcd.restart()
            await trio.sleep(6)
            assert not lease.lost
            assert await store.get("a") is not None


async def test_store_put_back(own_etcd: OwnEtcd) -> None:
    """A store that comes back with less than the watch has seen is listed anew."""
    with trio.fail_after(60):
        async with open_etcd(config(own_etcd.endpoint)) as store:
            for _ in range(5):
                revision = await store.put("a", b"1")
            async with aclosing(store.watch("", after=revision)) as watch:
                await wait_progress(watch)
                await own_etcd.restart_empty()
                (relisted,) = await take(watch, 1)
                assert isinstance(relisted, Relisted)
                assert contents(relisted.listing) == {}


async def test_down(own_etcd: OwnEtcd) -> None:
    """With the server down, calls fail as unavailable within the timeout, naming the endpoint."""
    async with open_etcd(config(own_etcd.endpoint, timeout=0.5)) as store:
        own_etcd.kill()
        with trio.fail_after(20):
            for call in (store.get("a"), store.put("a", b""), store.grant_lease(5)):
                with pytest.raises(StoreUnavailable, match=own_etcd.endpoint):
                    await call


async def test_commit_in_doubt(own_etcd: OwnEtcd) -> None:
    """A commit whose answer is lost says so, rather than be done twice or be called undone."""
    async with open_etcd(config(own_etcd.endpoint, timeout=0.5)) as store:
        revision = await store.put("a", b"1")
        own_etcd.kill()
        with trio.fail_after(20):
            with pytest.raises(StoreUnavailable, match="may or may not have happened"):
                await store.commit([KeyIs("a", revision)], [Put("a", b"2")])


async def test_commits(own_etcd: OwnEtcd) -> None:
    """Commits that swap a counter through a restart never count one step twice."""
    done = doubted = 0

    async def count(store: Store) -> None:
        nonlocal done, doubted
        while done < 100:
            item = await store.get("n")
            value, revision = (int(item.value), item.revision) if item else (0, 0)
            try:
                written = await store.commit([KeyIs("n", revision)], [Put("n", str(value + 1).encode())])
            except StoreUnavailable:
                doubted += 1
            else:
                assert written is not None
                done += 1

    with trio.fail_after(60):
        async with open_etcd(config(own_etcd.endpoint)) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(count, store)
                await wait_until(lambda: done >= 20)
                await own_etcd.restart()
            item = await store.get("n")
    assert item is not None
    assert done <= int(item.value) <= done + doubted


async def test_rolling_kill(tmp_path: Path) -> None:
    """Killing each member of a cluster in turn fails no write, and a watch loses and doubles nothing."""
    with trio.fail_after(100), open_cluster(tmp_path, 3) as members:
        endpoints = [member.endpoint for member in members]
        async with open_etcd(config(*endpoints)) as writer, open_etcd(config(*reversed(endpoints))) as reader:
            traffic = Traffic(writer, reader)
            async with trio.open_nursery() as nursery:
                await nursery.start(traffic.run)
                for member in members:
                    await member.restart()
                    await trio.sleep(0.5)
                traffic.stop()
        traffic.check()


async def test_one_endpoint_of_several(own_etcd: OwnEtcd) -> None:
    """Endpoints that nobody answers at cost a moment, not the call."""
    nobody = ("127.0.0.1:9", "[::1]:9")
    with trio.fail_after(20):
        async with open_etcd(config(*nobody, own_etcd.endpoint)) as store:
            revision = await store.commit([KeyIs("a", 0)], [Put("a", b"1")])
            assert revision is not None
            async with aclosing(store.watch("", after=revision - 1)) as watch:
                assert len(await take(watch, 1)) == 1
