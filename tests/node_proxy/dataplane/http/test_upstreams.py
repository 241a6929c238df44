from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing

from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import RequestHead, Version
from node_proxy.dataplane.http.openings import Opened, Openings
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.http.stream_opening import StreamUnanswered, open_stream
from node_proxy.dataplane.http.upstream_key import KeyRing, UpstreamKey
from node_proxy.dataplane.http.upstreams import IDLE_TIMEOUT, Overflow, Upstream, Upstreams
from node_proxy.dataplane.tables import Route
from node_proxy.errors import DialError, TunnelRefused
from node_proxy.snapshot import Endpoint
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, REFUSED_STREAM
from registry.model.backend_policy import ConnectionLimits
from tests.fakes.context import Scene, scene
from tests.fakes.relay_tunnel import RelayTunnel
from tests.integration.snapshots import backend_policy
from tests.node_proxy.dataplane.http.forwarding import SERVICE, nodes, service, state
from tests.node_proxy.dataplane.source import WEB

ONE, TWO = nodes("api-0", "api-1")
KEYS = KeyRing(WEB.text, "10.77.0.1")
REQUEST = RequestHead(b"GET", b"/", b"api", [])
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Far:
    """Opens memory channels; `fars` are their other ends. `lasting` is said of each."""

    def __init__(self) -> None:
        self.fars: list[Channel] = []
        self.spoken: list[Sniffed] = []
        self.lasting = True
        self.failing: Exception | None = None

    async def open(
        self, _endpoint: Endpoint, _caller: Caller, _address: str | None, spoken: Sniffed
    ) -> Opened:
        """Open one, a moment later."""
        await trio.sleep(0.01)
        if self.failing is not None:
            raise self.failing
        near, far = memory_channels()
        self.fars.append(far)
        self.spoken.append(spoken)
        return Opened(near, lambda: self.lasting)


class Pool:
    """A pool of connections to a service whose far ends are the test's."""

    def __init__(self, at: Scene, nursery: trio.Nursery) -> None:
        self.at = at
        self.far = Far()
        self.balancer = Balancer(at.context)
        self.upstreams = Upstreams(
            at.context,
            nursery,
            openings=cast("Openings", self.far),
            balancer=self.balancer,
            limits=HttpLimits(),
        )
        nursery.start_soon(self.upstreams.sweep)

    @property
    def route(self) -> Route:
        """The service's port."""
        route = self.at.context.enforced.tables.by_name(SERVICE, 80)
        assert route is not None
        return route

    async def take(self, endpoint: Endpoint = ONE, version: Version = Version.HTTP_11) -> Upstream:
        """Take a connection."""
        return await self.upstreams.take(KEYS.key(endpoint, version), WEB, self.route)

    async def use(self, upstream: Upstream, far: Channel) -> None:
        """Make one request over HTTP/1.1 from beginning to end, and give the connection back."""
        client = await upstream.connection.request(REQUEST, end=True)
        await far.receive()
        await far.send(ANSWER)
        assert (await client.response()).status == 204
        assert await client.body.receive() == b""
        client.reset("over")
        self.upstreams.give_back(upstream)


@asynccontextmanager
async def pool(limits: ConnectionLimits | None = None) -> AsyncIterator[Pool]:
    """Give a pool for a service of two endpoints."""
    policies: Sequence[object] = () if limits is None else (backend_policy(connection_limits=limits),)
    what = state(service("api", ONE, TWO), policies=policies)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        yield Pool(scene(what, clock=trio.current_time), nursery)
        nursery.cancel_scope.cancel()


class TestReuse:
    async def test_one_after_the_other(self) -> None:
        """A connection that is given back is used again; one in use is nobody else's."""
        async with pool() as at:
            first = await at.take()
            await at.use(first, at.far.fars[0])
            assert await at.take() is first
            assert await at.take() is not first
            assert len(at.upstreams) == len(at.far.fars) == 2
            assert at.far.spoken == [Sniffed.HTTP_1] * 2

    async def test_each_key_has_its_own(self) -> None:
        """Endpoints, callers and addresses do not share connections."""
        async with pool() as at:
            first = await at.take()
            await at.use(first, at.far.fars[0])
            others = [
                UpstreamKey(TWO, Version.HTTP_11, WEB.text, "10.77.0.1"),
                UpstreamKey(ONE, Version.HTTP_11, "spiffe://nodemesh.local/ns/default/sa/db", "10.77.0.1"),
                UpstreamKey(ONE, Version.HTTP_11, WEB.text, None),
            ]
            assert [at.upstreams.take_nowait(each) for each in others] == [None] * 3
            same = UpstreamKey(ONE, Version.HTTP_11, WEB.text, "10.77.0.1")
            assert at.upstreams.take_nowait(same) is first

    async def test_http2_is_shared(self) -> None:
        """Those who ask for HTTP/2 at once wait for one connection and share it."""
        async with pool() as at:
            taken: list[Upstream] = []

            async def take() -> None:
                taken.append(await at.take(version=Version.HTTP_2))

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(take)
            assert len({id(each) for each in taken}) == len(at.far.fars) == 1
            assert at.far.spoken == [Sniffed.HTTP_2]

    async def test_failure_of_one_is_not_that_of_all(self) -> None:
        """When opening fails, whoever waited for it tries itself."""
        async with pool() as at:
            at.far.failing = DialError("10.77.0.2", 15008, "refused")
            failures = []

            async def take() -> None:
                with pytest.raises(DialError):
                    await at.take(version=Version.HTTP_2)
                failures.append(1)

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(take)
            assert len(failures) == 3
            assert len(at.upstreams) == 0


