"""Connected TCP sockets on loopback, and what can be seen of their ends."""

import socket
import struct
from collections.abc import Callable

from tests.fakes.poller import EpollPoller


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Give two connected sockets, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def shrink(sock: socket.socket) -> None:
    """Make a socket's buffers as small as the kernel allows, so that it blocks soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


class Reader:
    """Reads what has come to a socket, and how it ended: ``end``, ``reset`` or not yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = bytearray()
        self.ending = ""

    def read(self) -> bytes:
        """Take what is there; gives all that came so far."""
        while not self.ending:
            try:
                chunk = self.sock.recv(1 << 16)
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.ending = "reset"
                break
            if not chunk:
                self.ending = "end"
            self.data += chunk
        return bytes(self.data)

    def ended(self) -> str:
        """Read and say how the connection ended, if it has."""
        self.read()
        return self.ending


def send_all(sock: socket.socket, payload: bytes, poller: EpollPoller) -> None:
    """Send everything while the poller takes its turns."""
    view = memoryview(payload)
    position = 0

    def send_some() -> bool:
        nonlocal position
        try:
            position += sock.send(view[position:])
        except BlockingIOError:
            return False
        return position == len(payload)

    poller.until(send_some)


def send_until_blocked(sock: socket.socket, turn: Callable[[], object]) -> int:
    """Send until nothing more is taken although `turn` was given many chances; gives how much went."""
    sent = idle = 0
    while idle < 50:
        try:
            sent += sock.send(bytes(1 << 16))
            idle = 0
        except BlockingIOError:
            idle += 1
        turn()
    return sent
