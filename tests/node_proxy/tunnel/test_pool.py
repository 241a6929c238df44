from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing

from node_proxy.errors import DialError, HandshakeError, NodeProxyError, TunnelClosed
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.pool import IDLE_TIMEOUT, MAX_AGE, MAX_SPREAD, SPREAD_PAUSE, TunnelKey, TunnelPool

KEY = TunnelKey(address="10.0.0.2", port=15008, source="web", destination="api", server_name="api.default")
OTHER_KEY = TunnelKey(
    address="10.0.0.3", port=15008, source="web", destination="api", server_name="api.default"
)


class PooledTunnel:
    """As much of a tunnel as the pool sees: capacity, drain, and a life of its own."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.draining = False
        self.busy = False
        self.streams = 0
        self.max_age: float | None = None
        self.idle_timeout: float | None = None
        self.ended = trio.Event()

    @property
    def has_capacity(self) -> bool:
        """Whether one more stream may be opened."""
        return self.capacity > 0 and not self.draining and not self.ended.is_set()

    def drain(self) -> None:
        """Take no more streams."""
        self.draining = True

    @property
    def protocol(self) -> "PooledTunnel":
        """Its own protocol, as far as the pool looks."""
        return self

    @property
    def open_streams(self) -> int:
        """Streams that the test says are open."""
        return self.streams

    async def keep_alive(self, *, idle_timeout: float | None = None, max_age: float | None = None) -> None:
        """Live until ended."""
        self.max_age = max_age
        self.idle_timeout = idle_timeout
        await self.ended.wait()


class Dialler:
    """Opens tunnels when the test lets it, and counts the handshakes."""

    def __init__(self) -> None:
        self.go = trio.Event()
        # Handshakes that wait for an event of their own instead, by their number.
        self.go_alone: dict[int, trio.Event] = {}
        self.errors: list[NodeProxyError] = []
        self.capacity = 1000
        self.keys: list[TunnelKey] = []
        self.opened: list[PooledTunnel] = []

    async def open(self, key: TunnelKey) -> TunnelConnection:
        """Do one handshake."""
        self.keys.append(key)
        await self.go_alone.get(len(self.keys), self.go).wait()
        if self.errors:
            raise self.errors.pop(0)
        tunnel = PooledTunnel(self.capacity)
        self.opened.append(tunnel)
        return cast("TunnelConnection", tunnel)


@asynccontextmanager
async def pooled() -> AsyncIterator[tuple[TunnelPool, Dialler, trio.Nursery]]:
    """Give a pool, its dialler, and a nursery for callers; everything is cancelled at the end."""
    dialler = Dialler()
    async with trio.open_nursery() as owner, trio.open_nursery() as callers:
        yield TunnelPool(owner, dialler.open), dialler, callers
        callers.cancel_scope.cancel()
        owner.cancel_scope.cancel()


async def settle() -> None:
    """Let every task run until it waits."""
    await trio.testing.wait_all_tasks_blocked()


async def get_and_note(pool: TunnelPool, got: list[TunnelConnection | NodeProxyError]) -> None:
    """Get a tunnel and note what came of it."""
    try:
        got.append(await pool.get(KEY))
    except NodeProxyError as error:
        got.append(error)


async def test_first_caller_opens_a_tunnel() -> None:
    """Without a tunnel one is opened."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        tunnel = await pool.get(KEY)
        assert dialler.keys == [KEY]
        assert cast("PooledTunnel", tunnel) is dialler.opened[0]


async def test_open_tunnel_is_given_at_once() -> None:
    """An open tunnel is shared by all who ask for its key, without waiting."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        tunnel = await pool.get(KEY)
        assert pool.get_nowait(KEY) is tunnel
        assert await pool.get(KEY) is tunnel


async def test_keys_do_not_share() -> None:
    """Another address is another tunnel, and so is another identity at either end."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        await pool.get(KEY)
        assert pool.get_nowait(OTHER_KEY) is None
        await pool.get(OTHER_KEY)
        assert dialler.keys == [KEY, OTHER_KEY]


async def test_many_wait_for_one_handshake() -> None:
    """A hundred callers at once cost one handshake."""
    async with pooled() as (pool, dialler, callers):
        got: list[TunnelConnection | NodeProxyError] = []
        for _ in range(100):
            callers.start_soon(get_and_note, pool, got)
        await settle()
        dialler.go.set()
        await settle()
        assert len(dialler.keys) == 1
        assert cast("list[PooledTunnel]", got) == [dialler.opened[0]] * 100


