"""The protocol of HTTP/2 on a channel: what both ends do."""

from abc import ABC, abstractmethod
from typing import Final

import trio

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h2_events import (
    BodyEnded,
    DataReceived,
    H2Event,
    PeerDraining,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    StreamBroken,
    WindowOpened,
)
from node_proxy.dataplane.http.h2_protocol import H2Protocol
from node_proxy.dataplane.http.h2_stream_end import StreamEnd
from node_proxy.dataplane.http.limits import TOO_MUCH_CONTROL
from node_proxy.dataplane.http.parking import Parking
from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel.frames import ENHANCE_YOUR_CALM

# While the peer does not read, only answers to its control frames and credit for its content wait here: some
# ten thousand of them. More is a flood.
MAX_WAITING: Final = 256 * 1024

# A reason of `MessageRefused`.
BROKEN_PROTOCOL: Final = "broken_protocol"


class H2Driver(ABC):
    """Reads and writes one connection, and tells its streams what comes.

    `protocol` is ordered by the streams, who call `flush` after it. `backlog` hears how much came that nobody
    has received: windows bound that for each stream and connection, it does for all of a worker's.
    """

    def __init__(self, channel: Channel, protocol: H2Protocol, backlog: Backlog | None) -> None:
        self.protocol = protocol
        self.backlog = backlog or Backlog()
        # What ended the connection; None while it stands.
        self.failure: ExchangeBroken | MessageRefused | None = None
        self.congested = False
        self._channel = channel
        self._streams: dict[int, StreamEnd] = {}
        # Those who wait until more may be sent.
        self._waiting: set[StreamEnd] = set()
        self._congestion = Parking()

    # What streams ask and order.

    def sendable(self, stream_id: int) -> int:
        """How many bytes of content a stream may send now."""
        return 0 if self.congested else self.protocol.sendable(stream_id)

    def flush(self) -> None:
        """Send what the protocol has to say, or keep it while the peer is behind."""
        if self.congested or self.failure is not None or not self.protocol.pending_output:
            return
        try:
            if not self._channel.send_nowait(self.protocol.take_output()):
                self.congested = True
                self._congestion.wake()
        except ChannelBroken as error:
            self.break_all(ExchangeBroken(str(error)))

    def wait_in_line(self, stream: StreamEnd) -> None:
        """Wake `stream` when it may perhaps send more."""
        self._waiting.add(stream)

    def leave_line(self, stream: StreamEnd) -> None:
        """Forget that it waits."""
        self._waiting.discard(stream)

    def forget(self, stream_id: int) -> None:
        """Tell a stream nothing any more."""
        self._streams.pop(stream_id, None)

    def cut(self, stream_id: int, failure: ExchangeBroken) -> None:
        """End a stream here, if it is still open."""
        if (stream := self._streams.get(stream_id)) is not None:
            stream.give_up(failure)

    # Tasks of a connection.

    async def read(self, first_bytes: bytes = b"") -> None:
        """Read until the connection is over; `failure` then says why. Cancellation loses nothing."""
        buffer = first_bytes
        try:
            if buffer:
                buffer = self._receive(buffer)
            while self.failure is None:
                data = await self._channel.receive()
                if not data:
                    self.break_all(ExchangeBroken("the other side ended the connection"))
                    return
                buffer = self._receive(buffer + data if buffer else data)
        except ChannelBroken as error:
            self.break_all(ExchangeBroken(str(error)))

    async def write(self) -> None:
        """Wait for the peer whenever it is behind; runs until cancelled, or the channel is broken."""
        while self.failure is None:
            if not self.congested:
                await self._congestion.wait()
                continue
            try:
                # Everything was queued; this waits until the queue is short again.
                await self._channel.send(b"")
            except ChannelBroken as error:
                self.break_all(ExchangeBroken(str(error)))
                return
            self.congested = False
            self.flush()
            if not self.congested:
                self._wake_all()

    def _receive(self, data: bytes) -> bytes:
        """Take bytes; gives those that begin a frame."""
        try:
            events, used = self.protocol.receive(memoryview(data), trio.current_time())
            for event in events:
                self._handle(event)
            self._check_waiting()
        except RemoteProtocolError as error:
            self.flush()
            reason = TOO_MUCH_CONTROL if error.code == ENHANCE_YOUR_CALM else BROKEN_PROTOCOL
            self.break_all(MessageRefused(self.protocol.FAULT_STATUS, reason, str(error)))
            return b""
        self.flush()
        return data[used:] if used else data

    def _check_waiting(self) -> None:
        if self.congested and self.protocol.pending_output > MAX_WAITING:
            raise RemoteProtocolError("a peer that sends and does not read", code=ENHANCE_YOUR_CALM)

    def break_all(self, failure: ExchangeBroken | MessageRefused) -> None:
        """End every stream for what ended the connection."""
        if self.failure is not None:
            return
        self.failure = failure
        self.congested = False
        self.protocol.close()
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.broke(failure)
        self._wake_all()
        self._congestion.wake()
        self.broke()

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for stream in waiting:
            stream.may_send()

    # What the peer sent.

    def _handle(self, event: H2Event) -> None:
        match event:
            case DataReceived(stream_id, data):
                if stream := self._streams.get(stream_id):
                    stream.incoming.put(data)
            case BodyEnded(stream_id, trailers):
                if stream := self._streams.get(stream_id):
                    stream.incoming.finish(trailers)
                    stream.forget_if_done()
            case WindowOpened(stream_id):
                if stream_id == 0:
                    self._wake_all()
                elif (stream := self._streams.get(stream_id)) in self._waiting and stream is not None:
                    self._waiting.discard(stream)
                    stream.may_send()
            case StreamBroken():
                if stream := self._streams.pop(event.stream_id, None):
                    self.stream_broke(stream, event)
            case PeerDraining(code, why):
                self.peer_drains(code, why)
            case RequestReceived() | RequestRefused() | ResponseReceived():
                self.head_received(event)

    @abstractmethod
    def head_received(self, event: RequestReceived | RequestRefused | ResponseReceived) -> None:
        """Take the head of a message."""

    @abstractmethod
    def stream_broke(self, stream: StreamEnd, event: StreamBroken) -> None:
        """Take note that a stream is gone; it is forgotten already."""

    @abstractmethod
    def peer_drains(self, code: int, why: str) -> None:
        """Take the peer's GOAWAY."""

    @abstractmethod
    def broke(self) -> None:
        """Take note that the connection is gone; its streams know already."""
