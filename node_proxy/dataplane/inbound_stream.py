"""One admitted CONNECT, from the dial of its workload to the last byte."""

import re
import socket
from functools import lru_cache
from ipaddress import ip_address
from typing import Protocol

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import identity_text
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.stream_channel import StreamChannel
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.reason import DIAL_FAILED, Reason, render_reason
from node_proxy.dataplane.relay import StreamRelay
from node_proxy.dataplane.shaping import open_side
from node_proxy.dataplane.workload_dial import Origin, WorkloadDial
from node_proxy.errors import DialError
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.http2 import CANCEL

# A workload on loopback answers at once; one on another address of this host within a round trip.
DIAL_TIMEOUT = 5.0
PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}\Z")
# Characters of a host that is remembered: every address, and no more memory than these are worth.
MAX_REMEMBERED = 64


class Host(Protocol):
    """What a stream needs of the `Inbound` it belongs to, and of a test's stand-in."""

    context: WorkerContext
    admission: Admission
    guard: Guard
    nursery: trio.Nursery


class InboundStream:
    """Dials the admitted workload, answers 200 or 503, and hands over: to a relay, or to HTTP's guard."""

    def __init__(
        self,
        host: Host,
        tunnel: TunnelConnection,
        stream_id: int,
        admitted: Admitted,
        origin: Origin | None = None,
    ) -> None:
        self._host = host
        self._tunnel = tunnel
        self._stream_id = stream_id
        self._admitted = admitted
        self._origin = origin
        self._dial = WorkloadDial(host.context, admitted, origin)
        self._numbers = host.context.telemetry.inbound(admitted.local.workload.name, security=telemetry.MTLS)
        self._early = bytearray()
        self._ended = False
        self._gone = False
        self._relay: StreamRelay | None = None
        self._started = host.context.clock()
        # From here on, so that a policy that changes during the dial is obeyed as well.
        self._open = host.admission.streams.opened(admitted, self.cut)

    def dial(self) -> None:
        """Connect to the workload; on loopback the connection mostly stands at once."""
        try:
            sock, connected = self._dial.start()
        except DialError as error:
            self._refuse(error)
            return
        if connected:
            self._connected(sock)
        else:
            self._host.nursery.start_soon(self._host.context.contain, self._finish_dial, sock)

    def cut(self, outcome: str) -> None:
        """End the stream now, whether or not it carries payload already."""
        if self._relay is not None:
            self._relay.cut(outcome)
        elif not self._gone:
            self._tunnel.reset_stream(self._stream_id, CANCEL)
            self.on_reset(CANCEL)

    async def _finish_dial(self, sock: socket.socket) -> None:
        try:
            await self._dial.finish(sock, timeout=DIAL_TIMEOUT)
        except DialError as error:
            self._refuse(error)
        else:
            self._connected(sock)

    def _refuse(self, error: DialError) -> None:
        admitted, context = self._admitted, self._host.context
        workload = admitted.local.workload.name
        context.telemetry.add(telemetry.STREAMS_REFUSED, reason=DIAL_FAILED, workload=workload)
        context.log.warning(
            "stream refused",
            side="destination",
            status=503,
            reason=DIAL_FAILED,
            id=admitted.decision,
            detail=str(error),
            source=identity_text(admitted.source),
            destination=workload,
            port=admitted.port,
        )
        if not self._gone:
            self._let_go()
            self._host.admission.streams.closed(self._open)
            reason = Reason(DIAL_FAILED, decision=admitted.decision)
            self._tunnel.refuse_stream(self._stream_id, 503, render_reason(reason))

    def _connected(self, sock: socket.socket) -> None:
        if self._gone:
            sock.close()
        elif self._admitted.reads_http:
            self._hand_over(sock)
        else:
            self._relay_bytes(sock)

    def _hand_over(self, sock: socket.socket) -> None:
        """Let the guard serve the stream; it says itself when that is open and when it is not."""
        context = self._host.context
        channel = StreamChannel(
            self._tunnel, self._stream_id, backlog=context.backlog, buffer=context.relay_buffer
        )
        guarded = self._host.guard.take(channel, self._admitted, self._origin, sock, security=telemetry.MTLS)
        self._gone = True
        self._host.admission.streams.closed(self._open)
        self._tunnel.set_handler(self._stream_id, channel)
        self._tunnel.accept_stream(self._stream_id)
        if self._early:
            early = bytes(self._early)
            self._let_go()
            channel.on_data(memoryview(early))
        if self._ended:
            channel.on_ended()
        self._host.nursery.start_soon(context.contain, guarded.run)

    def _relay_bytes(self, sock: socket.socket) -> None:
        context = self._host.context
        relay = self._relay = StreamRelay(
            open_side(sock, context.reactor, self._host.admission.shaper(self._admitted)),
            self._tunnel,
            self._stream_id,
            buffer=context.relay_buffer,
            backlog=context.backlog,
            on_closed=self._closed,
        )
        self._numbers.begin()
        relay.start()
        self._tunnel.set_handler(self._stream_id, relay)
        self._tunnel.accept_stream(self._stream_id)
        if self._early:
            early = bytes(self._early)
            self._let_go()
            relay.on_data(memoryview(early))
        if self._ended:
            relay.on_ended()

    def _closed(self, relay: StreamRelay, outcome: str) -> None:
        context, admitted = self._host.context, self._admitted
        # Else relay and stream would hold each other, and only the garbage collector could free them.
        self._gone, self._relay = True, None
        self._host.admission.streams.closed(self._open)
        self._numbers.end(relay.traffic, outcome)
        context.log.info(
            "connection closed",
            side="inbound",
            source=identity_text(admitted.source),
            destination=admitted.local.workload.name,
            identity=admitted.local.workload.identity,
            port=admitted.port,
            policy=admitted.permit.policy,
            id=admitted.decision,
            bytes_sent=relay.traffic.sent,
            bytes_received=relay.traffic.received,
            seconds=round(context.clock() - self._started, 6),
            outcome=outcome,
        )

    def _let_go(self) -> None:
        self._early.clear()
        self._host.context.backlog.forget(self)

    # What the tunnel says while the dial is under way.

    def on_data(self, data: memoryview) -> None:
        """Keep early payload; the stream's window bounds it, and the worker's backlog all of it."""
        self._early += data
        self._host.context.backlog.grew(self, len(data))

    def on_ended(self) -> None:
        """Remember that the caller has sent everything."""
        self._ended = True

    def on_reset(self, _code: int) -> None:
        """Forget the stream: its caller is gone."""
        self._gone = True
        self._let_go()
        self._host.admission.streams.closed(self._open)

    def on_accepted(self) -> None:
        """Never said to a server."""

    def on_refused(self, _status: int, _reason: str) -> None:
        """Never said to a server."""

    def on_writable(self) -> None:
        """Nothing is sent before the dial has ended."""


def parse_authority(authority: str) -> tuple[str, int] | None:
    """Read ``host:port`` or ``[address]:port``; None when it is neither.

    An address comes out in canonical text; a name as it is, since names are never resolved here.
    """
    host, _, port = authority.rpartition(":")
    if not PORT.match(port) or int(port) > 65535:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    address = _canonical(host) if len(host) <= MAX_REMEMBERED else _canonical.__wrapped__(host)
    if address is None and NAME.match(host):
        address = host
    return None if address is None else (address, int(port))


# To read an address costs more than all else here, and a host has few.
@lru_cache(maxsize=1024)
def _canonical(host: str) -> str | None:
    try:
        return str(ip_address(host))
    except ValueError:
        return None