async def test_failure_is_told_to_all_who_wait() -> None:
    """Everyone who waited for a handshake hears why it failed."""
    async with pooled() as (pool, dialler, callers):
        error = HandshakeError("unknown CA", reason="unknown_ca")
        dialler.errors = [error]
        got: list[TunnelConnection | NodeProxyError] = []
        for _ in range(5):
            callers.start_soon(get_and_note, pool, got)
        await settle()
        dialler.go.set()
        await settle()
        assert got == [error] * 5
        assert len(dialler.keys) == 1


async def test_failure_is_not_remembered() -> None:
    """The next caller after a failure tries anew."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        dialler.errors = [DialError("10.0.0.2", 15008, "refused")]
        with pytest.raises(DialError):
            await pool.get(KEY)
        await pool.get(KEY)
        assert len(dialler.keys) == 2


async def test_full_tunnel_gets_a_second() -> None:
    """When a tunnel takes no more streams another is opened beside it."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        await pool.get(KEY)
        dialler.opened[0].capacity = 0
        assert pool.get_nowait(KEY) is None
        second = await pool.get(KEY)
        assert cast("PooledTunnel", second) is dialler.opened[1]
        dialler.opened[0].capacity = 1
        assert cast("PooledTunnel", pool.get_nowait(KEY)) is dialler.opened[0]


async def test_waiters_that_find_it_full_dial_again() -> None:
    """Those for whom a fresh tunnel has no room left share the next handshake."""
    async with pooled() as (pool, dialler, callers):
        dialler.capacity = 1
        got: list[TunnelConnection | NodeProxyError] = []

        async def take_one() -> None:
            tunnel = await pool.get(KEY)
            cast("PooledTunnel", tunnel).capacity -= 1
            got.append(tunnel)

        for _ in range(3):
            callers.start_soon(take_one)
        dialler.go.set()
        await settle()
        assert len(set(map(id, got))) == len(dialler.opened) == 3


async def test_closed_tunnel_leaves() -> None:
    """A tunnel that ended is forgotten, and the next caller opens another."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        await pool.get(KEY)
        dialler.opened[0].ended.set()
        await settle()
        assert pool._tunnels == {}
        assert cast("PooledTunnel", await pool.get(KEY)) is dialler.opened[1]


async def test_tunnels_are_kept_with_the_idle_timeout() -> None:
    """The pool looks after its tunnels: keepalive, and an end when nobody uses them."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        await pool.get(KEY)
        await settle()
        assert dialler.opened[0].idle_timeout == IDLE_TIMEOUT


async def test_cancelled_waiter_disturbs_nobody() -> None:
    """Who stops waiting, even the one who asked first, leaves the handshake to the others."""
    async with pooled() as (pool, dialler, callers):
        got: list[TunnelConnection | NodeProxyError] = []
        with trio.CancelScope() as impatient:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.get, KEY)
                await settle()
                callers.start_soon(get_and_note, pool, got)
                await settle()
                impatient.cancel()
        dialler.go.set()
        await settle()
        assert cast("list[PooledTunnel]", got) == [dialler.opened[0]]


async def test_handshake_nobody_waits_for_fills_the_pool() -> None:
    """A handshake whose only caller gave up is not wasted."""
    async with pooled() as (pool, dialler, _):
        with trio.move_on_after(0):
            await pool.get(KEY)
        await settle()
        dialler.go.set()
        await settle()
        assert cast("PooledTunnel", pool.get_nowait(KEY)) is dialler.opened[0]


