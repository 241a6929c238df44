"""What the store over etcd survives of its connections, its history and its readers."""

import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from registry.store.base import Relisted
from registry.store.config import EtcdConfig
from registry.store.etcd import EtcdStore, open_etcd
from tests.contract.events import contents, take, values, wait_progress, wait_until
from tests.contract.gateway import Gateway
from tests.contract.servers import OwnEtcd, open_own_etcd
from tests.contract.traffic import Traffic
from tests.fakes.forwarder import open_forwarder

Configure = Callable[[str], EtcdConfig]


@pytest.fixture
def config(etcd_prefix: str) -> Configure:
    """Give what makes configurations of this test's prefix."""

    def configure(endpoint: str) -> EtcdConfig:
        return EtcdConfig(endpoints=(endpoint,), prefix=etcd_prefix, timeout=10)

    return configure


async def test_cut(shared_etcd: OwnEtcd, config: Configure) -> None:
    """Connections cut again and again cost no write, and a watch loses and doubles nothing."""
    with trio.fail_after(60):
        async with (
            open_forwarder(shared_etcd.plan.client_port) as (forwarder, endpoint),
            open_etcd(config(endpoint)) as store,
        ):
            traffic = Traffic(store, store)
            async with trio.open_nursery() as nursery:
                await nursery.start(traffic.run)
                for _ in range(5):
                    forwarder.cut()
                    await trio.sleep(0.4)
                traffic.stop()
    assert forwarder.accepted > 3
    traffic.check()


async def test_half_open(shared_etcd: OwnEtcd, config: Configure) -> None:
    """A watch on a connection that is open but silent notices, and takes up where it was on a new one."""
    with trio.fail_after(60):
        async with (
            open_forwarder(shared_etcd.plan.client_port) as (forwarder, endpoint),
            open_etcd(config(endpoint)) as reader,
            open_etcd(config(shared_etcd.endpoint)) as writer,
        ):
            revision = await writer.put("a", b"0")
            async with aclosing(reader.watch("", after=revision)) as watch:
                await wait_progress(watch)
                forwarder.freeze()
                await writer.put("a", b"1")
                await writer.put("a", b"2")
                assert values(await take(watch, 2)) == [b"1", b"2"]


async def test_compacted_while_away(shared_etcd: OwnEtcd, config: Configure) -> None:
    """A watch that was cut off past a compaction lists, and goes on."""
    with trio.fail_after(60):
        async with (
            open_forwarder(shared_etcd.plan.client_port) as (forwarder, endpoint),
            open_etcd(config(endpoint)) as reader,
            open_etcd(config(shared_etcd.endpoint)) as writer,
        ):
            revision = await writer.put("gone", b"0")
            async with aclosing(reader.watch("", after=revision)) as watch:
                await wait_progress(watch)
                forwarder.block()
                await writer.delete("gone")
                await writer.put("a", b"1")
                await Gateway(shared_etcd.endpoint).compact(await writer.put("a", b"2"))
                forwarder.unblock()
                (relisted,) = await take(watch, 1)
                assert isinstance(relisted, Relisted)
                assert contents(relisted.listing) == {"a": b"2"}
                await writer.put("a", b"3")
                assert values(await take(watch, 1)) == [b"3"]


async def test_lease_lost_while_away(shared_etcd: OwnEtcd, config: Configure) -> None:
    """A holder cut off for longer than the TTL knows that its lease is lost, before it is reachable again."""
    with trio.fail_after(60):
        async with (
            open_forwarder(shared_etcd.plan.client_port) as (forwarder, endpoint),
            open_etcd(config(endpoint)) as holder,
            open_etcd(config(shared_etcd.endpoint)) as other,
            holder.hold_lease(2) as lease,
        ):
            revision = await holder.put("a", b"1", lease=lease.id)
            forwarder.block()
            await lease.wait_lost()
            async with aclosing(other.watch("a", after=revision)) as watch:
                assert values(await take(watch, 1)) == [None]


async def test_progress_of_a_quiet_prefix(tmp_path: Path, config: Configure) -> None:
    """A watch learns how far the store has come where nothing under its prefix changes."""
    with open_own_etcd(tmp_path, "--experimental-watch-progress-notify-interval=200ms") as etcd:
        async with open_etcd(config(etcd.endpoint)) as store:
            revision = await store.put("a/1", b"1")
            async with aclosing(store.watch("b/", after=revision)) as watch:
                assert await wait_progress(watch) == revision
                later = await store.put("a/1", b"2")
                with trio.fail_after(20):
                    while await wait_progress(watch) != later:
                        pass


async def test_no_thread_is_left(shared_etcd: OwnEtcd, config: Configure) -> None:
    """Cancelling blocked watches ends their threads: five rounds leave no more of them than one."""

    def watching() -> int:
        return sum("etcd watch" in thread.name for thread in threading.enumerate())

    async def block(store: EtcdStore, revision: int) -> None:
        async with aclosing(store.watch("", after=revision)) as watch:
            await take(watch, 1)

    before = threading.active_count()
    async with open_etcd(config(shared_etcd.endpoint)) as store:
        revision = await store.put("a", b"1")
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(block, store, revision)
                with trio.fail_after(20):
                    await wait_until(lambda: watching() == 20)
                nursery.cancel_scope.cancel()
            assert watching() == 0
        # What is left are idle threads that trio keeps for some seconds, to use again, and grpc's few.
        assert threading.active_count() < before + 2 * 20


async def test_stalled_reader(shared_etcd: OwnEtcd, config: Configure) -> None:
    """A reader that stalls is not read ahead for: what it has not taken stays in etcd."""
    size, count = 100_000, 300
    with trio.fail_after(60):
        async with (
            open_forwarder(shared_etcd.plan.client_port) as (forwarder, endpoint),
            open_etcd(config(endpoint)) as reader,
            open_etcd(config(shared_etcd.endpoint)) as writer,
        ):
            revision = await writer.put("a", b"0")
            async with aclosing(reader.watch("", after=revision)) as watch:
                await wait_progress(watch)
                for _ in range(count):
                    await writer.put("a", bytes(size))
                await trio.sleep(0.5)
                assert forwarder.moved < size * count / 2
                assert values(await take(watch, count)) == [bytes(size)] * count


async def test_v6(shared_etcd: OwnEtcd, config: Configure) -> None:
    """An IPv6 endpoint is an endpoint."""
    async with (
        open_forwarder(shared_etcd.plan.client_port, host="::1") as (_, endpoint),
        open_etcd(config(endpoint)) as store,
    ):
        assert endpoint.startswith("[::1]:")
        assert await store.put("a", b"1")
