import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.answers import ANSWER_CHECK_INTERVAL
from node_proxy.dataplane.callers import UnknownCaller
from node_proxy.dataplane.dialler import TunnelDialler
from node_proxy.dataplane.ejection import FIRST_EJECTION
from node_proxy.dataplane.outbound import Outbound
from node_proxy.dataplane.outbound_connection import Caller, OutboundConnection
from node_proxy.dataplane.tables import Route
from node_proxy.errors import DialError, HandshakeError, NodeProxyError, PeerIdentityError, TunnelClosed
from node_proxy.snapshot import Endpoint
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.connection import BUFFER_SIZE, TunnelConnection
from node_proxy.tunnel.handlers import TUNNEL_CLOSED, StreamHandler
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.pool import TunnelKey
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.tls import TlsContexts, accept_tls
from node_proxy.tunnel.windows import WindowBudget
from registry.rules.balancing.deadlines import CONNECT
from tests.fakes.context import Scene, scene, tls_contexts
from tests.fakes.outbound_pool import IdleSocket, OutboundPool
from tests.fakes.relay_tunnel import RelayTunnel
from tests.integration.certificates import Authority, server_name, spiffe
from tests.node_proxy.dataplane.source import API, WEB, endpoints, make_outbound


def outbound_of(stage: Scene, nursery: trio.Nursery) -> Outbound:
    """Give an outbound side."""
    return make_outbound(stage.context, nursery)


class TestConnected:
    @pytest.mark.parametrize(
        ("route", "caller", "reason"),
        [
            (None, WEB, "unknown_destination"),
            (Route("default/api", 80, ()), UnknownCaller(), "unknown_caller"),
            (None, UnknownCaller(), "unknown_destination"),
        ],
    )
    async def test_without_route_or_caller(
        self, route: Route | None, caller: Caller | UnknownCaller, reason: str
    ) -> None:
        """A connection to nowhere, or of nobody, is reset, counted and logged with its target."""
        stage, sock = scene(), IdleSocket()
        async with trio.open_nursery() as nursery:
            outbound_of(stage, nursery).connected(sock.as_socket(), route, caller, "240.240.0.9 port 80")
        assert sock.state == "aborted"
        (line,) = stage.logged("stream refused")
        assert (line["reason"], line["destination"]) == (reason, "240.240.0.9 port 80")
        assert stage.counted(telemetry.STREAMS_REFUSED, reason=reason) == 1

    async def test_with_both(self) -> None:
        """Otherwise it is a connection, and counted as open."""
        stage = scene()
        async with trio.open_nursery() as nursery:
            outbound = outbound_of(stage, nursery)
            pool = OutboundPool()
            outbound.shared.pool = pool.as_pool()
            (api,) = endpoints(1)
            pool.open[api.address] = RelayTunnel()
            outbound.connected(IdleSocket().as_socket(), Route("default/api", 80, (api,)), WEB, "api")
        assert outbound.open_connections == 1
        assert stage.counted(telemetry.CONNECTIONS_OPEN, side="outbound", workload="default/api") == 1


class TestChoose:
    async def test_less_loaded_of_two(self) -> None:
        """Of two endpoints the one with fewer connections is chosen."""
        first, second = endpoints(2)
        async with trio.open_nursery() as nursery:
            outbound = outbound_of(scene(), nursery)
            balancer, route = outbound.shared.balancer, Route("default/api", 80, (first, second))
            balancer.begin(route, first)
            assert balancer.choose(route, set()) is second
            balancer.begin(route, second)
            balancer.begin(route, second)
            assert balancer.choose(route, set()) is first

    async def test_choosing_leaves_no_trace(self) -> None:
        """Endpoints that come and go leave nothing behind in the books."""
        async with trio.open_nursery() as nursery:
            outbound = outbound_of(scene(), nursery)
            outbound.shared.balancer.choose(Route("default/api", 80, endpoints(5)), set())
            assert outbound.shared.balancer.loaded == 0

    async def test_tried_ones_are_passed_over(self) -> None:
        """What was tried is not chosen again; when all were, nothing is."""
        first, second = endpoints(2)
        async with trio.open_nursery() as nursery:
            outbound = outbound_of(scene(), nursery)
            route = Route("default/api", 80, (first, second))
            assert outbound.shared.balancer.choose(route, {first}) is second
            assert outbound.shared.balancer.choose(route, {first, second}) is None

    async def test_ejected_ones_are_passed_over_for_their_time(self) -> None:
        """An ejected endpoint is used again when its time is over, or when there is no other."""
        now = 0.0
        first, second = endpoints(2)
        route = Route("default/api", 80, (first, second))
        async with trio.open_nursery() as nursery:
            stage = scene(clock=lambda: now)
            outbound = outbound_of(stage, nursery)
            outbound.shared.balancer.failed(first, "503 dial_failed")
            assert {outbound.shared.balancer.choose(route, set()) for _ in range(20)} == {second}
            assert outbound.shared.balancer.choose(route, {second}) is first
            now = FIRST_EJECTION
            assert {outbound.shared.balancer.choose(route, set()) for _ in range(50)} == {first, second}
        (line,) = stage.logged("endpoint ejected")
        assert (line["node"], line["cause"]) == (first.node, "503 dial_failed")
        assert stage.counted(telemetry.ENDPOINT_EJECTIONS, node=first.node) == 1


