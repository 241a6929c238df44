"""Relays: a workload's socket on one side, a tunnel's stream or another socket on the other.

Each direction ends by itself (half-close), and backpressure is real in both: a workload that does not
read fills at most its stream's window, a tunnel that cannot send stops the reading from the workload.
"""

import select
from collections.abc import Callable

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.socket_side import BROKEN, SocketSide
from node_proxy.dataplane.telemetry import Traffic
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.http2 import CANCEL, CONNECT_ERROR, NO_ERROR

# One read from a workload: what the largest frame we send can carry.
READ_SIZE = 64 * 1024
# A workload that has more ready is read on without another look at epoll; then the others have their turn.
READS_PER_TURN = 4


class StreamRelay:
    """Moves bytes between a workload's socket and a tunnel's stream until both directions have ended.

    Args:
        side: the workload's socket, not yet watched.
        tunnel: where the stream is.
        buffer: FRAME_HEADER + READ_SIZE bytes shared by all relays of a worker.
        backlog: hears how much the workload has not taken yet.
        on_closed: called once with an outcome: ``done``, or why it was cut.
    """

    __slots__ = (
        "_backlog",
        "_buffer",
        "_closed",
        "_ended_in",
        "_ended_out",
        "_on_closed",
        "_paused",
        "_side",
        "_stream_id",
        "_tunnel",
        "_view",
        "traffic",
    )

    def __init__(
        self,
        side: SocketSide,
        tunnel: TunnelConnection,
        stream_id: int,
        *,
        buffer: bytearray,
        backlog: Backlog,
        on_closed: Callable[["StreamRelay", str], None],
    ) -> None:
        self.traffic = Traffic()
        self._side = side
        self._tunnel = tunnel
        self._stream_id = stream_id
        self._backlog = backlog
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._on_closed = on_closed
        # `in` is what comes from the workload's socket, `out` what goes to it.
        self._ended_in = False
        self._ended_out = False
        self._paused = False
        self._closed = False

    def start(self) -> None:
        """Begin; the stream must be accepted."""
        self._side.start(self, reading=True)

    def cut(self, outcome: str) -> None:
        """End both sides at once, with a reset each way."""
        if not self._closed:
            self._tunnel.reset_stream(self._stream_id, CANCEL)
            self._close(outcome, abort=True)

    # What the poller calls.

    def on_ready(self, events: int) -> None:
        """Handle readiness of the workload's socket."""
        if events & BROKEN and (self._ended_in or self._paused):
            # Nothing would be read that could show the error, and epoll would report it for ever.
            self._break("the workload's connection broke")
            return
        if events & select.EPOLLOUT:
            self._flush()
        if events & ~select.EPOLLOUT and not (self._closed or self._paused or self._ended_in):
            self._read()

    def on_crash(self, error: Exception) -> None:
        """Give up after a bug."""
        self.cut(f"internal error: {error!r}")

    # What the tunnel calls.

    def on_data(self, data: memoryview) -> None:
        """Hand payload to the workload; credit the peer for what it took."""
        try:
            taken = self._side.write(data)
        except OSError as error:
            self._break(f"the workload's connection broke: {error}")
            return
        self.traffic.received += len(data)
        if taken:
            self._tunnel.delivered(self._stream_id, taken, prompt=taken == len(data))
        if taken < len(data) and not self._closed:
            self._backlog.grew(self, len(data) - taken)
            self._watch()

    def on_ended(self) -> None:
        """The far side will send no more: half-close once everything is written."""
        self._ended_out = True
        if not self._side.has_pending:
            self._end_out()

    def on_reset(self, code: int) -> None:
        """The far side is gone; or, after its end and with NO_ERROR, done without waiting for ours.

        The latter is how Envoy closes a stream whose workload has closed (RFC 9113 section 8.1): all that it
        sent is still to be delivered, and what the workload here would still say interests nobody.
        """
        if self._closed:
            return
        if not (self._ended_out and code == NO_ERROR):
            self._close(f"the far side reset the stream ({code})", abort=True)
            return
        self._ended_in = True
        self._watch()
        self._close_if_done()

    def on_writable(self) -> None:
        """Go on reading from the workload."""
        if not self._closed:
            self._paused = False
            self._watch()

    def on_accepted(self) -> None:
        """Accepted twice: no peer of ours does that, and it changes nothing."""

    def on_refused(self, status: int, reason: str) -> None:
        """Refused after acceptance: the stream is gone."""
        self._close(f"refused after acceptance ({status} {reason})", abort=True)

    # The work.

    def _read(self) -> None:
        for _ in range(READS_PER_TURN):
            if not self._read_once():
                return

    def _read_once(self) -> bool:
        """Read and send once; whether there is likely more to read and to send."""
        limit = self._tunnel.sendable(self._stream_id)
        if limit == 0:
            self._pause()
            return False
        room = min(limit, READ_SIZE)
        try:
            count = self._side.read_into(self._view[FRAME_HEADER : FRAME_HEADER + room])
        except BlockingIOError:
            return False
        except OSError as error:
            self._break(f"the workload's connection broke: {error}")
            return False
        if count == 0:
            self._end_in()
            return False
        self.traffic.sent += count
        self._tunnel.send_payload(self._stream_id, self._buffer, count)
        return count == room and not self._closed

    def _pause(self) -> None:
        self._paused = True
        self._tunnel.wait_writable(self._stream_id, self)
        self._watch()

    def _flush(self) -> None:
        try:
            taken = self._side.flush()
        except OSError as error:
            self._break(f"the workload's connection broke: {error}")
            return
        if taken:
            self._backlog.shrank(self, taken)
            self._tunnel.delivered(self._stream_id, taken, prompt=False)
        if not (self._side.has_pending or self._closed):
            self._watch()
            if self._ended_out:
                self._end_out()

    def _end_in(self) -> None:
        self._ended_in = True
        self._tunnel.end_stream(self._stream_id)
        if not self._closed:
            self._watch()
            self._close_if_done()

    def _end_out(self) -> None:
        try:
            self._side.end_writing()
        except OSError as error:
            self._break(f"the workload's connection broke: {error}")
            return
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._ended_in and self._ended_out and not self._side.has_pending:
            self._tunnel.forget_stream(self._stream_id)
            self._close("done")

    def _watch(self) -> None:
        self._side.watch(reading=not (self._paused or self._ended_in), paused=self._paused)

    def _break(self, outcome: str) -> None:
        if not self._closed:
            self._tunnel.reset_stream(self._stream_id, CONNECT_ERROR)
            self._close(outcome, abort=True)

    def _close(self, outcome: str, *, abort: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        self._backlog.forget(self)
        self._side.close(abort=abort)
        self._on_closed(self, outcome)
