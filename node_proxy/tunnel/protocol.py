"""HBONE without I/O: bytes in, events out; one HTTP/2 connection that carries CONNECT streams. Pure.

h2 owns the connection: preface, SETTINGS and their acknowledgement, PING. The streams are kept here, in a
small table, because h2 takes some 100 µs for each HEADERS, more than the rest of a connection's life:

* HEADERS and CONTINUATION by `headers` (hpack), RST_STREAM, and the states of RFC 9113 section 5.1;
* DATA and WINDOW_UPDATE, which are nearly all frames;
* GOAWAY, because h2 treats a connection as closed once it has seen or sent one, while RFC 9113
  section 6.8 wants the streams that are open to go on to their end.

The connection's receive window is credited when bytes arrive, a stream's when its reader took them:
so one stalled reader holds up its own stream and no other.
Source: RFC 9113; Istio's HBONE (CONNECT with `:method` and `:authority` on ALPN h2, port 15008).
"""

from collections.abc import Sequence

import h2.events
import h2.exceptions

from node_proxy.errors import LocalProtocolError, RemoteProtocolError
from node_proxy.tunnel import frames
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.events import (
    DataReceived,
    Established,
    Event,
    PeerDraining,
    PingAcknowledged,
    RequestRejected,
    StreamAccepted,
    StreamEnded,
    StreamRefused,
    StreamRequested,
    StreamReset,
    WindowOpened,
)
from node_proxy.tunnel.headers import (
    NO_TABLE,
    REASON_HEADER,
    Fields,
    HeaderBlock,
    HeaderBlocks,
    malformed,
    write_accepted,
    write_refused,
    write_request,
)
from node_proxy.tunnel.http2 import (
    CANCEL,
    FLOW_CONTROL_ERROR,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_WHY,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    Role,
    new_connection,
)
from node_proxy.tunnel.windows import ReceiveWindow, SendWindow, WindowBudget

# Credited on receipt, so it only has to cover a round trip of all streams together.
CONNECTION_WINDOW = 16 * 1024 * 1024
# RFC 9113 section 6.9.2 and 6.5.2: what holds until the peer says otherwise.
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
# RFC 9113 section 5.1.1: a connection whose ids are used up takes no more streams.
LAST_STREAM_ID = 2**31 - 1
PREFACE_LENGTH = 24

# Frames of streams that we have reset may be under way still; as many as a window of them.
REMEMBERED_RESETS = 4096


class _Stream:
    """Flow control and half-close of one stream."""

    __slots__ = ("answered", "receive", "received_end", "send", "sent_end")

    def __init__(self, send_window: int, budget: WindowBudget) -> None:
        self.send = SendWindow(send_window)
        self.receive = ReceiveWindow(budget)
        # Whether the CONNECT stands: its 2xx came, or we sent it.
        self.answered = False
        self.sent_end = False
        self.received_end = False