class FragileTunnel(RelayTunnel):
    """A tunnel that breaks when a stream is reset on it: its other streams hear of the end at once."""

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Break."""
        super().reset_stream(stream_id, code)
        self.has_capacity = False
        handlers, self.handlers = self.handlers, {}
        for handler in handlers.values():
            handler.on_reset(TUNNEL_CLOSED)


class TestWatchAnswers:
    @staticmethod
    @asynccontextmanager
    async def _watched(
        tunnel: RelayTunnel, to: tuple[Endpoint, ...]
    ) -> AsyncIterator[tuple[Outbound, Scene]]:
        async with trio.open_nursery() as nursery:
            stage = scene(clock=trio.current_time)
            outbound = outbound_of(stage, nursery)
            pool = OutboundPool()
            outbound.shared.pool = pool.as_pool()
            pool.open[to[0].address] = tunnel
            nursery.start_soon(outbound.shared.answers.watch)
            yield outbound, stage
            nursery.cancel_scope.cancel()

    @staticmethod
    def _call(outbound: Outbound, to: tuple[Endpoint, ...]) -> None:
        route = Route("default/api", 80, to)
        OutboundConnection(outbound.shared, IdleSocket().as_socket(), route, WEB).start()

    async def test_missed_answer(self, autojump_clock: trio.testing.MockClock) -> None:
        """A peer that has not answered in time is given up, soon after the deadline."""
        tunnel = RelayTunnel()
        async with self._watched(tunnel, endpoints(1)) as (outbound, stage):
            self._call(outbound, endpoints(1))
            await trio.sleep(CONNECT - 0.1)
            assert tunnel.resets == []
            await trio.sleep(0.1 + ANSWER_CHECK_INTERVAL)
            assert len(tunnel.resets) == 1
            assert "no answer in time" in stage.logged("stream refused")[0]["detail"]

    async def test_answer_stops_the_clock(self, autojump_clock: trio.testing.MockClock) -> None:
        """Who answered in time is not given up later."""
        tunnel = RelayTunnel()
        async with self._watched(tunnel, endpoints(1)) as (outbound, stage):
            self._call(outbound, endpoints(1))
            await trio.sleep(CONNECT - 0.1)
            tunnel.handlers.pop(1).on_refused(403, "denied")
            await trio.sleep(10 * CONNECT)
            assert tunnel.resets == []
            assert len(stage.logged("stream refused")) == 1

    async def test_each_waits_its_own_time(self, autojump_clock: trio.testing.MockClock) -> None:
        """Connections that began later are given up later."""
        tunnel = RelayTunnel()
        async with self._watched(tunnel, endpoints(1)) as (outbound, _):
            self._call(outbound, endpoints(1))
            await trio.sleep(CONNECT / 2)
            self._call(outbound, endpoints(1))
            await trio.sleep(CONNECT / 2 + ANSWER_CHECK_INTERVAL)
            assert len(tunnel.resets) == 1
            await trio.sleep(CONNECT / 2)
            assert len(tunnel.resets) == 2

    async def test_tunnel_that_breaks_with_the_first(self, autojump_clock: trio.testing.MockClock) -> None:
        """When giving up one breaks the tunnel of others that are as late, those try again, unharmed."""
        tunnel = FragileTunnel()
        async with self._watched(tunnel, endpoints(1)) as (outbound, stage):
            for _ in range(3):
                self._call(outbound, endpoints(1))
            await trio.sleep(CONNECT + ANSWER_CHECK_INTERVAL)
            assert len(tunnel.resets) == 1
            # The first has no other endpoint; the other two ask a new tunnel.
            assert outbound.open_connections == len(outbound.shared.answers) == 2
            assert len(stage.logged("stream refused")) == 1


class Peer:
    """A host that accepts tunnels: what it does after its handshake is the test's choice."""

    def __init__(self, contexts: TlsContexts, *, speaks: bool) -> None:
        self._contexts = contexts
        self._speaks = speaks
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)

    async def serve(self, stage: Scene) -> None:
        """Accept one tunnel."""
        await trio.lowlevel.wait_readable(self.listener)
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        try:
            tls = await accept_tls(sock, self._contexts.server())
        except HandshakeError:
            return
        if not self._speaks:
            tls.close()
            return
        protocol = TunnelProtocol(Role.SERVER, budget=WindowBudget(), calm=Calm(0.0))
        tunnel = TunnelConnection(
            tls, protocol, poller=stage.context.reactor, buffer=bytearray(BUFFER_SIZE), clock=lambda: 0.0
        )
        tunnel.start()
        await tunnel.keep_alive()


