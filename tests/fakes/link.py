"""Two `TunnelProtocol`s joined by hand, without sockets: what one sends is held until a test delivers it."""

from collections.abc import Iterable

import hpack

from node_proxy.tunnel import frames
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.events import DataReceived, Event, StreamRequested
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.http2 import MAX_FRAME_SIZE, Role
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.windows import WindowBudget

AUTHORITY = "10.0.0.2:8080"


def data(stream_id: int, payload: bytes) -> DataReceived:
    """Give the event that `payload` makes."""
    return DataReceived(stream_id, memoryview(payload))


def header_frame(stream_id: int, fields: list[tuple[bytes, bytes]], *, end_stream: bool = False) -> bytes:
    """Give a HEADERS frame as a peer might send it that says something else than we do."""
    return frames.headers(stream_id, bytes(hpack.Encoder().encode(fields)), end_stream=end_stream)


def payload_of(events: Iterable[Event], stream_id: int) -> bytes:
    """Join what was received on a stream."""
    return b"".join(e.data for e in events if isinstance(e, DataReceived) and e.stream_id == stream_id)


class End:
    """One protocol with the bytes it has to send and the events it has given."""

    def __init__(self, role: Role, *, now: float = 0.0) -> None:
        self.now = now
        self.budget = WindowBudget()
        self.protocol = TunnelProtocol(role, budget=self.budget, calm=Calm(now))
        self.heard: list[Event] = []
        self._outbox = bytearray()
        self._rest = b""

    def receive(self, wire: bytes) -> list[Event]:
        """Take bytes as the driver does, kept rests before them; gives the events, payload copied."""
        buffer = self._rest + wire
        events, used = self.protocol.receive(memoryview(buffer), self.now)
        self._rest = buffer[used:]
        heard = [
            data(event.stream_id, bytes(event.data)) if isinstance(event, DataReceived) else event
            for event in events
        ]
        self.heard += heard
        return heard

    def send(self, stream_id: int, payload: bytes) -> None:
        """Send one DATA frame, which the windows must allow."""
        self._outbox += self.protocol.take_output()
        header = bytearray(FRAME_HEADER)
        self.protocol.write_data_header(header, stream_id, len(payload))
        self._outbox += header + payload

    def send_allowed(self, stream_id: int, payload: bytes) -> int:
        """Send as much of `payload` as the windows allow; gives how much that was."""
        sent = 0
        while sent < len(payload) and (room := self.protocol.sendable(stream_id)):
            self.send(stream_id, payload[sent : sent + room])
            sent = min(len(payload), sent + room)
        return sent

    def take_outbox(self, limit: int | None = None) -> bytes:
        """Give, once, what is on its way to the peer, or its first `limit` bytes."""
        self._outbox += self.protocol.take_output()
        wire = bytes(self._outbox[:limit])
        del self._outbox[: len(wire)]
        return wire


class Link:
    """A client and a server."""

    def __init__(self) -> None:
        self.client = End(Role.CLIENT)
        self.server = End(Role.SERVER)

    def deliver(self) -> None:
        """Carry everything both ways until both are silent."""
        while True:
            to_server, to_client = self.client.take_outbox(), self.server.take_outbox()
            if not (to_server or to_client):
                return
            self.server.receive(to_server)
            self.client.receive(to_client)

    def news(self) -> tuple[list[Event], list[Event]]:
        """Deliver everything; give what client and server have heard since the last time."""
        self.deliver()
        news = (self.client.heard, self.server.heard)
        self.client.heard, self.server.heard = [], []
        return news

    def request(self, authority: str = AUTHORITY) -> int:
        """Open a stream and let the server hear of it."""
        stream_id = self.client.protocol.open_stream(authority)
        _, heard = self.news()
        assert heard == [StreamRequested(stream_id, authority, ())]
        return stream_id

    def accepted(self) -> int:
        """Give a stream that the server has accepted."""
        stream_id = self.request()
        self.server.protocol.accept_stream(stream_id)
        self.news()
        return stream_id


def established() -> Link:
    """Give a link after its handshake."""
    link = Link()
    link.news()
    return link


def fill(link: Link, stream_id: int) -> int:
    """Send from client to server until a window is shut; gives how many bytes that took."""
    sent = 0
    while room := link.client.protocol.sendable(stream_id):
        link.client.send(stream_id, bytes(min(room, MAX_FRAME_SIZE)))
        sent += min(room, MAX_FRAME_SIZE)
    return sent
