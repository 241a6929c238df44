"""HTTP/2 with workloads, without I/O: bytes in, events out. Pure.

As in tunnels (`node_proxy.tunnel.protocol`), h2 owns the connection, and streams are kept here: h2 takes some
100 µs for each HEADERS, and ends the whole connection for a request that is malformed where RFC 9113 section
8.1.1 ends its stream. A stream's window is credited when its reader took the bytes, the connection's when
they came, so that a reader who stalls holds up its own stream and no other.
Source: RFC 9113.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import h2.events
import h2.exceptions

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h2_block_reader import BlockReader
from node_proxy.dataplane.http.h2_events import (
    BodyEnded,
    DataReceived,
    H2Event,
    PeerDraining,
    StreamBroken,
    WindowOpened,
)
from node_proxy.dataplane.http.h2_fields import (
    read_trailers,
)
from node_proxy.dataplane.http.h2_sending import H2Sending
from node_proxy.dataplane.http.h2_streams import (
    CONNECTION_WINDOW,
    MAX_FRAME_SIZE,
    Stream,
)
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import Fields
from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel import frames
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.headers import HeaderBlock, HeaderBlocks
from node_proxy.tunnel.http2 import (
    FLOW_CONTROL_ERROR,
    MAX_WHY,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    Role,
)
from node_proxy.tunnel.windows import WindowBudget

PREFACE_LENGTH = 24


class H2Protocol(H2Sending, ABC):
    """What both ends of an HTTP/2 connection have in common.

    Feed it with `receive`, send what `take_output` gives. Arguments as of `H2Sending`.
    """

    # What a caller is told when the peer's message is malformed.
    FAULT_STATUS: ClassVar[int]

    def __init__(self, *, limits: HttpLimits, budget: WindowBudget, calm: Calm) -> None:
        super().__init__(limits=limits, budget=budget, calm=calm)
        self._preface_due = self.ROLE is Role.SERVER
        self._settings_due = True
        # Beyond what is advertised a head is answered with 431; far beyond, the connection ends.
        most = 2 * limits.head_bytes
        self._header_blocks = HeaderBlocks(BlockReader(most), max_block=most)

    # What the peer sent.

    def receive(self, data: memoryview, now: float) -> tuple[list[H2Event], int]:
        """Take bytes from the peer at time `now` (seconds); give events and how many bytes were used.

        Bytes not used are the beginning of a frame: show them again with what follows.

        Raises:
            RemoteProtocolError: the peer broke the protocol; GOAWAY is in the output, then close.
        """
        events: list[H2Event] = []
        try:
            used = self._receive_frames(data, now, events)
        except RemoteProtocolError as error:
            self.give_up(error.code)
            raise
        return events, used

    def _receive_frames(self, data: memoryview, now: float, events: list[H2Event]) -> int:
        position, end = 0, len(data)
        if self._preface_due:
            if end < PREFACE_LENGTH:
                return 0
            self._feed_h2(data[:PREFACE_LENGTH], events)
            self._preface_due = False
            position = PREFACE_LENGTH
        while end - position >= frames.FRAME_HEADER:
            length, kind, flags, stream_id = frames.read_header(data, position)
            if self._settings_due and (kind != frames.SETTINGS or flags & frames.ACK):
                # Section 3.4; also what a server says that speaks HTTP/1.1 only.
                raise RemoteProtocolError("the first frame is no SETTINGS: the peer speaks no HTTP/2")
            if length > MAX_FRAME_SIZE:
                raise RemoteProtocolError(
                    f"a frame of {length} bytes; {MAX_FRAME_SIZE} are allowed", code=frames.FRAME_SIZE_ERROR
                )
            frame_end = position + frames.FRAME_HEADER + length
            if frame_end > end:
                break
            self._receive_frame(data[position:frame_end], kind, flags, stream_id, now, events)
            position = frame_end
        return position

    def _receive_frame(
        self, frame: memoryview, kind: int, flags: int, stream_id: int, now: float, events: list[H2Event]
    ) -> None:
        self._header_blocks.check_next(kind, stream_id)
        payload = frame[frames.FRAME_HEADER :]
        if kind == frames.DATA:
            self._receive_data(payload, flags, stream_id, now, events)
            return
        if not self._calm.spend(now, len(frame)):
            raise RemoteProtocolError(
                "more control frames than a working peer needs", code=frames.ENHANCE_YOUR_CALM
            )
        match kind:
            case frames.WINDOW_UPDATE:
                frames.require_size(payload, 4)
                self._receive_window_update(stream_id, frames.read_increment(frame, 0), events)
            case frames.HEADERS | frames.CONTINUATION:
                if block := self._header_blocks.receive(kind, flags, stream_id, payload):
                    self._receive_block(block, events)
            case frames.RST_STREAM:
                frames.require_size(payload, 4)
                self._check_was_open(stream_id)
                if self._forget(stream_id):
                    events.append(StreamBroken(stream_id, frames.read_word(frame, 0), by_peer=True))
            case frames.GOAWAY:
                if len(payload) < 8:
                    raise RemoteProtocolError("a GOAWAY of wrong size", code=frames.FRAME_SIZE_ERROR)
                if stream_id:
                    raise RemoteProtocolError("a GOAWAY for a stream (section 6.8)")
                last, code = frames.read_goaway(frame, 0)
                self.draining = True
                self._peer_drains(last, events)
                why = bytes(payload[8 : 8 + MAX_WHY]).decode("ascii", "backslashreplace")
                events.append(PeerDraining(code, why))
            case frames.PRIORITY:
                frames.require_size(payload, 5)
                if stream_id == 0:
                    raise RemoteProtocolError("a PRIORITY for the connection")
            case frames.PUSH_PROMISE:
                raise RemoteProtocolError("a PUSH_PROMISE, and push is off (section 8.4)")
            case frames.SETTINGS:
                self._feed_h2(frames.known_settings(frame), events)
            case frames.PING:
                self._feed_h2(frame, events)
            case _:
                # Section 4.1: unknown types are ignored.
                pass

    def _receive_data(
        self, payload: memoryview, flags: int, stream_id: int, now: float, events: list[H2Event]
    ) -> None:
        length = len(payload)
        self._connection_due += length
        if self._connection_due > CONNECTION_WINDOW:
            raise RemoteProtocolError("more than the connection's window", code=FLOW_CONTROL_ERROR)
        self._credit_connection()
        if not length and not self._calm.spend(now):
            raise RemoteProtocolError("a flood of empty frames", code=frames.ENHANCE_YOUR_CALM)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_was_open(stream_id)
            return
        if stream.received_end:
            self._break_stream(stream_id, STREAM_CLOSED, events)
            return
        if not stream.begun:
            self._refuse_message(stream_id, "content before a head", events)
            return
        if not stream.receive.take(length):
            self._break_stream(stream_id, FLOW_CONTROL_ERROR, events)
            return
        stream.unread += length
        self._unread += length
        if flags & frames.PADDED:
            content = frames.without_padding(payload)
            # Padding counts for flow control and nobody will ever read it.
            self.delivered(stream_id, length - len(content), prompt=False)
            payload = content
        if payload:
            if not stream.take(len(payload)):
                self._refuse_message(stream_id, "more content than its content-length", events)
                return
            self._calm.credit()
            events.append(DataReceived(stream_id, bytes(payload)))
        if flags & frames.END_STREAM:
            self._receive_end(stream_id, stream, [], events)

    def _receive_window_update(self, stream_id: int, increment: int, events: list[H2Event]) -> None:
        window = self._connection_send
        if stream_id:
            stream = self._streams.get(stream_id)
            if stream is None:
                self._check_was_open(stream_id)
                return
            window = stream.send
        if increment and window.grow(increment):
            events.append(WindowOpened(stream_id))
            return
        code = FLOW_CONTROL_ERROR if increment else PROTOCOL_ERROR
        if not stream_id:
            raise RemoteProtocolError(f"a connection window update of {increment} bytes", code=code)
        self._break_stream(stream_id, code, events)

    def _check_was_open(self, stream_id: int) -> None:
        """Frames of a stream that has ended are late and harmless; of one that never was, an error."""
        ours = stream_id % 2 == (1 if self.ROLE is Role.CLIENT else 0)
        highest = self._highest_own_stream if ours else self._highest_peer_stream
        if stream_id == 0 or stream_id > highest:
            raise RemoteProtocolError(f"a frame for stream {stream_id}, which was never opened")

    def _break_stream(
        self, stream_id: int, code: int, events: list[H2Event], refused: MessageRefused | None = None
    ) -> None:
        self.reset_stream(stream_id, code)
        events.append(StreamBroken(stream_id, code, by_peer=False, refused=refused))

    def _refuse_message(self, stream_id: int, detail: str, events: list[H2Event]) -> None:
        """Break a stream whose message is malformed (section 8.1.1)."""
        refused = MessageRefused(400 if self.ROLE is Role.SERVER else 502, "malformed", detail)
        self._break_stream(stream_id, PROTOCOL_ERROR, events, refused)

    # Header blocks.

    @abstractmethod
    def _receive_head(self, block: HeaderBlock, stream: Stream | None, events: list[H2Event]) -> bool:
        """Take the head of a request, or of an answer; False when none can come there."""

    @abstractmethod
    def _peer_drains(self, last: int, events: list[H2Event]) -> None:
        """Take the peer's word that it will do nothing with our streams beyond `last`."""

    def _receive_block(self, block: HeaderBlock, events: list[H2Event]) -> None:
        stream_id = block.stream_id
        stream = self._streams.get(stream_id)
        if stream is not None and stream.begun:
            self._receive_trailers(block, stream, events)
        elif not self._receive_head(block, stream, events):
            self._check_was_open(stream_id)
            if stream_id not in self._resets:
                raise RemoteProtocolError(f"headers on stream {stream_id}, which has ended")

    def _receive_trailers(self, block: HeaderBlock, stream: Stream, events: list[H2Event]) -> None:
        stream_id = block.stream_id
        if stream.received_end:
            self._break_stream(stream_id, STREAM_CLOSED, events)
            return
        if not block.end_stream:
            self._refuse_message(stream_id, "a second head", events)
            return
        try:
            status = 400 if self.ROLE is Role.SERVER else 502
            trailers = read_trailers(block.fields, limits=self._limits, status=status)
        except MessageRefused as refused:
            self._break_stream(stream_id, PROTOCOL_ERROR, events, refused)
            return
        self._receive_end(stream_id, stream, trailers, events)

    def _receive_end(self, stream_id: int, stream: Stream, trailers: Fields, events: list[H2Event]) -> None:
        if stream.remaining:
            self._refuse_message(stream_id, "less content than its content-length", events)
            return
        stream.received_end = True
        events.append(BodyEnded(stream_id, trailers))
        self._forget_if_done(stream_id, stream)

    # The connection.

    def _feed_h2(self, data: memoryview | bytes, events: list[H2Event]) -> None:
        try:
            received = self._h2.receive_data(bytes(data))
        except h2.exceptions.ProtocolError as error:
            # h2 has written a GOAWAY of its own, which nobody takes: ours replaces it.
            self._h2.clear_outbound_data_buffer()
            raise RemoteProtocolError(
                str(error) or type(error).__name__, code=int(error.error_code)
            ) from error
        self._flush_h2()
        if any(isinstance(event, h2.events.RemoteSettingsChanged) for event in received):
            self._apply_settings(events)

    def _apply_settings(self, events: list[H2Event]) -> None:
        settings = self._h2.remote_settings
        change = settings.initial_window_size - self._initial_send_window
        self._initial_send_window = settings.initial_window_size
        # A frame for each read; the peer's limit is often larger than useful.
        self._frame_size = min(settings.max_frame_size, MAX_FRAME_SIZE)
        self._settings_due = False
        for stream in self._streams.values():
            if not stream.send.grow(change):
                raise RemoteProtocolError("SETTINGS raise a window past its limit", code=FLOW_CONTROL_ERROR)
        if change > 0:
            events.append(WindowOpened(0))