class TestOpenTunnel:
    """Real handshakes on loopback."""

    @staticmethod
    async def _open(
        authority: Authority, peer: Peer, *, destination: str = API, source: str = WEB.text
    ) -> tuple[Scene, TunnelConnection | NodeProxyError]:
        stage = scene(contexts=tls_contexts(authority, authority.issue(WEB.text)))
        port = peer.listener.getsockname()[1]
        key = TunnelKey("127.0.0.1", port, source, destination, server_name(API))
        with peer.listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.context.reactor.run)
                nursery.start_soon(peer.serve, stage)
                try:
                    tunnel = await TunnelDialler(stage.context).open(key)
                except NodeProxyError as error:
                    return stage, error
                finally:
                    nursery.cancel_scope.cancel()
                tunnel.close(TunnelClosed("test"))
        return stage, tunnel

    async def test_opens(self, authority: Authority) -> None:
        """With the right peer there is a tunnel that takes streams, and it is counted."""
        peer = Peer(tls_contexts(authority, authority.issue(API)), speaks=True)
        stage, outcome = await self._open(authority, peer)
        assert isinstance(outcome, TunnelConnection)
        assert stage.counted(telemetry.TUNNELS_OPENED, side="outbound") == 1

    async def test_wrong_peer(self, authority: Authority) -> None:
        """A peer that proves another identity than the Service lists is refused for that."""
        peer = Peer(tls_contexts(authority, authority.issue(API)), speaks=True)
        stage, outcome = await self._open(authority, peer, destination=spiffe("db"))
        assert isinstance(outcome, PeerIdentityError)
        assert [line["reason"] for line in stage.logged("tunnel refused")] == ["peer_identity"]

    async def test_peer_that_leaves(self, authority: Authority) -> None:
        """A peer that closes after the handshake has not accepted us."""
        peer = Peer(tls_contexts(authority, authority.issue(API)), speaks=False)
        stage, outcome = await self._open(authority, peer)
        assert isinstance(outcome, HandshakeError)
        assert stage.counted(telemetry.TUNNELS_REFUSED, side="outbound", reason="closed") == 1

    async def test_stranger(self, authority: Authority) -> None:
        """A peer of another authority is refused for that."""
        other = Authority("another root")
        peer = Peer(tls_contexts(other, other.issue(API)), speaks=True)
        stage, outcome = await self._open(authority, peer)
        assert isinstance(outcome, HandshakeError)
        assert [line["reason"] for line in stage.logged("tunnel refused")] == ["unknown_ca"]

    async def test_identity_we_do_not_hold(self, authority: Authority) -> None:
        """Nothing is dialled for a source whose key is not on this host."""
        peer = Peer(tls_contexts(authority, authority.issue(API)), speaks=True)
        stage, outcome = await self._open(authority, peer, source=spiffe("db"))
        assert isinstance(outcome, HandshakeError)
        assert [line["reason"] for line in stage.logged("tunnel refused")] == ["no_credential"]

    async def test_nobody_listens(self, authority: Authority) -> None:
        """A host without a proxy is a refused connect."""
        peer = Peer(tls_contexts(authority, authority.issue(API)), speaks=True)
        port = peer.listener.getsockname()[1]
        peer.listener.close()
        stage = scene(contexts=tls_contexts(authority, authority.issue(WEB.text)))
        key = TunnelKey("127.0.0.1", port, WEB.text, API, server_name(API))
        with pytest.raises(DialError):
            await TunnelDialler(stage.context).open(key)
        assert [line["reason"] for line in stage.logged("tunnel refused")] == ["connect"]


def test_connections_are_stream_handlers() -> None:
    """The tunnel may call everything it knows on a connection that waits for its answer."""
    names = {name for name in vars(StreamHandler) if name.startswith("on_")}
    assert names <= set(dir(OutboundConnection))
