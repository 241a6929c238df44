"""Connections of this host's workloads to HTTP ports: from accept until the last request is answered."""

import socket
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.caller import Caller, caller_fields
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import MessageRefused, ServerExchange
from node_proxy.dataplane.http.forwarder import Forwarder, Forwarding
from node_proxy.dataplane.http.h1_server import serve_h1
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.limits import LIMIT_REASONS, HttpLimits
from node_proxy.dataplane.http.sniff import MAX_FIRST_BYTES, PREFACE, Sniffed, sniff
from node_proxy.dataplane.http.socket_channel import SocketChannel
from node_proxy.dataplane.reason import BAD_REQUEST, TOO_LARGE, Reason
from node_proxy.dataplane.tables import Route
from node_proxy.dataplane.tcp_policy import routable_address
from node_proxy.dataplane.way import Way

# Whoever speaks HTTP speaks first, and at once; what is silent for so long (in seconds) waits for a greeting.
SNIFF_TIMEOUT: Final = 0.5
# A first look that told nothing is followed by others. What is not read leaves the socket readable.
SNIFF_INTERVAL: Final = 0.01


async def sniff_socket(sock: socket.socket) -> Sniffed:
    """Say what a caller speaks; its bytes stay in the socket.

    Cancellation loses nothing.
    """
    found: Sniffed | None = None
    with trio.move_on_after(SNIFF_TIMEOUT):
        await trio.lowlevel.wait_readable(sock)
        # Epoll would say for ever that what was not read is there.
        while (found := _look(sock)) is None:  # noqa: ASYNC110
            await trio.sleep(SNIFF_INTERVAL)
    return found or Sniffed.TCP


def _look(sock: socket.socket) -> Sniffed | None:
    try:
        first = sock.recv(MAX_FIRST_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return Sniffed.TCP
    # One that has ended already sends nothing more that could tell.
    return sniff(first) if first else Sniffed.TCP


@dataclass(eq=False, slots=True)
class _Served:
    """A connection, and how many of its requests are not answered."""

    channel: Channel
    in_flight: int = 0


class CallersSide:
    """The HTTP connections of a worker's callers.

    Args:
        context: the worker's.
        forwarding: what answers their requests.
        limits: what callers may do.
    """

    def __init__(self, context: WorkerContext, forwarding: Forwarding, limits: HttpLimits) -> None:
        self._context = context
        self._forwarding = forwarding
        self._limits = limits
        self._draining = False
        self._open: set[_Served] = set()

    @property
    def open_connections(self) -> int:
        """Connections that have not ended."""
        return len(self._open)

    async def drain(self, grace: float) -> None:
        """Take no new requests; those that have begun are answered, and told to be the last.

        What is idle `grace` seconds from now is closed.
        """
        self._draining = True
        await trio.sleep(grace)
        for each in list(self._open):
            if not each.in_flight:
                each.channel.close()

    async def serve(self, sock: socket.socket, route: Route, caller: Caller, way: Way) -> None:
        """Serve a caller's connection until it ends; the socket is this object's from now on."""
        context = self._context
        numbers = context.telemetry.outbound(route.service)
        started = context.clock()
        address = routable_address(sock)
        way.granted(sock)
        served = _Served(SocketChannel(sock, context.reactor))
        self._open.add(served)
        numbers.begin()
        outcome = "cut"
        try:
            version = await self._serve(served, route, caller, address[0] if address else None)
            outcome = "done"
        finally:
            self._open.remove(served)
            served.channel.close()
            traffic = telemetry.Traffic(sent=served.channel.received, received=served.channel.sent)
            numbers.end(traffic, outcome)
        context.log.info(
            "connection closed",
            side="outbound",
            protocol=version.value,
            source=caller.text,
            service=route.service,
            port=route.port,
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            seconds=round(context.clock() - started, 6),
            outcome=outcome,
            **caller_fields(caller.process),
        )

    async def _serve(self, served: _Served, route: Route, caller: Caller, address: str | None) -> Sniffed:
        channel = served.channel
        first = await self._first_bytes(channel)
        forwarder = Forwarder(self._forwarding, route, caller, address)

        async def handle(exchange: ServerExchange) -> None:
            served.in_flight += 1
            try:
                await forwarder.handle(exchange)
            finally:
                served.in_flight -= 1

        version = Sniffed.HTTP_2 if first.startswith(PREFACE) else Sniffed.HTTP_1
        refused = partial(self._refused, route, caller)
        if version is Sniffed.HTTP_2:
            await serve_h2(
                channel,
                handle,
                limits=self._limits,
                draining=lambda: self._draining,
                first_bytes=first,
                on_refused=refused,
                backlog=self._context.backlog,
            )
        else:
            await serve_h1(
                channel,
                handle,
                limits=self._limits,
                timers=self._forwarding.means.timers,
                draining=lambda: self._draining,
                first_bytes=first,
                on_refused=refused,
            )
        return version

    async def _first_bytes(self, channel: Channel) -> bytes:
        """Read until it is known whether HTTP/2 begins; whatever else does is for HTTP/1 to judge."""
        first = b""
        with trio.move_on_after(self._limits.idle_seconds):
            try:
                while len(first) < len(PREFACE) and PREFACE.startswith(first):
                    data = await channel.receive()
                    if not data:
                        break
                    first += data
            except ChannelBroken:
                return b""
        return first

    def _refused(self, route: Route, caller: Caller, refused: MessageRefused) -> None:
        if refused.reason in LIMIT_REASONS:
            self._context.telemetry.add(telemetry.LIMIT_REACHED, limit=refused.reason)
        code = TOO_LARGE if refused.status in (413, 414, 431) else BAD_REQUEST
        self._forwarding.numbers.count(route.service, "", refused.status)
        self._forwarding.refusals.note(
            status=refused.status,
            reason=Reason(code),
            detail=str(refused),
            caller=caller,
            service=route.service,
            port=route.port,
            route="",
        )
