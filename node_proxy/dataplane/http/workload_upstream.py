"""The connections of one caller to its workload: as a rule one, which lasts as long as the caller's does.

A workload may close its end between two requests; then it is dialled again. A caller whose streams are more
than one connection of the workload takes gets several.
"""

import socket
from dataclasses import dataclass
from typing import Final

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.exchange import ClientConnection, ClientExchange, ExchangeBroken
from node_proxy.dataplane.http.h1_client import H1ClientConnection
from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import RequestHead, Version
from node_proxy.dataplane.http.socket_channel import SocketChannel
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.shaping import Shaper
from node_proxy.dataplane.workload_dial import Origin, WorkloadDial
from node_proxy.errors import DialError

# A workload on loopback answers at once; one on another address of this host within a round trip.
DIAL_TIMEOUT: Final = 5.0
# For one caller's connection. A workload that takes one stream at a time is served by so many; a caller has
# 256 streams at most, and a host's descriptors are for all.
MAX_CONNECTIONS: Final = 16


class TooManyConnections(DialError):
    """The workload's connections for this caller are all in use."""


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection to the workload; `asked` counts its requests."""

    client: ClientConnection
    asked: int = 0


class WorkloadUpstream:
    """Sends the requests of one caller's connection to the workload, in the version that the caller speaks.

    Args:
        context: the worker's.
        admitted: the right to dial.
        origin: who calls, as the workload is told.
        dialled: the first connection, which stands already.
        version: HTTP_11 or HTTP_2.
        limits: of what the workload answers.
        shaper: slows what moves, if there is a limit of bandwidth.
        nursery: runs connections of HTTP/2; ends when the caller's connection does.
    """

    def __init__(
        self,
        context: WorkerContext,
        admitted: Admitted,
        origin: Origin | None,
        dialled: socket.socket,
        *,
        version: Version,
        limits: HttpLimits,
        shaper: Shaper | None,
        nursery: trio.Nursery,
    ) -> None:
        self._context = context
        self._admitted = admitted
        self._origin = origin
        self._version = version
        self._limits = limits
        self._shaper = shaper
        self._nursery = nursery
        self._connections = [self._connect(dialled)]
        self._dialling = 0

    async def request(self, head: RequestHead, body: bytes, *, end: bool) -> tuple[ClientExchange, bool]:
        """Send a request, and perhaps all of its body.

        Gives the exchange, and whether its connection was used before: it may have ended just then, by no
        fault of the request's.

        Raises:
            ExchangeBroken: the connection broke.
            DialError: there is none, and the workload does not answer; or there are too many.
        """
        connection = self._find()
        if connection is not None:
            connection.asked += 1
            try:
                return await connection.client.request(head, body, end=end), connection.asked > 1
            except ExchangeBroken as error:
                if connection.asked == 1 or not error.untouched:
                    raise
        connection = await self._dial()
        connection.asked += 1
        return await connection.client.request(head, body, end=end), False

    def close(self) -> None:
        """Close every connection on which nothing is in flight, and the others when they are done."""
        for connection in self._connections:
            connection.client.close()
        self._connections.clear()

    def _find(self) -> _Connection | None:
        """Give a connection with room; those that have neither room nor requests are over."""
        found: _Connection | None = None
        for connection in list(self._connections):
            if connection.client.room:
                found = found or connection
            elif not connection.client.in_flight:
                self._connections.remove(connection)
                connection.client.close()
        return found

    async def _dial(self) -> _Connection:
        workload, port = self._admitted.local.workload, self._admitted.port
        if len(self._connections) + self._dialling >= MAX_CONNECTIONS:
            self._context.telemetry.add(telemetry.LIMIT_REACHED, limit="workload_connections")
            raise TooManyConnections(workload.dial, port, "too many connections for one caller")
        self._dialling += 1
        try:
            dial = WorkloadDial(self._context, self._admitted, self._origin)
            sock = await dial.complete(timeout=DIAL_TIMEOUT)
        finally:
            self._dialling -= 1
        connection = self._connect(sock)
        self._connections.append(connection)
        return connection

    def _connect(self, sock: socket.socket) -> _Connection:
        channel = SocketChannel(sock, self._context.reactor, shaper=self._shaper)
        if self._version is not Version.HTTP_2:
            return _Connection(H1ClientConnection(channel, limits=self._limits))
        client = H2ClientConnection(
            channel, limits=self._limits, backlog=self._context.backlog, cautious=True
        )
        self._nursery.start_soon(self._context.contain, client.run)
        return _Connection(client)
