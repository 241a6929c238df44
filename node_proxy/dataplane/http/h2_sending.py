"""The streams of one end of an HTTP/2 connection with workloads, and what it says on them. Pure."""

from typing import ClassVar

from node_proxy.dataplane.http.h2_blocks import LEAST_FRAME, frame_header, header_frames, write_block
from node_proxy.dataplane.http.h2_fields import (
    trailer_fields,
)
from node_proxy.dataplane.http.h2_streams import (
    CONNECTION_WINDOW,
    INITIAL_WINDOW,
    MAX_UNREAD,
    Stream,
    new_connection,
)
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import Fields
from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel import frames
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.headers import NO_TABLE
from node_proxy.tunnel.http2 import (
    CANCEL,
    NO_ERROR,
    Role,
)
from node_proxy.tunnel.windows import SendWindow, WindowBudget

# RFC 9113 section 5.1.1.
LAST_STREAM_ID = 2**31 - 1
# Frames of streams that we have reset may be under way still; as many as a window of them.
REMEMBERED_RESETS = 1024


class H2Sending:
    """The streams of one end, and what it says on them.

    Args:
        limits: of the messages that are read.
        budget: pays for windows beyond the initial one.
        calm: bounds what costs more to receive than to send.
    """

    ROLE: ClassVar[Role]

    def __init__(self, *, limits: HttpLimits, budget: WindowBudget, calm: Calm) -> None:
        # Whether no new stream may begin, by the peer's word or ours.
        self.draining = False
        self._limits = limits
        self._budget = budget
        self._calm = calm
        self._streams: dict[int, Stream] = {}
        self._output = bytearray()
        self._block_prefix = NO_TABLE
        # The streams we reset last, in order; a set that forgets its oldest.
        self._resets: dict[int, None] = {}
        self._highest_peer_stream = 0
        self._highest_own_stream = 0
        self._refuse_above: int | None = None
        self._connection_send = SendWindow(INITIAL_WINDOW)
        self._initial_send_window = INITIAL_WINDOW
        # Bytes received that the peer has no credit for yet, and bytes that came and nobody has taken.
        self._connection_due = 0
        self._unread = 0
        self._frame_size = LEAST_FRAME
        self._h2 = new_connection(self.ROLE, max_list_size=limits.head_bytes)
        self._flush_h2()
        self._output += frames.window_update(0, CONNECTION_WINDOW - INITIAL_WINDOW)

    # What the driver asks.

    @property
    def open_streams(self) -> int:
        """How many streams are open in at least one direction."""
        return len(self._streams)

    @property
    def pending_output(self) -> int:
        """How many bytes wait for `take_output`."""
        return len(self._output)

    def sendable(self, stream_id: int) -> int:
        """How many bytes the next DATA frame of this stream may carry; 0 means wait."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sent_end:
            return 0
        return max(0, min(stream.send.open, self._connection_send.open, self._frame_size))

    def take_output(self) -> bytes:
        """Give, once, the bytes that must be sent."""
        output = bytes(self._output)
        self._output.clear()
        return output

    # What the driver orders.

    def send_data(self, stream_id: int, data: bytes | memoryview, *, end: bool) -> None:
        """Send bytes of a body in one frame.

        Raises:
            LocalProtocolError: they exceed `sendable(stream_id)`.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if len(data) > self.sendable(stream_id):
            raise LocalProtocolError(f"{len(data)} bytes exceed what stream {stream_id} may send")
        self._calm.credit()
        self._send_data(stream_id, stream, data, end=end)

    def _send_data(self, stream_id: int, stream: Stream, data: bytes | memoryview, *, end: bool) -> None:
        stream.send.open -= len(data)
        self._connection_send.open -= len(data)
        self._output += frame_header(frames.DATA, frames.END_STREAM if end else 0, stream_id, len(data))
        self._output += data
        if end:
            self._sent_end(stream_id, stream)

    def send_end(self, stream_id: int, trailers: Fields) -> None:
        """End our message, with trailers if there are any; it may be gone or ended already."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.sent_end:
            return
        if fields := trailer_fields(trailers):
            self._send_block(stream_id, stream, fields, end=True)
        else:
            self._output += frames.empty_end_stream(stream_id)
            self._sent_end(stream_id, stream)

    def _send_block(self, stream_id: int, stream: Stream, fields: Fields, *, end: bool) -> None:
        block = self._block_prefix + write_block(fields)
        self._block_prefix = b""
        self._output += header_frames(stream_id, block, end_stream=end)
        if end:
            self._sent_end(stream_id, stream)

    def _sent_end(self, stream_id: int, stream: Stream) -> None:
        stream.sent_end = True
        self._forget_if_done(stream_id, stream)

    def delivered(self, stream_id: int, amount: int, *, prompt: bool) -> None:
        """Say that the reader of a body took `amount` bytes, `prompt` when it had waited for them."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.unread -= amount
        self._unread -= amount
        self._credit_connection()
        if stream.received_end:
            return
        if credit := stream.receive.delivered(amount, prompt=prompt):
            self._output += frames.window_update(stream_id, credit)

    def reset_stream(self, stream_id: int, code: int = CANCEL) -> None:
        """End a stream in both directions at once; it may be gone already."""
        if not self._forget(stream_id):
            return
        self._output += frames.rst_stream(stream_id, code)
        self._resets[stream_id] = None
        if len(self._resets) > REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]

    def announce_drain(self) -> None:
        """Ask the peer to begin no more, and still answer what it has begun meanwhile (section 6.8)."""
        if self._refuse_above is None:
            # The highest id there is: nothing is refused yet.
            self._output += frames.goaway(LAST_STREAM_ID, NO_ERROR)

    def drain(self) -> None:
        """Take no more streams; open ones go on."""
        if self._refuse_above is None:
            self._refuse_above = self._highest_peer_stream
            self._output += frames.goaway(self._highest_peer_stream, NO_ERROR)
        self.draining = True

    def give_up(self, code: int, why: bytes = b"") -> None:
        """Tell the peer that the connection ends for an error."""
        self._output += frames.goaway(self._highest_peer_stream, code, why)
        self.draining = True

    def close(self) -> None:
        """Forget every stream, since the connection is gone; later orders do nothing."""
        self.draining = True
        for stream_id in list(self._streams):
            self._forget(stream_id)

    def _forget_if_done(self, stream_id: int, stream: Stream) -> None:
        if stream.sent_end and stream.received_end:
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> bool:
        """Forget a stream; gives whether it was there."""
        stream = self._streams.pop(stream_id, None)
        if stream is None:
            return False
        stream.receive.close()
        self._unread -= stream.unread
        self._credit_connection()
        return True

    def _credit_connection(self) -> None:
        if self._connection_due >= CONNECTION_WINDOW // 2 and self._unread <= MAX_UNREAD:
            self._output += frames.window_update(0, self._connection_due)
            self._connection_due = 0

    def _flush_h2(self) -> None:
        self._output += self._h2.data_to_send()