class TestEnd:
    async def test_closed_by_the_workload(self) -> None:
        """A connection that its other side has closed is not used again."""
        async with pool() as at:
            first = await at.take()
            await at.use(first, at.far.fars[0])
            at.far.fars[0].close()
            assert await at.take() is not first

    async def test_idle(self, autojump_clock: trio.testing.MockClock) -> None:
        """An idle connection is closed after a while, one that is in use is not."""
        async with pool() as at:
            idle, busy = await at.take(), await at.take()
            await at.use(idle, at.far.fars[0])
            await busy.connection.request(REQUEST, end=True)
            await trio.sleep(2 * IDLE_TIMEOUT)
            assert len(at.upstreams) == 1
            assert await at.far.fars[0].receive() == b""

    async def test_requests_of_a_connection(self) -> None:
        """After so many requests a connection is closed."""
        async with pool() as at:
            first = await at.take()
            at.upstreams.give_back(first, requests=2)
            assert await at.take() is first
            at.upstreams.give_back(first, requests=2)
            assert await at.take() is not first

    async def test_draining_tunnel(self) -> None:
        """Connections in a tunnel that drains take no more requests, so that it can end."""
        async with pool() as at:
            first = await at.take()
            at.upstreams.give_back(first)
            at.far.lasting = False
            assert await at.take() is not first
            assert await at.far.fars[0].receive() == b""

    async def test_other_credentials(self) -> None:
        """Retired connections end with what is in flight on them."""
        async with pool() as at:
            idle, busy = await at.take(), await at.take()
            at.upstreams.give_back(idle)
            client = await busy.connection.request(REQUEST, end=True)
            at.upstreams.retire_all()
            assert len(at.upstreams) == 1
            await at.far.fars[1].receive()
            await at.far.fars[1].send(ANSWER)
            assert (await client.response()).status == 204
            assert await client.body.receive() == b""
            at.upstreams.give_back(busy)
            assert len(at.upstreams) == 0


class TestLimits:
    async def test_waits_for_one(self) -> None:
        """When the service may have no more connections, a request waits for one to be given back."""
        async with pool(ConnectionLimits(connections=1)) as at:
            first = await at.take()
            taken: list[Upstream] = []

            async def take() -> None:
                taken.append(await at.take())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await trio.testing.wait_all_tasks_blocked()
                assert taken == []
                at.upstreams.give_back(first)
            assert taken == [first]

    async def test_idle_one_makes_room(self) -> None:
        """An idle connection to another endpoint is closed in favour of one that is needed."""
        async with pool(ConnectionLimits(connections=1)) as at:
            at.upstreams.give_back(await at.take(ONE))
            await at.take(TWO)
            assert len(at.upstreams) == 1

    async def test_too_many_wait(self) -> None:
        """Who finds as many waiting as may is refused at once."""
        async with pool(ConnectionLimits(connections=1, pending=1)) as at:
            await at.take()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(at.take)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(Overflow):
                    await at.take()
                nursery.cancel_scope.cancel()

    async def test_failed_ones_do_not_count(self) -> None:
        """A connection that did not come about leaves its place to others."""
        async with pool(ConnectionLimits(connections=1)) as at:
            at.far.failing = TunnelRefused(503, "dial_failed")
            with pytest.raises(TunnelRefused):
                await at.take()
            at.far.failing = None
            with trio.move_on_after(0):
                await at.take()
            await at.take()


class TestStream:
    """The stream that a connection runs over."""

    @staticmethod
    async def _open(tunnel: RelayTunnel) -> Channel:
        return await open_stream(scene().context, tunnel.as_tunnel(), "10.77.0.2:8080", [(b"a", b"b")])

    async def test_accepted(self) -> None:
        """Once it is accepted it carries bytes both ways, also what comes at once."""
        tunnel = RelayTunnel()

        async def accept() -> None:
            await trio.testing.wait_all_tasks_blocked()
            tunnel.handlers[1].on_accepted()
            tunnel.handlers[1].on_data(memoryview(b"hello"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            channel = await self._open(tunnel)
        assert await channel.receive() == b"hello"
        await channel.send(b"well")
        assert (bytes(tunnel.sent), tunnel.said) == (b"well", [(b"a", b"b")])

    async def test_refused(self) -> None:
        """The peer's words are told."""
        tunnel = RelayTunnel()

        async def refuse() -> None:
            await trio.testing.wait_all_tasks_blocked()
            tunnel.handlers.pop(1).on_refused(403, "denied")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            with pytest.raises(TunnelRefused) as caught:
                await self._open(tunnel)
        assert (caught.value.status, caught.value.reason) == (403, "denied")

    @pytest.mark.parametrize(
        ("code", "again"), [(TUNNEL_CLOSED, True), (REFUSED_STREAM, True), (CANCEL, False)]
    )
    async def test_reset(self, code: int, again: bool) -> None:
        """A reset says whether the same endpoint may be asked again."""
        tunnel = RelayTunnel()

        async def reset() -> None:
            await trio.testing.wait_all_tasks_blocked()
            tunnel.handlers.pop(1).on_reset(code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reset)
            with pytest.raises(StreamUnanswered) as caught:
                await self._open(tunnel)
        assert caught.value.again is again

    async def test_given_up(self) -> None:
        """Who gives up waiting resets the stream."""
        tunnel = RelayTunnel()
        with trio.move_on_after(0.01):
            await self._open(tunnel)
        assert tunnel.resets == [(1, CANCEL)]
