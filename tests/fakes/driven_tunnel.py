"""A `TunnelConnection` over memory, its poller turned by hand, before a peer that is a bare protocol."""

import select
from collections.abc import Callable

from node_proxy.tunnel.connection import BUFFER_SIZE, TunnelConnection
from node_proxy.tunnel.events import RequestRejected, StreamRequested
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.http2 import Role
from tests.fakes.link import AUTHORITY, End
from tests.fakes.poller import ManualPoller
from tests.fakes.stream_handler import RecordingHandler
from tests.fakes.tls import FIRST_FD, MemoryTls

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT


class DrivenTunnel:
    """A tunnel in one role and its peer in the other; nothing moves but by `exchange` and its parts."""

    def __init__(
        self,
        role: Role,
        *,
        clock: Callable[[], float] = lambda: 0.0,
        room: int | None = None,
        record: int = 16_384,
        started: bool = True,
    ) -> None:
        self.requests: list[StreamRequested] = []
        self.rejected: list[RequestRejected] = []
        self.poller = ManualPoller()
        self.tls = MemoryTls(room=room, record=record)
        self.peer = End(Role.SERVER if role is Role.CLIENT else Role.CLIENT)
        self.tunnel = TunnelConnection(
            self.tls.as_stream(),
            End(role).protocol,
            poller=self.poller,
            buffer=bytearray(BUFFER_SIZE),
            clock=clock,
            on_request=lambda _, request: self.requests.append(request),
            on_rejected=lambda _, rejected: self.rejected.append(rejected),
        )
        if started:
            self.tunnel.start()

    def to_peer(self) -> bool:
        """Let the peer read what was sent; gives whether that was anything."""
        wire = self.tls.take()
        self.peer.receive(wire)
        return bool(wire)

    def from_peer(self) -> bool:
        """Let the tunnel read what the peer sent; gives whether that was anything."""
        wire = self.peer.take_outbox()
        self.tls.incoming += wire
        while self.tls.incoming and not self.tls.closed:
            self.poller.ready(FIRST_FD, READABLE)
        return bool(wire)

    def exchange(self) -> None:
        """Deliver both ways until both are silent."""
        while self.to_peer() | self.from_peer():
            pass

    def make_room(self, room: int | None) -> None:
        """Let the socket take `room` more bytes, and say so to the tunnel."""
        self.tls.room = room
        self.poller.ready(FIRST_FD, WRITABLE)

    def open_accepted(self) -> tuple[int, RecordingHandler]:
        """Give a stream that our client opened and the peer accepted."""
        handler = RecordingHandler()
        stream_id = self.tunnel.open_stream(AUTHORITY, handler)
        self.exchange()
        self.peer.protocol.accept_stream(stream_id)
        self.exchange()
        handler.heard.clear()
        return stream_id, handler

    def requested(self) -> tuple[int, RecordingHandler]:
        """Give a stream that the peer's client opened, with a handler of our server's."""
        handler = RecordingHandler()
        stream_id = self.peer.protocol.open_stream(AUTHORITY)
        self.exchange()
        self.tunnel.set_handler(stream_id, handler)
        return stream_id, handler

    def send(self, stream_id: int, payload: bytes) -> None:
        """Send payload as a relay does."""
        buffer = bytearray(FRAME_HEADER) + payload
        self.tunnel.send_payload(stream_id, buffer, len(payload))


def connected(role: Role, *, clock: Callable[[], float] = lambda: 0.0, record: int = 16_384) -> DrivenTunnel:
    """Give a tunnel after the exchange of SETTINGS."""
    driven = DrivenTunnel(role, clock=clock, record=record)
    driven.exchange()
    driven.peer.heard.clear()
    return driven