class TunnelProtocol:
    """One end of a tunnel.

    Feed it with `receive`, send what `take_output` gives, in that order. Payload is sent by the driver
    itself: ask `sendable`, call `write_data_header`, then write header and payload together.
    """

    def __init__(self, role: Role, *, budget: WindowBudget, calm: Calm) -> None:
        self.role = role
        self.draining = False
        self._budget = budget
        self._calm = calm
        self._streams: dict[int, _Stream] = {}
        self._output = bytearray()
        self._preface_due = role is Role.SERVER
        self._established = False
        self._header_blocks = HeaderBlocks()
        self._block_prefix = NO_TABLE
        # The streams we reset last, in order; a set that forgets its oldest.
        self._resets: dict[int, None] = {}
        self._highest_peer_stream = 0
        self._highest_own_stream = 0
        self._refuse_above: int | None = None
        self._connection_send = SendWindow(DEFAULT_WINDOW)
        self._connection_received = 0
        self._initial_send_window = DEFAULT_WINDOW
        self._frame_size = DEFAULT_FRAME_SIZE
        self._h2 = new_connection(role)
        self._flush_h2()
        self._output += frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)

    # What the driver asks.

    @property
    def open_streams(self) -> int:
        """How many streams are open in at least one direction."""
        return len(self._streams)

    @property
    def has_capacity(self) -> bool:
        """Whether one more stream may be opened by us."""
        limit: int = self._h2.remote_settings.max_concurrent_streams
        return (
            self._established
            and not self.draining
            and len(self._streams) < limit
            and self._highest_own_stream < LAST_STREAM_ID
        )

    def sendable(self, stream_id: int) -> int:
        """How many payload bytes the next DATA frame of this stream may carry; 0 means wait."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sent_end:
            return 0
        return max(0, min(stream.send.open, self._connection_send.open, self._frame_size))

    def take_output(self) -> bytes:
        """Give, once, the bytes that must be sent before any payload."""
        output = bytes(self._output)
        self._output.clear()
        return output

    # What the driver orders.

    def open_stream(self, authority: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> int:
        """Ask the peer to connect to `authority`; gives the stream's id.

        Raises:
            LocalProtocolError: there is no capacity (ask `has_capacity` first) or we are the server.
        """
        if self.role is Role.SERVER or not self.has_capacity:
            raise LocalProtocolError("this end of the tunnel may not open a stream now")
        stream_id = self._highest_own_stream + 2 if self._highest_own_stream else 1
        self._send_block(stream_id, write_request(authority, headers))
        # The peer's answer was asked for, so it is no flood, however many are refused.
        self._calm.credit()
        self._highest_own_stream = stream_id
        self._streams[stream_id] = _Stream(self._initial_send_window, self._budget)
        return stream_id

    def accept_stream(self, stream_id: int) -> None:
        """Answer a CONNECT with 200; payload may flow."""
        if stream := self._streams.get(stream_id):
            self._calm.credit()
            stream.answered = True
            self._send_block(stream_id, write_accepted())

    def refuse_stream(self, stream_id: int, status: int, reason: str) -> None:
        """Answer a CONNECT with `status` and the reason header, and forget the stream."""
        # A caller that tries a port it may not use is no flood: its other streams must live.
        self._calm.credit()
        self._refuse(stream_id, status, reason)

    def _refuse(self, stream_id: int, status: int, reason: str) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self._send_block(stream_id, write_refused(status, reason), end_stream=True)
        stream.sent_end = True
        # The peer may send on without knowing; NO_ERROR tells it to stop (RFC 9113 section 8.1).
        self.reset_stream(stream_id, NO_ERROR)

    def _send_block(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        self._output += frames.headers(stream_id, self._block_prefix + block, end_stream=end_stream)
        self._block_prefix = b""

    def write_data_header(self, buffer: bytearray, stream_id: int, length: int) -> None:
        """Account for `length` payload bytes and write their frame header into the buffer's first nine bytes.

        Raises:
            LocalProtocolError: `length` exceeds `sendable(stream_id)`.
        """
        if length > self.sendable(stream_id):
            raise LocalProtocolError(f"{length} bytes exceed what stream {stream_id} may send")
        self._streams[stream_id].send.open -= length
        self._connection_send.open -= length
        self._calm.credit()
        frames.write_data_header(buffer, stream_id, length)

    def delivered(self, stream_id: int, amount: int, *, prompt: bool) -> None:
        """Say that the reader of a stream took `amount` bytes, `prompt` when it took them at once."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.received_end:
            return
        if credit := stream.receive.delivered(amount, prompt=prompt):
            self._output += frames.window_update(stream_id, credit)

    def end_stream(self, stream_id: int) -> None:
        """Say that we will send no more on a stream (END_STREAM)."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sent_end:
            return
        stream.sent_end = True
        self._output += frames.empty_end_stream(stream_id)
        self._forget_if_done(stream_id, stream)

    def reset_stream(self, stream_id: int, code: int = CANCEL) -> None:
        """End a stream in both directions at once; it may be gone already."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return
        stream.receive.close()
        if not (stream.sent_end and stream.received_end):
            self._output += frames.rst_stream(stream_id, code)
            self._resets[stream_id] = None
            if len(self._resets) > REMEMBERED_RESETS:
                del self._resets[next(iter(self._resets))]

    def ping(self) -> None:
        """Ask the peer for a sign of life; `PingAcknowledged` is the answer."""
        self._h2.ping(b"nodemesh")
        self._flush_h2()

    def drain(self) -> None:
        """Announce by GOAWAY that no new stream is taken; open ones go on (RFC 9113 section 6.8)."""
        if self._refuse_above is None:
            self._refuse_above = self._highest_peer_stream
            self._output += frames.goaway(self._highest_peer_stream, NO_ERROR)
        self.draining = True

    def close(self) -> None:
        """Forget every stream, since the connection is gone; later orders do nothing."""
        self.draining = True
        for stream in self._streams.values():
            stream.receive.close()
        self._streams.clear()

    # What the peer sent.

    def receive(self, data: memoryview, now: float) -> tuple[list[Event], int]:
        """Take bytes from the peer at time `now` (seconds); give events and how many bytes were used.

        Bytes not used are the beginning of a frame: show them again with what follows. The views in
        `DataReceived` are parts of `data`.

        Raises:
            RemoteProtocolError: the peer broke the protocol; GOAWAY is in the output, then close.
        """
        events: list[Event] = []
        try:
            used = self._receive_frames(data, now, events)
        except RemoteProtocolError as error:
            self._output += frames.goaway(self._highest_peer_stream, error.code)
            self.draining = True
            raise
        return events, used

    def _receive_frames(self, data: memoryview, now: float, events: list[Event]) -> int:
        position, end = 0, len(data)
        if self._preface_due:
            if end < PREFACE_LENGTH:
                return 0
            self._feed_h2(data[:PREFACE_LENGTH], events)
            self._preface_due = False
            position = PREFACE_LENGTH
        while end - position >= frames.FRAME_HEADER:
            length, kind, flags, stream_id = frames.read_header(data, position)
            if length > MAX_FRAME_SIZE:
                raise RemoteProtocolError(
                    f"a frame of {length} bytes; {MAX_FRAME_SIZE} are allowed",
                    code=frames.FRAME_SIZE_ERROR,
                )
            frame_end = position + frames.FRAME_HEADER + length
            if frame_end > end:
                break
            self._receive_frame(data, position, frame_end, kind, flags, stream_id, now, events)
            position = frame_end
        return position

    def _receive_frame(
        self,
        data: memoryview,
        position: int,
        frame_end: int,
        kind: int,
        flags: int,
        stream_id: int,
        now: float,
        events: list[Event],
    ) -> None:
        self._header_blocks.check_next(kind, stream_id)
        payload = data[position + frames.FRAME_HEADER : frame_end]
        if kind == frames.DATA:
            self._receive_data(payload, flags, stream_id, now, events)
            return
        if not self._calm.spend(now, frame_end - position):
            raise RemoteProtocolError(
                "more control frames than a working peer needs", code=frames.ENHANCE_YOUR_CALM
            )
        match kind:
            case frames.WINDOW_UPDATE:
                frames.require_size(payload, 4)
                self._receive_window_update(stream_id, frames.read_increment(data, position), events)
            case frames.HEADERS | frames.CONTINUATION:
                if block := self._header_blocks.receive(kind, flags, stream_id, payload):
                    self._receive_block(block, events)
            case frames.RST_STREAM:
                frames.require_size(payload, 4)
                self._check_was_open(stream_id)
                if stream := self._streams.pop(stream_id, None):
                    stream.receive.close()
                    events.append(StreamReset(stream_id, frames.read_word(data, position)))
            case frames.GOAWAY:
                if len(payload) < 8:
                    raise RemoteProtocolError("a GOAWAY of wrong size", code=frames.FRAME_SIZE_ERROR)
                if stream_id:
                    raise RemoteProtocolError("a GOAWAY for a stream (RFC 9113 section 6.8)")
                self.draining = True
                why = bytes(payload[8 : 8 + MAX_WHY]).decode("ascii", "backslashreplace")
                events.append(PeerDraining(*frames.read_goaway(data, position), why))
            case frames.PRIORITY:
                frames.require_size(payload, 5)
                if stream_id == 0:
                    raise RemoteProtocolError("a PRIORITY for the connection")
            case frames.PUSH_PROMISE:
                raise RemoteProtocolError("a PUSH_PROMISE, and push is off (RFC 9113 section 8.4)")
            case frames.SETTINGS:
                self._feed_h2(frames.known_settings(data[position:frame_end]), events)
            case frames.PING:
                self._feed_h2(data[position:frame_end], events)
            case _:
                # RFC 9113 section 4.1: unknown types are ignored.
                pass

    def _receive_data(
        self, payload: memoryview, flags: int, stream_id: int, now: float, events: list[Event]
    ) -> None:
        length = len(payload)
        self._connection_received += length
        if self._connection_received >= CONNECTION_WINDOW // 2:
            self._output += frames.window_update(0, self._connection_received)
            self._connection_received = 0
        if not length and not self._calm.spend(now):
            raise RemoteProtocolError("a flood of empty frames", code=frames.ENHANCE_YOUR_CALM)
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_was_open(stream_id)
            return
        if stream.received_end:
            self._break_stream(stream_id, STREAM_CLOSED, events)
            return
        if self.role is Role.CLIENT and not stream.answered:
            self._break_stream(stream_id, PROTOCOL_ERROR, events)
            return
        if not stream.receive.take(length):
            self._break_stream(stream_id, FLOW_CONTROL_ERROR, events)
            return
        if flags & frames.PADDED:
            payload = self._strip_padding(payload, stream_id)
        if payload:
            # Payload of streams that have ended or were not accepted would pay for a rapid reset.
            if stream.answered:
                self._calm.credit()
            events.append(DataReceived(stream_id, payload))
        if flags & frames.END_STREAM:
            self._receive_end(stream_id, stream, events)

    def _strip_padding(self, payload: memoryview, stream_id: int) -> memoryview:
        content = frames.without_padding(payload)
        # Padding counts for flow control and nobody will ever read it.
        self.delivered(stream_id, len(payload) - len(content), prompt=False)
        return content

    def _receive_window_update(self, stream_id: int, increment: int, events: list[Event]) -> None:
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
        if stream_id:
            self._break_stream(stream_id, code, events)
        else:
            raise RemoteProtocolError(f"a connection window update of {increment} bytes", code=code)

    def _check_was_open(self, stream_id: int) -> None:
        """Frames of a stream that has ended are late and harmless; of one that never was, an error."""
        ours = stream_id % 2 == (1 if self.role is Role.CLIENT else 0)
        highest = self._highest_own_stream if ours else self._highest_peer_stream
        if stream_id == 0 or stream_id > highest:
            raise RemoteProtocolError(f"a frame for stream {stream_id}, which was never opened")

    def _break_stream(self, stream_id: int, code: int, events: list[Event]) -> None:
        self.reset_stream(stream_id, code)
        events.append(StreamReset(stream_id, code))

    # Header blocks.

    def _receive_block(self, block: HeaderBlock, events: list[Event]) -> None:
        stream_id, fields = block.stream_id, block.fields
        if stream := self._streams.get(stream_id):
            if self.role is Role.CLIENT and not stream.answered:
                self._receive_answer(stream_id, stream, fields, block.end_stream, events)
            else:
                self._receive_trailers(stream_id, stream, block.end_stream, events)
        elif self.role is Role.SERVER and stream_id % 2 and stream_id > self._highest_peer_stream:
            self._receive_request(stream_id, fields, block.end_stream, events)
        else:
            self._check_was_open(stream_id)
            if stream_id not in self._resets:
                raise RemoteProtocolError(f"headers on stream {stream_id}, which has ended")

    def _receive_request(self, stream_id: int, fields: Fields, ended: bool, events: list[Event]) -> None:
        self._highest_peer_stream = stream_id
        full = len(self._streams) >= MAX_CONCURRENT_STREAMS
        stream = self._streams[stream_id] = _Stream(self._initial_send_window, self._budget)
        stream.received_end = ended
        if full or (self._refuse_above is not None and stream_id > self._refuse_above):
            # RFC 9113 section 8.7: REFUSED_STREAM tells the peer that a retry elsewhere is safe.
            self.reset_stream(stream_id, REFUSED_STREAM)
            return
        if malformed(fields, request=True):
            self.reset_stream(stream_id, PROTOCOL_ERROR)
            events.append(RequestRejected(stream_id, 400, "malformed_request"))
            return
        pseudo = {name: value for name, value in fields if name.startswith(b":")}
        if pseudo.get(b":method") != b"CONNECT" or b":protocol" in pseudo:
            self._refuse(stream_id, 405, "method_not_allowed")
            events.append(RequestRejected(stream_id, 405, "method_not_allowed"))
            return
        authority = pseudo.get(b":authority", b"").decode("ascii", "replace")
        rest = tuple((name, value) for name, value in fields if not name.startswith(b":"))
        events.append(StreamRequested(stream_id, authority, rest))
        if ended:
            events.append(StreamEnded(stream_id))

    def _receive_answer(
        self, stream_id: int, stream: _Stream, fields: Fields, ended: bool, events: list[Event]
    ) -> None:
        headers = dict(fields)
        text = headers.get(b":status", b"")
        if malformed(fields, request=False) or len(text) != 3 or not text.isdigit() or text < b"100":
            # RFC 9113 section 8.1.1: a malformed answer costs its stream.
            self._break_stream(stream_id, PROTOCOL_ERROR, events)
            return
        status = int(text)
        if status < 200:
            # An informational answer; another follows (RFC 9113 section 8.1).
            if ended:
                self._break_stream(stream_id, PROTOCOL_ERROR, events)
            return
        stream.received_end = ended
        if status < 300:
            stream.answered = True
            events.append(StreamAccepted(stream_id))
            if ended:
                self._receive_end(stream_id, stream, events)
        else:
            self.reset_stream(stream_id)
            reason = headers.get(REASON_HEADER, b"").decode("ascii", "replace")
            events.append(StreamRefused(stream_id, status, reason))

    def _receive_trailers(
        self, stream_id: int, stream: _Stream, end_stream: bool, events: list[Event]
    ) -> None:
        """Take trailers as the end that they are; a tunnel has no use for their fields."""
        if stream.received_end:
            self._break_stream(stream_id, STREAM_CLOSED, events)
        elif not end_stream:
            self._break_stream(stream_id, PROTOCOL_ERROR, events)
        else:
            self._receive_end(stream_id, stream, events)

    def _receive_end(self, stream_id: int, stream: _Stream, events: list[Event]) -> None:
        stream.received_end = True
        events.append(StreamEnded(stream_id))
        self._forget_if_done(stream_id, stream)

    # The connection.

    def _feed_h2(self, data: memoryview | bytes, events: list[Event]) -> None:
        try:
            received = self._h2.receive_data(bytes(data))
        except h2.exceptions.ProtocolError as error:
            # h2 has written a GOAWAY of its own, which nobody takes: ours replaces it.
            raise RemoteProtocolError(
                str(error) or type(error).__name__, code=int(error.error_code)
            ) from error
        self._flush_h2()
        for event in received:
            match event:
                case h2.events.RemoteSettingsChanged():
                    self._apply_settings(events)
                case h2.events.PingAckReceived():
                    events.append(PingAcknowledged())
                case _:
                    # Acknowledgements of our own settings and pings: nothing to do.
                    pass

    def _apply_settings(self, events: list[Event]) -> None:
        settings = self._h2.remote_settings
        change = settings.initial_window_size - self._initial_send_window
        self._initial_send_window = settings.initial_window_size
        # A frame that fills whole TLS records with its header; the peer's limit is often larger than useful.
        self._frame_size = min(settings.max_frame_size, MAX_FRAME_SIZE // 2 - frames.FRAME_HEADER)
        for stream in self._streams.values():
            if not stream.send.grow(change):
                raise RemoteProtocolError("SETTINGS raise a window past its limit", code=FLOW_CONTROL_ERROR)
        if not self._established:
            self._established = True
            events.append(Established())
        elif change > 0:
            events.append(WindowOpened(0))

    def _forget_if_done(self, stream_id: int, stream: _Stream) -> None:
        if stream.sent_end and stream.received_end:
            del self._streams[stream_id]
            stream.receive.close()

    def _flush_h2(self) -> None:
        self._output += self._h2.data_to_send()
