"""What callers that wait for an answer are told of their calls to services."""

import socket

import pytest

from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.outbound_connection import OutboundConnection
from node_proxy.dataplane.reason import Reason
from node_proxy.dataplane.tables import Route
from node_proxy.errors import DialError, HandshakeError
from node_proxy.snapshot import Endpoint
from tests.fakes.outbound_pool import IdleSocket
from tests.fakes.tcp import tcp_pair
from tests.node_proxy.dataplane.source import WEB, Source, endpoints, settle, source


class RecordingWay:
    """Remembers what the caller would have been told."""

    def __init__(self) -> None:
        self.said: list[Refused | str] = []
        self.reason = ""

    def granted(self, _sock: socket.socket) -> None:
        """Remember."""
        self.said.append("granted")

    def refused(self, sock: socket.socket, why: Refused, reason: Reason) -> None:
        """Remember."""
        self.said.append(why)
        self.reason = reason.code
        sock.close()


def call(inside: Source, *to: Endpoint, sock: socket.socket | None = None) -> RecordingWay:
    """Begin a call of a caller that waits for an answer."""
    way = RecordingWay()
    OutboundConnection(
        inside.outbound.shared, sock or IdleSocket().as_socket(), Route("default/api", 80, to), WEB, way
    ).start()
    return way


async def test_granted() -> None:
    """The caller is told once the endpoint has accepted, not before."""
    near, far = tcp_pair()
    async with source() as inside:
        (to,) = endpoints(1)
        inside.open_tunnels(to)
        way = call(inside, to, sock=near)
        assert way.said == []
        _, tunnel, stream_id = inside.next_asked()
        tunnel.handlers[stream_id].on_accepted()
        assert way.said == ["granted"]
        tunnel.handlers[stream_id].on_reset(2)
    far.close()


@pytest.mark.parametrize(
    ("status", "header", "why"),
    [
        (403, "denied; policy=default/no-web; id=0123abcd-1", Refused.DENIED),
        (403, "whatever another make says", Refused.DENIED),
        (503, "dial_failed", Refused.UNREACHABLE),
    ],
)
async def test_refused(status: int, header: str, why: Refused) -> None:
    """What the destination's proxy said decides what the caller is told."""
    async with source() as inside:
        (to,) = endpoints(1)
        inside.open_tunnels(to)
        way = call(inside, to)
        inside.refuse(status, header)
        assert way.said == [why]


async def test_no_endpoint() -> None:
    """A service without endpoints cannot be reached."""
    async with source() as inside:
        way = call(inside)
        assert (way.said, way.reason) == ([Refused.UNREACHABLE], "no_endpoint")


async def test_no_answer() -> None:
    """A peer that does not answer in time is late, and so is one that does not finish its handshake."""
    async with source() as inside:
        (to,) = endpoints(1)
        inside.open_tunnels(to)
        way = call(inside, to)
        (handler,) = [each for _, tunnel, number in inside.asked for each in [tunnel.handlers[number]]]
        assert isinstance(handler, OutboundConnection)
        handler.timed_out()
        assert way.said == [Refused.LATE]
    async with source() as inside:
        inside.pool.failing[to.address] = HandshakeError("no tunnel within 5 s", reason="timeout")
        way = call(inside, to)
        await settle()
        assert way.said == [Refused.LATE]


async def test_last_failure_counts() -> None:
    """After one that was late and one that refused, the last is what the caller hears of."""
    async with source() as inside:
        first, second = endpoints(2)
        for address, error in (
            (first.address, HandshakeError("no tunnel within 5 s", reason="timeout")),
            (second.address, DialError(second.address, 15008, "refused")),
        ):
            inside.pool.failing[address] = error
        way = call(inside, first, second)
        await settle()
        last = inside.pool.asked[-1].address
        assert way.said == [Refused.LATE if last == first.address else Refused.UNREACHABLE]


async def test_bug_of_ours() -> None:
    """A crash of ours is no fault of the service."""
    async with source() as inside:
        (to,) = endpoints(1)
        inside.pool.failing[to.address] = ZeroDivisionError("a bug")
        way = call(inside, to)
        await settle()
        assert (way.said, way.reason) == ([Refused.FAILED], "internal_error")
