"""Lifetime of tunnels, in virtual time."""

import ssl
from functools import partial

import pytest
import trio
import trio.testing

from node_proxy.errors import HandshakeError, TunnelClosed
from node_proxy.tunnel.connection import PING_INTERVAL, PING_TIMEOUT
from node_proxy.tunnel.events import PeerDraining
from node_proxy.tunnel.http2 import CANCEL, Role
from tests.fakes.driven_tunnel import READABLE, DrivenTunnel
from tests.fakes.driven_tunnel import connected as connected_by
from tests.fakes.tls import FIRST_FD

HOUR = 3600.0
IDLE = 300.0


def connected(role: Role) -> DrivenTunnel:
    """Give an established tunnel that reads trio's clock."""
    return connected_by(role, clock=trio.current_time)


async def answer(driven: DrivenTunnel) -> None:
    """Be a peer that answers, until cancelled."""
    while True:
        await trio.sleep(0.5)
        driven.exchange()


class TestKeepAlive:
    async def test_closed_tunnel_needs_no_care(self, autojump_clock: trio.testing.MockClock) -> None:
        """It returns at once when the tunnel is closed."""
        driven = connected(Role.SERVER)
        driven.tunnel.close(TunnelClosed("test"))
        await driven.tunnel.keep_alive()
        assert trio.current_time() == 0

    async def test_returns_when_the_tunnel_closes(self, autojump_clock: trio.testing.MockClock) -> None:
        """It returns in the moment in which the tunnel closes."""
        driven = connected(Role.SERVER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.tunnel.keep_alive)
            await trio.sleep(3)
            driven.tunnel.close(TunnelClosed("test"))
        assert trio.current_time() == 3

    async def test_cancellation_closes(self, autojump_clock: trio.testing.MockClock) -> None:
        """The tunnel does not outlive the task that keeps it."""
        driven = connected(Role.CLIENT)
        _, handler = driven.open_accepted()
        with trio.move_on_after(7):
            await driven.tunnel.keep_alive()
        assert str(driven.tunnel.closed) == "the tunnel's owner ended"
        assert len(handler.heard) == 1

    async def test_silent_peer_is_closed(self, autojump_clock: trio.testing.MockClock) -> None:
        """A peer that says nothing and answers no PING is found after one interval and one timeout."""
        driven = connected(Role.CLIENT)
        driven.open_accepted()
        await driven.tunnel.keep_alive()
        assert trio.current_time() == PING_INTERVAL + PING_TIMEOUT
        assert "did not answer a PING" in str(driven.tunnel.closed)

    async def test_answering_peer_is_kept(self, autojump_clock: trio.testing.MockClock) -> None:
        """A peer that answers keeps a tunnel with streams for as long as it likes."""
        driven = connected(Role.CLIENT)
        driven.open_accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.tunnel.keep_alive)
            nursery.start_soon(answer, driven)
            await trio.sleep(HOUR)
            assert driven.tunnel.closed is None
            nursery.cancel_scope.cancel()

    async def test_old_tunnel_drains(self, autojump_clock: trio.testing.MockClock) -> None:
        """At its age a tunnel takes no more streams and tells the peer; those that are open go on."""
        driven = connected(Role.CLIENT)
        stream_id, handler = driven.open_accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(driven.tunnel.keep_alive, max_age=HOUR))
            nursery.start_soon(answer, driven)
            capacity = []
            for pause in (HOUR - 1, 1 + PING_INTERVAL + PING_TIMEOUT):
                await trio.sleep(pause)
                capacity.append(driven.tunnel.has_capacity)
            assert capacity == [True, False]
            driven.peer.send(stream_id, b"still here")
            driven.exchange()
            assert handler.payload == b"still here"
            assert any(isinstance(event, PeerDraining) for event in driven.peer.heard)
            nursery.cancel_scope.cancel()

    async def test_old_tunnel_closes_with_its_last_stream(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """A drained tunnel ends when nobody uses it any more."""
        driven = connected(Role.CLIENT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, driven)
            await driven.tunnel.keep_alive(max_age=HOUR)
            nursery.cancel_scope.cancel()
        assert str(driven.tunnel.closed) == "drained"

    async def test_talking_peer_is_not_asked(self, autojump_clock: trio.testing.MockClock) -> None:
        """Whoever sends anything is alive: no PING is spent on it."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.tunnel.keep_alive)
            for _ in range(20):
                await trio.sleep(PING_INTERVAL / 2)
                driven.peer.send(stream_id, b"news")
                driven.from_peer()
            assert driven.tls.take() == b""
            nursery.cancel_scope.cancel()

    async def test_server_keeps_an_idle_client(self, autojump_clock: trio.testing.MockClock) -> None:
        """Without an idle timeout a tunnel without streams stays: its client decides."""
        driven = connected(Role.SERVER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.tunnel.keep_alive)
            nursery.start_soon(answer, driven)
            await trio.sleep(HOUR)
            assert driven.tunnel.closed is None
            nursery.cancel_scope.cancel()


class TestIdle:
    async def test_idle_tunnel_is_closed(self, autojump_clock: trio.testing.MockClock) -> None:
        """A tunnel without streams is closed after the idle timeout, within one round of checks."""
        driven = connected(Role.CLIENT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, driven)
            await driven.tunnel.keep_alive(idle_timeout=IDLE)
            nursery.cancel_scope.cancel()
        assert IDLE <= trio.current_time() <= IDLE + PING_INTERVAL + PING_TIMEOUT
        assert str(driven.tunnel.closed).startswith("idle for")

    async def test_open_stream_is_use(self, autojump_clock: trio.testing.MockClock) -> None:
        """A tunnel with a stream is not idle, however silent the stream is."""
        driven = connected(Role.CLIENT)
        driven.open_accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, driven)
            with trio.move_on_after(HOUR):
                await driven.tunnel.keep_alive(idle_timeout=IDLE)
            nursery.cancel_scope.cancel()
        assert str(driven.tunnel.closed) == "the tunnel's owner ended"

    async def test_idle_time_begins_with_the_last_stream(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """The end of a stream starts the idle time anew."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, driven)
            nursery.start_soon(_reset_later, driven, stream_id, IDLE)
            await driven.tunnel.keep_alive(idle_timeout=IDLE)
            nursery.cancel_scope.cancel()
        assert trio.current_time() >= 2 * IDLE

    async def test_server_waits_a_while(self, autojump_clock: trio.testing.MockClock) -> None:
        """A draining server closes at the next check: its client may have asked before it heard."""
        driven = connected(Role.SERVER)
        driven.tunnel.drain()
        await driven.tunnel.keep_alive()
        assert trio.current_time() == PING_INTERVAL
        assert str(driven.tunnel.closed) == "drained"

    async def test_client_closes_with_its_last_stream(self, autojump_clock: trio.testing.MockClock) -> None:
        """A draining client is closed as soon as no stream is left."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        driven.tunnel.drain()
        before = driven.tunnel.closed
        driven.tunnel.reset_stream(stream_id, CANCEL)
        assert (before, str(driven.tunnel.closed)) == (None, "drained")

    async def test_draining_tunnel_waits_for_its_streams(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """A draining tunnel with an open stream goes on."""
        driven = connected(Role.CLIENT)
        stream_id, _ = driven.open_accepted()
        driven.tunnel.drain()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, driven)
            nursery.start_soon(_reset_later, driven, stream_id, 100.0)
            await driven.tunnel.keep_alive()
            nursery.cancel_scope.cancel()
        assert 100 <= trio.current_time() <= 100 + PING_INTERVAL + PING_TIMEOUT


async def _reset_later(driven: DrivenTunnel, stream_id: int, seconds: float) -> None:
    await trio.sleep(seconds)
    driven.tunnel.reset_stream(stream_id, 8)


class TestWaitEstablished:
    async def test_waits_for_settings(self, autojump_clock: trio.testing.MockClock) -> None:
        """A tunnel is established when the peer's SETTINGS are there, and not before."""
        driven = DrivenTunnel(Role.CLIENT, clock=trio.current_time)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driven.tunnel.wait_established)
            await trio.sleep(2)
            assert nursery.child_tasks
            driven.exchange()
        assert driven.tunnel.has_capacity

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ssl.SSLError("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert"), "no_certificate"),
            (ssl.SSLError("[SSL: TLSV1_ALERT_UNKNOWN_CA] alert"), "unknown_ca"),
            (ConnectionResetError("reset"), "closed"),
            (b"", "closed"),
        ],
        ids=["no-certificate", "unknown-ca", "reset", "end"],
    )
    async def test_peer_that_refuses_us(self, error: OSError | bytes, reason: str) -> None:
        """Under TLS 1.3 the peer's refusal comes after our handshake: it is told as what it is."""
        driven = DrivenTunnel(Role.CLIENT)
        driven.tls.at_end = error
        driven.poller.ready(FIRST_FD, READABLE)
        with pytest.raises(HandshakeError) as raised:
            await driven.tunnel.wait_established()
        assert raised.value.reason == reason

    async def test_peer_that_speaks_no_http2(self) -> None:
        """A peer that speaks something else behind its TLS is told apart from one that leaves."""
        driven = DrivenTunnel(Role.CLIENT)
        driven.tls.incoming += b"HTTP/1.1 400 Bad Request\r\n\r\n"
        driven.poller.ready(FIRST_FD, READABLE)
        with pytest.raises(HandshakeError) as raised:
            await driven.tunnel.wait_established()
        assert raised.value.reason == "protocol"

    async def test_peer_that_allows_no_stream(self) -> None:
        """A tunnel that takes no stream is of no use, and said to be so."""
        driven = DrivenTunnel(Role.CLIENT)
        driven.tls.incoming += b"\0\0\x06\4\0\0\0\0\0" + b"\0\3\0\0\0\0"
        driven.poller.ready(FIRST_FD, READABLE)
        with pytest.raises(HandshakeError) as raised:
            await driven.tunnel.wait_established()
        assert raised.value.reason == "protocol"

    async def test_peer_that_drains_at_once(self) -> None:
        """The same for a peer that is about to leave."""
        driven = DrivenTunnel(Role.CLIENT)
        driven.peer.protocol.drain()
        driven.exchange()
        with pytest.raises(HandshakeError):
            await driven.tunnel.wait_established()

    async def test_cancellation(self, autojump_clock: trio.testing.MockClock) -> None:
        """Giving up leaves the tunnel as it is, for its owner to close."""
        driven = DrivenTunnel(Role.CLIENT, clock=trio.current_time)
        with trio.move_on_after(5) as scope:
            await driven.tunnel.wait_established()
        assert scope.cancelled_caught
        assert driven.tunnel.closed is None