class TestRetire:
    async def test_present_tunnels_drain(self) -> None:
        """After a change of credentials new streams get a new tunnel; the old one drains."""
        async with pooled() as (pool, dialler, _):
            dialler.go.set()
            await pool.get(KEY)
            pool.retire_all()
            assert dialler.opened[0].draining
            assert pool.get_nowait(KEY) is None
            assert cast("PooledTunnel", await pool.get(KEY)) is dialler.opened[1]

    async def test_retired_tunnel_is_kept_to_its_end(self) -> None:
        """A retired tunnel is looked after until it ends, and its end does not touch its successor."""
        async with pooled() as (pool, dialler, _):
            dialler.go.set()
            await pool.get(KEY)
            pool.retire_all()
            successor = await pool.get(KEY)
            dialler.opened[0].ended.set()
            await settle()
            assert pool.get_nowait(KEY) is successor

    async def test_handshake_under_way_is_not_used(self) -> None:
        """A handshake begun with the old credentials serves nobody: those who wait get a new one."""
        async with pooled() as (pool, dialler, callers):
            got: list[TunnelConnection | NodeProxyError] = []
            callers.start_soon(get_and_note, pool, got)
            await settle()
            pool.retire_all()
            dialler.go.set()
            await settle()
            assert dialler.opened[0].draining
            assert cast("list[PooledTunnel]", got) == [dialler.opened[1]]

    async def test_new_callers_do_not_wait_for_an_old_handshake(self) -> None:
        """Who asks after the change is not held up by a handshake from before it."""
        async with pooled() as (pool, dialler, callers):
            callers.start_soon(get_and_note, pool, [])
            await settle()
            pool.retire_all()
            callers.start_soon(get_and_note, pool, [])
            await settle()
            assert len(dialler.keys) == 2

    async def test_old_handshake_ends_without_touching_the_new(self) -> None:
        """When a handshake from before the change ends, whoever asks then shares the one from after it."""
        async with pooled() as (pool, dialler, callers):
            dialler.go_alone = {1: trio.Event()}
            callers.start_soon(get_and_note, pool, [])
            await settle()
            pool.retire_all()
            callers.start_soon(get_and_note, pool, [])
            await settle()
            dialler.go_alone[1].set()
            await settle()
            callers.start_soon(get_and_note, pool, [])
            await settle()
            assert len(dialler.keys) == 2


class TestBusyTunnels:
    """A flow that fills a tunnel keeps it to itself, as far as that goes."""

    @staticmethod
    async def _busy(pool: TunnelPool, dialler: Dialler) -> PooledTunnel:
        dialler.go.set()
        tunnel = cast("PooledTunnel", await pool.get(KEY))
        tunnel.busy = True
        return tunnel

    async def test_nobody_waits_for_another(self) -> None:
        """While another tunnel is being opened, the filled one is given."""
        async with pooled() as (pool, dialler, _):
            busy = await self._busy(pool, dialler)
            dialler.go = trio.Event()
            assert cast("PooledTunnel", pool.get_nowait(KEY)) is busy

    async def test_the_next_stream_goes_elsewhere(self) -> None:
        """Once the other tunnel stands, new streams use that."""
        async with pooled() as (pool, dialler, _):
            await self._busy(pool, dialler)
            pool.get_nowait(KEY)
            await settle()
            assert cast("PooledTunnel", pool.get_nowait(KEY)) is dialler.opened[1]
            assert len(dialler.opened) == 2

    async def test_bounded(self) -> None:
        """When all are filled there is an end to opening more, and the one with fewest streams is given."""
        async with pooled() as (pool, dialler, _):
            await self._busy(pool, dialler)
            for _ in range(2 * MAX_SPREAD):
                pool.get_nowait(KEY)
                await settle()
                for tunnel in dialler.opened:
                    tunnel.busy = True
                    tunnel.streams = 5
            assert len(dialler.opened) == MAX_SPREAD
            dialler.opened[2].streams = 4
            assert cast("PooledTunnel", pool.get_nowait(KEY)) is dialler.opened[2]

    async def test_a_failure_is_not_repeated_at_once(self, autojump_clock: trio.testing.MockClock) -> None:
        """When no second tunnel can be had, the next is tried after a pause; callers notice nothing."""
        async with pooled() as (pool, dialler, _):
            busy = await self._busy(pool, dialler)
            dialler.errors = [DialError("10.0.0.2", 15008, "no route")]
            for _ in range(5):
                assert cast("PooledTunnel", pool.get_nowait(KEY)) is busy
                await settle()
            assert len(dialler.keys) == 2
            await trio.sleep(SPREAD_PAUSE)
            pool.get_nowait(KEY)
            await settle()
            assert len(dialler.opened) == 2


async def test_tunnels_grow_old() -> None:
    """A tunnel is kept for the age that the pool was told to give it."""
    async with pooled() as (pool, dialler, _):
        dialler.go.set()
        await pool.get(KEY)
        await settle()
        assert dialler.opened[0].max_age == MAX_AGE


async def test_end_of_the_worker() -> None:
    """When the pool's owner ends, whoever still waits is told so instead of waiting for ever."""
    dialler = Dialler()
    got: list[TunnelConnection | NodeProxyError] = []
    async with trio.open_nursery() as callers, trio.open_nursery() as owner:
        pool = TunnelPool(owner, dialler.open)
        callers.start_soon(get_and_note, pool, got)
        await settle()
        owner.cancel_scope.cancel()
    assert isinstance(got[0], TunnelClosed)
