"""Relay between two sockets of one host: policy has decided, and no tunnel is needed."""

import select
import socket
from collections.abc import Callable

from node_proxy.dataplane.shaping import Shaper, open_side
from node_proxy.dataplane.socket_side import BROKEN, SocketSide
from node_proxy.dataplane.telemetry import Traffic
from node_proxy.tunnel.handlers import Poller


class LocalRelay:
    """Moves bytes between a caller's and a workload's socket until both directions have ended.

    Args:
        caller: the socket of who called; `Traffic.sent` counts its bytes.
        workload: the socket of who is called.
        buffer: shared by all relays of a worker.
        shaper: slows the workload's side, if there is a limit of bandwidth.
        on_closed: called once with an outcome: ``done``, or why it was cut.
    """

    def __init__(
        self,
        caller: socket.socket,
        workload: socket.socket,
        *,
        poller: Poller,
        buffer: bytearray,
        on_closed: Callable[["LocalRelay", str], None],
        shaper: Shaper | None = None,
    ) -> None:
        self.view = memoryview(buffer)
        self.closed = False
        self._on_closed = on_closed
        self._caller = _Half(self, SocketSide(caller, poller))
        self._workload = _Half(self, open_side(workload, poller, shaper))
        self._caller.other, self._workload.other = self._workload, self._caller

    @property
    def traffic(self) -> Traffic:
        """Bytes moved so far."""
        return Traffic(sent=self._caller.bytes_read, received=self._workload.bytes_read)

    def start(self) -> None:
        """Begin."""
        self._caller.side.start(self._caller, reading=True)
        self._workload.side.start(self._workload, reading=True)

    def cut(self, outcome: str) -> None:
        """End both sides at once with a reset."""
        self.close(outcome, abort=True)

    def close(self, outcome: str, *, abort: bool = False) -> None:
        """Close both sockets; closing twice is harmless."""
        if self.closed:
            return
        self.closed = True
        self._caller.side.close(abort=abort)
        self._workload.side.close(abort=abort)
        self._on_closed(self, outcome)
        # The halves hold each other and the relay: only the garbage collector could free them.
        self._caller.part()
        self._workload.part()

    def close_if_done(self) -> None:
        """Close once each side has ended and has been given everything."""
        halves = (self._caller, self._workload)
        if all(half.ended and not half.side.has_pending for half in halves):
            self.close("done")


class _Half:
    """One socket of the pair: reads for the other, writes what the other read."""

    other: "_Half"

    def __init__(self, relay: LocalRelay, side: SocketSide) -> None:
        self.relay = relay
        self.side = side
        self.ended = False
        self.bytes_read = 0

    def on_ready(self, events: int) -> None:
        """Handle readiness of this socket."""
        relay = self.relay
        if events & BROKEN and not self._reading:
            relay.close("a connection broke", abort=True)
            return
        try:
            if events & select.EPOLLOUT:
                self._flush()
            if events & ~select.EPOLLOUT and not relay.closed and self._reading:
                self._read()
        except OSError as error:
            relay.close(f"a connection broke: {error}", abort=True)

    def part(self) -> None:
        """Let go of the relay and of the other half; nothing is called after this."""
        del self.relay, self.other

    def on_crash(self, error: Exception) -> None:
        """Give up after a bug."""
        self.relay.cut(f"internal error: {error!r}")

    @property
    def _reading(self) -> bool:
        return not (self.ended or self.other.side.has_pending)

    def watch(self) -> None:
        """Watch for what this half can use now."""
        self.side.watch(reading=self._reading, paused=not (self._reading or self.ended))

    def _read(self) -> None:
        try:
            count = self.side.read_into(self.relay.view)
        except BlockingIOError:
            return
        if count == 0:
            self.ended = True
            self.watch()
            if not self.other.side.has_pending:
                self._end_other()
            return
        self.bytes_read += count
        if self.other.side.write(self.relay.view[:count]) < count:
            self.other.watch()
            self.watch()

    def _flush(self) -> None:
        self.side.flush()
        if self.side.has_pending:
            return
        self.watch()
        if self.other.ended:
            self.other._end_other()  # noqa: SLF001 - the two halves are one thing
        else:
            self.other.watch()

    def _end_other(self) -> None:
        self.other.side.end_writing()
        self.relay.close_if_done()
