"""Listeners whose callers say where they want to go: reads the handshake and finds out who calls.

Nothing behind the handshake is read here, so every failure before the far side accepts can still be answered.
"""

import socket
from collections.abc import Callable

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.callers import UnknownCaller
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.handshake import Handshake
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.socket_side import abort_socket
from node_proxy.dataplane.way import Answered, Way, say_last

# Two round trips on this host; whoever takes longer holds a place that others want.
HANDSHAKE_TIMEOUT = 10.0
# Callers within their handshake: as many as tunnels may have, each of them a descriptor and a task.
MOST_HANDSHAKES = 512
# One look at what a caller has sent.
PEEK = 4096

Lead = Callable[[socket.socket, Destination, Caller | UnknownCaller, Way], None]


class _Gone(Exception):
    """The caller has closed."""


class ProxyWay:
    """Takes the connections of one listener.

    Args:
        context: the worker's.
        nursery: where handshakes run.
        protocol: makes a handshake.
        find_caller: says who called.
        lead: takes the connection once its destination is known.
    """

    def __init__(
        self,
        context: WorkerContext,
        nursery: trio.Nursery,
        *,
        protocol: Callable[[], Handshake],
        find_caller: Callable[[socket.socket], Caller | UnknownCaller],
        lead: Lead,
    ) -> None:
        self._context = context
        self._nursery = nursery
        self._protocol = protocol
        self._find_caller = find_caller
        self._lead = lead
        self.handshakes = 0

    def accepted(self, sock: socket.socket) -> None:
        """Take a connection; it is this object's from now on."""
        if self.handshakes >= MOST_HANDSHAKES:
            self._context.telemetry.add(telemetry.LIMIT_REACHED, limit="proxy_handshakes")
            abort_socket(sock)
            return
        # Now, while the caller surely lives: it may hand its socket to another process.
        caller = self._find_caller(sock)
        self.handshakes += 1
        self._nursery.start_soon(self._contain, sock, caller)

    async def _contain(self, sock: socket.socket, caller: Caller | UnknownCaller) -> None:
        try:
            await self._context.contain(self._serve, sock, caller)
        finally:
            self.handshakes -= 1

    async def _serve(self, sock: socket.socket, caller: Caller | UnknownCaller) -> None:
        handshake = self._protocol()
        try:
            with trio.move_on_after(HANDSHAKE_TIMEOUT):
                await _shake(sock, handshake)
        except (_Gone, OSError):
            # Whoever only looks whether somebody listens does this all the time.
            sock.close()
            return
        except BaseException:
            sock.close()
            raise
        if handshake.destination is not None:
            self._lead(sock, handshake.destination, caller, Answered(self._nursery, handshake))
            return
        reason, detail = ("bad_request", handshake.broken) if handshake.broken else ("handshake_timeout", "")
        self._context.telemetry.add(telemetry.STREAMS_REFUSED, reason=reason, workload="")
        self._context.log.warning("stream refused", side="source", reason=reason, detail=detail)
        await say_last(sock, handshake.take_output())


async def _shake(sock: socket.socket, handshake: Handshake) -> None:
    """Feed the handshake until it is over, or broken, whose output is left in it."""
    while handshake.destination is None:
        await trio.lowlevel.wait_readable(sock)
        try:
            data = sock.recv(PEEK, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not data:
            raise _Gone
        used = handshake.receive(data)
        while used:
            used -= len(sock.recv(used))
        if handshake.broken:
            return
        output = handshake.take_output()
        while output:
            await trio.lowlevel.wait_writable(sock)
            output = output[sock.send(output) :]
