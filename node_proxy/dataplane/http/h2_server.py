"""The server's end of HTTP/2 over a channel."""

from collections.abc import Callable
from typing import Final

import trio

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.exchange import ExchangeBroken, Handler, MessageRefused
from node_proxy.dataplane.http.h2_driver import H2Driver
from node_proxy.dataplane.http.h2_events import (
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    StreamBroken,
)
from node_proxy.dataplane.http.h2_server_exchange import H2ServerExchange
from node_proxy.dataplane.http.h2_server_protocol import ServerProtocol
from node_proxy.dataplane.http.h2_stream_end import StreamEnd
from node_proxy.dataplane.http.h2_streams import GROWTH_BUDGET, MAX_CONCURRENT_STREAMS, too_many_streams
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.errors import NodeProxyError
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.http2 import REFUSED_STREAM
from node_proxy.tunnel.windows import WindowBudget

# How often a connection looks whether it is idle or should drain; also what a caller has, after it was asked
# to, until it begins no more: much more than a way there and back.
_TEND_INTERVAL: Final = 1.0


async def serve_h2(
    channel: Channel,
    handler: Handler,
    *,
    limits: HttpLimits,
    draining: Callable[[], bool],
    first_bytes: bytes = b"",
    on_refused: Callable[[MessageRefused], None],
    backlog: Backlog | None = None,
) -> None:
    """Serve one HTTP/2 connection (prior knowledge) until it ends: a task of `handler` for each request.

    Returns when the connection is over and every request's task has ended; never raises for what the other
    side does. The channel is closed whatever happens. Cancellation breaks off what is open. A handler is
    cancelled when the caller resets its request, or ends the connection.

    Args:
        channel: where the connection is.
        handler: answers one request; one that returns without a whole answer resets it.
        limits: what callers may do.
        draining: whether this proxy takes no new requests; then GOAWAY is sent and what is open goes on.
        first_bytes: what was read from the channel already.
        on_refused: hears what was no HTTP, or beyond the limits, after it was answered.
        backlog: the worker's, which bounds what came and nobody has received; one of its own if None.
    """
    server = _Server(
        channel, handler, limits=limits, draining=draining, on_refused=on_refused, backlog=backlog
    )
    try:
        async with trio.open_nursery() as nursery:
            server.nursery = nursery
            nursery.start_soon(server.write)
            nursery.start_soon(server.tend)
            server.flush()
            await server.read(first_bytes)
            nursery.cancel_scope.cancel()
    finally:
        server.break_all(ExchangeBroken("this proxy ended the connection", by_peer=False))
        channel.close()


class _Server(H2Driver):
    protocol: ServerProtocol
    nursery: trio.Nursery

    def __init__(
        self,
        channel: Channel,
        handler: Handler,
        *,
        limits: HttpLimits,
        draining: Callable[[], bool],
        on_refused: Callable[[MessageRefused], None],
        backlog: Backlog | None,
    ) -> None:
        now = trio.current_time()
        protocol = ServerProtocol(limits=limits, budget=WindowBudget(GROWTH_BUDGET), calm=Calm(now))
        super().__init__(channel, protocol, backlog)
        self._handler = handler
        self._limits = limits
        self._draining = draining
        self._on_refused = on_refused
        # Handlers that run: one may outlive its stream for a moment.
        self._handling = 0
        self._served_any = False
        self._last_use = now

    async def tend(self) -> None:
        """Drain when that is asked for, and end the connection when it is drained, or idle for too long."""
        announced = False
        while True:
            await trio.sleep(_TEND_INTERVAL)
            if announced:
                self.protocol.drain()
                self.flush()
                self._end_if_drained()
            elif self._draining():
                announced = True
                self.protocol.announce_drain()
                self.flush()
            elif not self._handling and trio.current_time() - self._last_use >= self._patience():
                self.protocol.drain()
                self.flush()
                self._end()

    def _patience(self) -> float:
        return self._limits.idle_seconds if self._served_any else self._limits.head_seconds

    def _end_if_drained(self) -> None:
        if self.protocol.draining and not self._handling:
            self._end()

    def _end(self) -> None:
        self.nursery.cancel_scope.cancel()

    async def _handle_request(self, exchange: H2ServerExchange) -> None:
        try:
            with exchange.scope:
                await self._handler(exchange)
        except NodeProxyError as error:
            # A handler answers for what goes wrong elsewhere; this is what the caller did.
            exchange.reset(str(error))
        finally:
            exchange.finish()
            self._handling -= 1
            self._last_use = trio.current_time()
            self._end_if_drained()

    # What the connection says.

    def head_received(self, event: RequestReceived | RequestRefused | ResponseReceived) -> None:
        """Begin to handle a request."""
        self._served_any = True
        if isinstance(event, RequestRefused):
            self._on_refused(event.refused)
        elif isinstance(event, RequestReceived):
            if self._handling >= MAX_CONCURRENT_STREAMS:
                # Streams that were reset have handlers yet: resets alone must not buy more of them.
                self.protocol.reset_stream(event.stream_id, REFUSED_STREAM)
                self._on_refused(too_many_streams())
                return
            exchange = H2ServerExchange(self, self.protocol, event.stream_id, event.head)
            self._streams[event.stream_id] = exchange
            self._handling += 1
            self.nursery.start_soon(self._handle_request, exchange)

    def stream_broke(self, stream: StreamEnd, event: StreamBroken) -> None:
        """Cancel the handler of a request that is gone."""
        if event.refused is not None:
            self._on_refused(event.refused)
        why = f"the caller reset the request ({event.code})"
        stream.broke(event.refused or ExchangeBroken(why, by_peer=event.by_peer))

    def peer_drains(self, code: int, why: str) -> None:
        """Nothing to do: we open no streams, and the peer ends the connection when it wants to."""

    def broke(self) -> None:
        """Report what was no HTTP/2."""
        if isinstance(self.failure, MessageRefused):
            self._on_refused(self.failure)
