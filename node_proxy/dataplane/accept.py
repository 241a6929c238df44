"""Accepting: from a listening socket to tuned connections, for as long as the worker takes any."""

import errno
import select
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.shares import Share
from node_proxy.tunnel.sockets import tune

# Who owns accepted connections from then on.
Take = Callable[[socket.socket], None]

# Few enough that the other workers, which wait on the same socket, get their share of a burst.
ACCEPTS_PER_TURN = 16
# How long a worker with more than its share lets the others go first; if they do not, they are busy or hung.
POLITE_PAUSE = 0.005
# How long to wait for descriptors or memory to be freed before the next try.
EXHAUSTED_PAUSE = 0.1
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h; Python names neither.
SO_ORIGINAL_DST = 80
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")


class Acceptor:
    """Accepts inline, called by the reactor, and hands every connection to `take`, which owns it.

    It stops with an event when it must pause: `pause` says for how long.
    """

    def __init__(
        self,
        context: WorkerContext,
        listener: socket.socket,
        take: Take,
        share: Share | None,
        *,
        goes_first: bool,
    ) -> None:
        self._context = context
        self._listener = listener
        self._take = take
        self._share = share
        self._goes_first = goes_first
        self.stopped = trio.Event()
        self.pause = EXHAUSTED_PAUSE

    def on_ready(self, _events: int) -> None:
        """Accept some of what waits; the rest is reported again."""
        for accepted in range(ACCEPTS_PER_TURN):
            if self._share is not None and self._share.is_ahead() and not self._goes_first:
                if accepted:
                    # Nobody knows whether more waits; if it does, that is reported.
                    return
                self.pause = POLITE_PAUSE
                self.stopped.set()
                return
            self._goes_first = False
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    # The connection died in the queue (accept(2) passes its pending error on).
                    continue
                self._context.telemetry.add(telemetry.LIMIT_REACHED, limit="descriptors")
                self._context.log.exception("cannot accept")
                self.stopped.set()
                return
            try:
                sock.setblocking(False)
                self._take(sock)
            except Exception:  # noqa: BLE001 - a bug costs this connection, not the listener
                self._context.crashed()
                sock.close()

    def on_crash(self, _error: Exception) -> None:
        """Go on: what `on_ready` can raise concerns one connection."""


async def serve_listener(
    context: WorkerContext, listener: socket.socket, take: Take, share: Share | None = None
) -> None:
    """Hand every connection to `take`, which owns it; runs until cancelled.

    The listening socket stays open. It may be shared with other workers, whose counts `share` knows.
    """
    if listener.family != socket.AF_UNIX:
        # Here once, instead of five calls for each connection.
        tune(listener)
    goes_first = False
    while True:
        acceptor = Acceptor(context, listener, take, share, goes_first=goes_first)
        if goes_first:
            # It is for what still waits, not for what comes later.
            acceptor.on_ready(select.EPOLLIN)
        # Not EPOLLEXCLUSIVE: it would wake one worker for a connection, were that one hung or about to die.
        context.reactor.register(listener.fileno(), select.EPOLLIN, acceptor)
        try:
            await acceptor.stopped.wait()
        finally:
            context.reactor.unregister(listener.fileno())
        # The others had their chance.
        goes_first = acceptor.pause == POLITE_PAUSE
        await trio.sleep(acceptor.pause)


def original_destination(sock: socket.socket) -> tuple[str, int] | None:
    """Say where a redirected connection was meant to go; None when it was not redirected."""
    try:
        if sock.family == socket.AF_INET6:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, packed = _SOCKADDR_IN6.unpack(raw)
            return str(IPv6Address(packed)), port
        raw = sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, packed = _SOCKADDR_IN.unpack(raw)
        return str(IPv4Address(packed)), port
    except OSError:
        return None
