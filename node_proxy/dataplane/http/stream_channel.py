"""A tunnel's stream as a channel."""

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.buffered_channel import SEND_AHEAD, BufferedChannel
from node_proxy.dataplane.relay import READ_SIZE
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.http2 import CANCEL, NO_ERROR


class StreamChannel(BufferedChannel):
    """A `Channel` over a stream of a tunnel, and the stream's handler.

    It may be made before the stream is accepted, and keeps what comes early; nothing may be sent before.

    Args:
        tunnel: where the stream is.
        stream_id: say `tunnel.set_handler(stream_id, channel)`.
        backlog: hears how much came that nobody has received yet.
        buffer: FRAME_HEADER + READ_SIZE bytes shared by all relays of a worker.
    """

    def __init__(
        self, tunnel: TunnelConnection, stream_id: int, *, backlog: Backlog, buffer: bytearray
    ) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._stream_id = stream_id
        self._backlog = backlog
        self._buffer = buffer
        self._pending = bytearray()
        # Whether a task waited for what is in the inbox when it came.
        self._prompt = False
        self._closing = False
        # The tunnel has let go of the stream.
        self._gone = False

    def end(self) -> None:
        """Say that no more will be sent; see `Channel`."""
        if not self._ended_out:
            self._ended_out = True
            if not (self._why or self._pending):
                self._tunnel.end_stream(self._stream_id)

    def close(self) -> None:
        """Let go of both directions; see `Channel`."""
        if self._closing:
            return
        self._closing = True
        self.end()
        self._forget_inbox()
        if not (self._why or self._pending):
            self._leave()
        self._break("closed here")

    def abort(self) -> None:
        """Reset both directions; see `Channel`."""
        self._forget_inbox()
        if not self._why or self._pending:
            self._pending.clear()
            self._tunnel.reset_stream(self._stream_id, CANCEL)
            self._break("aborted here")

    def cut(self, outcome: str) -> None:
        """Reset both directions because of `outcome`, which whoever uses the channel is told."""
        if not self._why:
            self._break(outcome)
            self._pending.clear()
            self._tunnel.reset_stream(self._stream_id, CANCEL)
        self._forget_inbox()

    # What the tunnel calls.

    def on_accepted(self) -> None:
        """Nothing changes: who opened the stream knows."""

    def on_refused(self, status: int, reason: str) -> None:
        """Hear that the stream is gone before it was one."""
        self._lost(f"refused ({status} {reason})")

    def on_data(self, data: memoryview) -> None:
        """Keep payload until it is received."""
        if self._closing:
            # Who is not listened to any more must still be able to read what was queued.
            self._tunnel.delivered(self._stream_id, len(data), prompt=False)
            return
        if not self._inbox.size:
            self._prompt = self._receiver.occupied
        self._inbox.put(bytes(data))
        self._receiver.wake()
        self._backlog.grew(self, len(data))

    def on_ended(self) -> None:
        """Hear that the far side will send no more."""
        self._ended_in = True
        self._receiver.wake()

    def on_reset(self, code: int) -> None:
        """Hear that the stream is gone; what came before is still there to be received.

        NO_ERROR after the far side's end says that it does not wait for ours (RFC 9113 section 8.1).
        """
        if self._ended_in and code == NO_ERROR:
            self._lost("the far side is done")
        else:
            self._lost(f"the far side reset the stream ({code})")

    def on_writable(self) -> None:
        """Go on sending what is queued."""
        self._flush()

    # The work.

    @property
    def _unsent(self) -> int:
        return len(self._pending)

    def _write(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
            return
        sent = self._send(data)
        if sent < len(data) and not self._gone:
            self._pending += memoryview(data)[sent:]
            self._tunnel.wait_writable(self._stream_id, self)

    def _send(self, data: bytes | bytearray) -> int:
        """Send what the tunnel takes now; gives how much that was."""
        position, total = 0, len(data)
        tunnel, buffer = self._tunnel, self._buffer
        with memoryview(data) as view:
            while position < total and (room := tunnel.sendable(self._stream_id)):
                count = min(room, READ_SIZE, total - position)
                buffer[FRAME_HEADER : FRAME_HEADER + count] = view[position : position + count]
                position += count
                tunnel.send_payload(self._stream_id, buffer, count)
        return position

    def _flush(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, bytearray()
        del pending[: self._send(pending)]
        if self._gone:
            return
        self._pending = pending
        if pending:
            self._tunnel.wait_writable(self._stream_id, self)
        elif self._ended_out:
            self._tunnel.end_stream(self._stream_id)
            if self._closing:
                self._leave()
        if len(pending) <= SEND_AHEAD:
            self._sender.wake()

    def _taken(self, amount: int) -> None:
        self._backlog.shrank(self, amount)
        self._tunnel.delivered(self._stream_id, amount, prompt=self._prompt)

    def _leave(self) -> None:
        """Let go of a stream on which everything was said here."""
        if self._ended_in:
            self._tunnel.forget_stream(self._stream_id)
        else:
            self._tunnel.reset_stream(self._stream_id, NO_ERROR)

    def _lost(self, why: str) -> None:
        self._gone = True
        self._pending.clear()
        self._break(why)

    def _forget_inbox(self) -> None:
        self._inbox.clear()
        self._backlog.forget(self)
