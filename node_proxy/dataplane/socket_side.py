"""The plain side of a relay: a workload's non-blocking socket in a poller."""

import errno
import select
import socket

from node_proxy.tunnel.handlers import Poller, PollHandler

# What epoll reports whether or not it is asked to.
BROKEN = select.EPOLLERR | select.EPOLLHUP


class SocketSide:
    """A workload's non-blocking socket in a poller: what is watched, and bytes it would not take yet."""

    __slots__ = ("_fd", "_handler", "_mask", "_pending", "_poller", "_sock", "_watched")

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._poller = poller
        self._mask = 0
        self._watched = False
        # None before the start and after the end.
        self._handler: PollHandler | None = None
        self._pending = bytearray()

    @property
    def has_pending(self) -> bool:
        """Whether bytes wait until the socket is writable."""
        return bool(self._pending)

    def start(self, handler: PollHandler, *, reading: bool) -> None:
        """Let the poller watch the socket."""
        self._mask = select.EPOLLIN if reading else 0
        self._handler = handler
        self._watched = True
        self._poller.register(self._fd, self._mask, handler)

    def watch(self, *, reading: bool, paused: bool = False) -> None:
        """Watch for input if `reading`, and for room to write if bytes wait.

        A `paused` socket is not watched at all: epoll reports a hang-up whatever it is asked for, and the
        hang-up of a workload that has sent everything must wait until everything is read.
        """
        mask = (select.EPOLLIN if reading else 0) | (select.EPOLLOUT if self._pending else 0)
        self._watch_for(mask, wanted=bool(mask) or not paused)

    def _watch_for(self, mask: int, *, wanted: bool) -> None:
        if self._handler is None:
            return
        if wanted and not self._watched:
            self._poller.register(self._fd, mask, self._handler)
        elif self._watched and not wanted:
            self._poller.unregister(self._fd)
        elif wanted and mask != self._mask:
            self._poller.modify(self._fd, mask)
        self._watched, self._mask = wanted, mask

    def read_into(self, view: memoryview) -> int:
        """Read; 0 is the end.

        Raises:
            BlockingIOError: nothing there.
            OSError: the connection is broken.
        """
        return self._sock.recv_into(view)

    def write(self, data: memoryview) -> int:
        """Write what the socket takes now, keep the rest; gives how much it took.

        Raises:
            OSError: the connection is broken.
        """
        sent = 0
        if not self._pending:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
        if sent < len(data):
            self._pending += data[sent:]
        return sent

    def flush(self) -> int:
        """Write kept bytes; gives how much the socket took.

        Raises:
            OSError: the connection is broken.
        """
        try:
            sent = self._sock.send(self._pending)
        except BlockingIOError:
            return 0
        del self._pending[:sent]
        return sent

    def end_writing(self) -> None:
        """Half-close: tell the workload that no more will come."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            # It has closed already: then it knows.
            if error.errno != errno.ENOTCONN:
                raise

    def close(self, *, abort: bool = False) -> None:
        """Stop watching and close, with RST instead of FIN if `abort`."""
        if self._watched:
            self._poller.unregister(self._fd)
        self._watched, self._handler = False, None
        if abort:
            abort_socket(self._sock)
        else:
            self._sock.close()


def abort_socket(sock: socket.socket) -> None:
    """Close with RST, so that the other side cannot take a cut for a clean end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock.close()
