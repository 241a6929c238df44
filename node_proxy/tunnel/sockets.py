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

# linux/in6.h; Python names neither this nor, before 3.14, the one for IPv4.
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75


def tune(sock: socket.socket) -> None:
    """Make a TCP socket fit for the byte path; what a listening one accepts inherits all but not blocking."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


def start_connect(
    address: str, port: int, *, mark: int = 0, source: tuple[str, int] | None = None
) -> tuple[socket.socket, bool]:
    """Begin to connect; gives the socket and whether it is connected already.

    `mark` (SO_MARK) keeps the proxy's own traffic out of its own capture; 0 sets none. `source` is an address
    and port to connect from, of the same family, which need not be this host's: that takes CAP_NET_ADMIN, and
    answers come back only where `node_proxy.agent.source_routing` is in force.

    Raises:
        DialError: refused at once, or not an address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        tune(sock)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if source is not None:
            _connect_from(sock, family, source)
        result = sock.connect_ex((address, port))
        if result == errno.EINPROGRESS:
            # On loopback the handshake is over by now: to ask again costs less than a task that waits.
            result = sock.connect_ex((address, port))
    except OSError as error:
        sock.close()
        raise DialError(address, port, str(error), code=error.errno or 0) from error
    if result in (0, errno.EINPROGRESS, errno.EALREADY):
        return sock, result == 0
    sock.close()
    raise DialError(address, port, os.strerror(result), code=result)


def _connect_from(sock: socket.socket, family: socket.AddressFamily, source: tuple[str, int]) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    # One port may lead to several workloads at once: connect then refuses what is not unique.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(source)


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
        raise DialError(address, port, os.strerror(failure), code=failure)


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
