"""A workload's socket as a channel."""

import select
import socket

from node_proxy.dataplane.http.buffered_channel import SEND_AHEAD, BufferedChannel
from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.shaping import PacedSide, Shaper
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.tunnel.handlers import Poller

# Read before anybody asks: the next message is mostly there when it is asked for, and epoll is not told of
# every message that it may look away now.
READ_AHEAD = 64 * 1024
# Of one read; grows to the second when it was filled. A request is small, a body is not.
SMALL_READ = 4 * 1024
LARGE_READ = 64 * 1024
# What is still taken of what came before a reset: an answer whose sender closed without reading our body.
LAST_WORDS = 256 * 1024
# Milliseconds that a socket which was closed here may take for what is queued. The kernel keeps the time.
CLOSING_TIMEOUT = 30_000


class SocketChannel(BufferedChannel):
    """A `Channel` over a connected, non-blocking stream socket, which it owns; the poller wakes its tasks.

    Args:
        sock: the socket, watched from now on.
        poller: the worker's reactor.
        shaper: slows what moves, if there is a limit of bandwidth.
    """

    def __init__(self, sock: socket.socket, poller: Poller, *, shaper: Shaper | None = None) -> None:
        super().__init__()
        self._sock = sock
        self._side = SocketSide(sock, poller) if shaper is None else PacedSide(sock, poller, shaper)
        self._paced = shaper is not None
        self._read_size = SMALL_READ
        self._reading = True
        self._open = True
        self._pending = 0
        self._side.start(self, reading=True)

    def end(self) -> None:
        """Say that no more will be sent; see `Channel`."""
        if not self._ended_out:
            self._ended_out = True
            if self._open and not self._side.has_pending:
                self._end_writing()

    def close(self) -> None:
        """Let go of both directions; see `Channel`."""
        self._inbox.clear()
        if self._open and self._side.has_pending:
            self._ended_out = True
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, CLOSING_TIMEOUT)
            # Its input is nobody's any more; its pending output is.
            self._reading = False
            self._watch()
            self._break("closed here")
        else:
            self._close("closed here")

    def abort(self) -> None:
        """Reset both directions; see `Channel`."""
        self._inbox.clear()
        self._close("aborted here", abort=True)

    # What the poller calls.

    def on_ready(self, events: int) -> None:
        """Handle readiness of the socket."""
        if events & select.EPOLLOUT:
            self._flush()
        if not self._open or not events & ~select.EPOLLOUT:
            return
        if events & select.EPOLLERR:
            self._lost("the connection broke")
        elif self._reading:
            self._read()
        elif events & select.EPOLLHUP:
            self._hang_up()

    def on_crash(self, error: Exception) -> None:
        """Give up after a bug."""
        self._close(f"internal error: {error!r}", abort=True)

    # The work.

    @property
    def _unsent(self) -> int:
        return self._pending

    def _write(self, data: bytes) -> None:
        try:
            taken = self._side.write(memoryview(data))
        except OSError as error:
            self._lost(f"the connection broke: {error}")
            raise ChannelBroken(self._why) from error
        if taken < len(data):
            self._pending += len(data) - taken
            self._watch()

    def _flush(self) -> None:
        try:
            self._pending -= self._side.flush()
        except OSError as error:
            self._lost(f"the connection broke: {error}")
            return
        if self._pending <= SEND_AHEAD:
            self._sender.wake()
        if self._side.has_pending:
            return
        if self._why:
            self._close(self._why)
            return
        self._watch()
        if self._ended_out:
            self._end_writing()

    def _end_writing(self) -> None:
        try:
            self._side.end_writing()
        except OSError as error:
            self._lost(f"the connection broke: {error}")

    def _read(self) -> None:
        size = self._read_size
        try:
            data = self._receive(size)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(f"the connection broke: {error}")
            return
        if not data:
            self._ended_in = True
        self._inbox.put(data)
        self._read_size = LARGE_READ if len(data) == size else SMALL_READ
        if self._ended_in or self._inbox.size >= READ_AHEAD:
            self._reading = False
            self._watch()
        self._receiver.wake()

    def _receive(self, size: int) -> bytes:
        if not self._paced:
            return self._sock.recv(size)
        buffer = bytearray(size)
        return bytes(buffer[: self._side.read_into(memoryview(buffer))])

    def _taken(self, amount: int) -> None:
        if self._open and not (self._reading or self._ended_in) and self._inbox.size < READ_AHEAD:
            self._reading = True
            self._watch()

    def _hang_up(self) -> None:
        """Hear that both directions have ended, or that the connection broke before all was read.

        Epoll would say it for ever; reading on, later, tells which.
        """
        if self._pending:
            self._lost("the connection broke")
        else:
            self._side.watch(reading=False, paused=True)

    def _watch(self) -> None:
        self._side.watch(reading=self._reading)

    def _lost(self, why: str) -> None:
        """Close a connection that takes no more, and keep what came before."""
        last_words = 0
        while not self._ended_in and last_words < LAST_WORDS and not self._why:
            try:
                data = self._sock.recv(LARGE_READ)
            except OSError:
                break
            self._ended_in = not data
            self._inbox.put(data)
            last_words += len(data)
        self._close(why)

    def _close(self, why: str, *, abort: bool = False) -> None:
        if self._open:
            self._open = False
            self._pending = 0
            self._side.close(abort=abort)
        self._break(why)
