"""The callers' side of a worker with its tunnels in the test's hand."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.outbound import Outbound
from node_proxy.dataplane.outbound_connection import Caller, OutboundConnection
from node_proxy.dataplane.tables import Route
from node_proxy.snapshot import Endpoint
from tests.fakes.context import Scene, scene
from tests.fakes.outbound_pool import IdleSocket, OutboundPool
from tests.fakes.relay_tunnel import RelayTunnel
from tests.integration.certificates import spiffe
from tests.integration.snapshots import endpoint

WEB = Caller.of(spiffe("web"))
API = spiffe("api")


def endpoints(count: int) -> tuple[Endpoint, ...]:
    """Give endpoints of one service, each on a node of its own at 10.77.0.2, .3 and so on."""
    return tuple(endpoint(f"api-{i}", f"10.77.0.{i + 2}", 15008, 8080, identity=API) for i in range(count))


def make_outbound(
    context: WorkerContext, nursery: trio.Nursery, admission: Admission | None = None
) -> Outbound:
    """Give an outbound side, with this host's own side behind it."""
    admission = admission or Admission(context)
    timers = Timers(context.clock, context.crashed)
    guard = Guard(context, admission, timers=timers, draining=lambda: False)
    return Outbound(context, nursery, admission, guard, timers)


class Source:
    """An outbound side whose tunnels are in the test's hand."""

    def __init__(self, stage: Scene, nursery: trio.Nursery) -> None:
        self.stage = stage
        self.outbound = make_outbound(stage.context, nursery)
        self.pool = OutboundPool()
        self.outbound.shared.pool = self.pool.as_pool()

    def open_tunnels(self, *to: Endpoint) -> None:
        """Have tunnels in the pool already."""
        for each in to:
            self.pool.open[each.address] = RelayTunnel()

    def call(self, *to: Endpoint, sock: socket.socket | None = None) -> IdleSocket:
        """Begin a connection to a service with these endpoints."""
        idle = IdleSocket()
        route = Route("default/api", 80, to)
        OutboundConnection(self.outbound.shared, sock or idle.as_socket(), route, WEB).start()
        return idle

    @property
    def asked(self) -> list[tuple[str, RelayTunnel, int]]:
        """Streams that wait for an answer: address, tunnel, stream id."""
        return [
            (address, tunnel, stream_id)
            for address, tunnel in self.pool.open.items()
            for stream_id, handler in tunnel.handlers.items()
            if isinstance(handler, OutboundConnection)
        ]

    def next_asked(self) -> tuple[str, RelayTunnel, int]:
        """Give the one stream that waits for an answer."""
        (asked,) = self.asked
        return asked

    def refuse(self, status: int, reason: str) -> str:
        """Let the peer refuse the one stream that waits; gives its address."""
        address, tunnel, stream_id = self.next_asked()
        tunnel.handlers.pop(stream_id).on_refused(status, reason)
        return address

    def reset(self, code: int) -> str:
        """Let the peer reset the one stream that waits; gives its address."""
        address, tunnel, stream_id = self.next_asked()
        tunnel.handlers.pop(stream_id).on_reset(code)
        return address

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """What was logged as refused: reason and detail."""
        return [(line["reason"], line["detail"]) for line in self.stage.logged("stream refused")]

    def ejected(self, each: Endpoint) -> bool:
        """Whether an endpoint is passed over now."""
        return self.outbound.shared.balancer.ejected(each)

    def assert_balanced(self) -> None:
        """Check that nothing is left of any connection."""
        assert self.outbound.shared.balancer.loaded == 0
        assert len(self.outbound.shared.answers) == 0
        assert self.outbound.open_connections == 0
        assert self.stage.counted(telemetry.CONNECTIONS_OPEN) == 0


@asynccontextmanager
async def source() -> AsyncIterator[Source]:
    """Give an outbound side; its reactor runs, and all ends with the test."""
    async with trio.open_nursery() as nursery:
        stage = scene()
        nursery.start_soon(stage.context.reactor.run)
        yield Source(stage, nursery)
        nursery.cancel_scope.cancel()


async def settle() -> None:
    """Let every task run until it waits."""
    await trio.testing.wait_all_tasks_blocked()
