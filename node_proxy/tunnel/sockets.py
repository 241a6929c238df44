"""TCP sockets as the byte path wants them: non-blocking, without Nagle, kept alive, marked."""

import errno
import os
import socket

import trio

from node_proxy.errors import DialError

# A dead workload or caller that never says so is found after 60 s + 5 × 10 s.
KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 5


def tune(sock: socket.socket) -> None:
    """Make a TCP socket fit for the byte path; what a listening one accepts inherits all but not blocking."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


def start_connect(address: str, port: int, *, mark: int = 0) -> tuple[socket.socket, bool]:
    """Begin to connect; gives the socket and whether it is connected already.

    `mark` (SO_MARK) keeps the proxy's own traffic out of its own capture; 0 sets none.

    Raises:
        DialError: refused at once, or not an address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        tune(sock)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        result = sock.connect_ex((address, port))
        if result == errno.EINPROGRESS:
            # On loopback the handshake is over by now: to ask again costs less than a task that waits.
            result = sock.connect_ex((address, port))
    except OSError as error:
        sock.close()
        raise DialError(address, port, str(error)) from error
    if result in (0, errno.EINPROGRESS, errno.EALREADY):
        return sock, result == 0
    sock.close()
    raise DialError(address, port, os.strerror(result))


async def finish_connect(sock: socket.socket, address: str, port: int) -> None:
    """Wait until a connection begun by `start_connect` stands.

    Raises:
        DialError: it failed. The socket is closed, as it is on cancellation.
    """
    try:
        await trio.lowlevel.wait_writable(sock)
    except BaseException:
        sock.close()
        raise
    if failure := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        sock.close()
        raise DialError(address, port, os.strerror(failure))


async def connect(address: str, port: int, *, timeout: float, mark: int = 0) -> socket.socket:
    """Connect within `timeout` seconds.

    Raises:
        DialError: it failed, or took too long. Cancellation leaves no socket.
    """
    sock, connected = start_connect(address, port, mark=mark)
    if not connected:
        try:
            with trio.fail_after(timeout):
                await finish_connect(sock, address, port)
        except trio.TooSlowError:
            raise DialError(address, port, f"no answer within {timeout:.1f} s") from None
    return sock
