"""The client's end of HTTP/2 over a channel: many requests on one connection."""

from collections import deque
from typing import Final

import trio

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.exchange import ExchangeBroken
from node_proxy.dataplane.http.h2_body import Failure
from node_proxy.dataplane.http.h2_client_protocol import ClientProtocol
from node_proxy.dataplane.http.h2_driver import H2Driver
from node_proxy.dataplane.http.h2_events import (
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    StreamBroken,
)
from node_proxy.dataplane.http.h2_stream_end import StreamEnd
from node_proxy.dataplane.http.h2_streams import GROWTH_BUDGET
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import RequestHead, ResponseHead
from node_proxy.dataplane.http.parking import Parking
from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.http2 import CANCEL, NO_ERROR, REFUSED_STREAM
from node_proxy.tunnel.windows import WindowBudget

# Seconds for the first frame of a server, which sends it as soon as it has accepted.
GREETING_TIMEOUT: Final = 5.0


class H2ClientExchange(StreamEnd):
    """A `ClientExchange`."""

    def __init__(self, connection: "H2ClientConnection") -> None:
        super().__init__(connection, 0)
        self._connection = connection
        self._heads: deque[ResponseHead] = deque()
        self._answer = Parking()

    async def response(self) -> ResponseHead:
        """Wait for the next head: of an informational answer (again and again), or of the answer.

        Raises:
            ExchangeBroken, MessageRefused: there will be none. Cancellation loses nothing.
        """
        while not self._heads:
            if self.failure is not None:
                raise self.failure
            await self._answer.wait()
        return self._heads.popleft()

    def upgraded(self) -> Channel:
        """Not of HTTP/2: there is no 101."""
        raise LocalProtocolError("HTTP/2 has no upgrade")

    def reset(self, why: str) -> None:
        """Give up; harmless when both sides have ended."""
        if self.failure is None and not (self.sent_end and self.incoming.ended):
            self._reset(CANCEL, ExchangeBroken(why, by_peer=False))
        self.incoming.drop()

    async def begin(self, head: RequestHead, body: bytes, *, end: bool) -> None:
        """Send the head and the first bytes of the body."""
        await self._connection.wait_greeted()
        await self._wait_calm()
        self._connection.open(self, head, end=end and not body)
        if end and not body:
            self._ended()
        elif rest := self._send_first(body, end=end):
            # Not waited for: the other side may want its answer read before it reads more.
            self._send_later(rest, end=end)

    # What the connection says.

    def answered(self, head: ResponseHead) -> None:
        """Take a head."""
        self._heads.append(head)
        self._answer.wake()

    def broke(self, failure: Failure) -> None:
        """Take note that there will be no more."""
        super().broke(failure)
        self._answer.wake()


class H2ClientConnection(H2Driver):
    """A `ClientConnection` of HTTP/2 with prior knowledge. Its `run` must run while it is used.

    Args:
        channel: where the connection is.
        limits: of what comes.
        backlog: the worker's, which bounds what came and nobody has received; one of its own if None.
        cautious: whether to ask nothing before the other side has sent its SETTINGS. A server of HTTP/1.1
            sends none, and may take the content of a frame for a request, which nobody has judged.
    """

    protocol: ClientProtocol

    def __init__(
        self,
        channel: Channel,
        *,
        limits: HttpLimits,
        backlog: Backlog | None = None,
        cautious: bool = False,
    ) -> None:
        calm = Calm(trio.current_time())
        protocol = ClientProtocol(limits=limits, budget=WindowBudget(GROWTH_BUDGET), calm=calm)
        super().__init__(channel, protocol, backlog)
        self._closing = False
        self._scope = trio.CancelScope()
        # None when it is not waited for.
        self._greeted = trio.Event() if cautious else None

    @property
    def room(self) -> int:
        """How many more requests it takes now; 0 once it is closing or broken."""
        return 0 if self._closing or self.failure is not None else self.protocol.room

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._streams)

    async def run(self) -> None:
        """Read and write until the connection is over; never raises for what the other side does.

        Cancellation breaks the exchanges that are open, and closes the channel.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.write)
                    self.flush()
                    await self.read()
                    nursery.cancel_scope.cancel()
        finally:
            self.break_all(ExchangeBroken("this proxy ended the connection", by_peer=False))
            self._channel.close()

    async def request(self, head: RequestHead, body: bytes = b"", *, end: bool) -> H2ClientExchange:
        """Send a head and the first bytes of its body, which is whole with these if `end`. Needs `room`.

        What the window does not allow yet of `body` is sent when it does.

        Raises:
            ExchangeBroken: the connection is gone, or has no room any more: nothing was sent. After
                cancellation neither.
        """
        exchange = H2ClientExchange(self)
        await exchange.begin(head, body, end=end)
        return exchange

    def close(self) -> None:
        """Close when nothing is in flight any more; take no more requests."""
        self._closing = True
        self._end_if_done()

    # What its exchanges order.

    async def wait_greeted(self) -> None:
        """Wait until the other side has shown that it speaks HTTP/2, or is gone."""
        if self._greeted is None or self._greeted.is_set():
            return
        with trio.move_on_after(GREETING_TIMEOUT) as scope:
            await self._greeted.wait()
        if scope.cancelled_caught:
            self.break_all(ExchangeBroken("the other side speaks no HTTP/2", by_peer=False))

    def _receive(self, data: bytes) -> bytes:
        rest = super()._receive(data)
        if self._greeted is not None and self.protocol.greeted:
            self._greeted.set()
        return rest

    def open(self, exchange: H2ClientExchange, head: RequestHead, *, end: bool) -> None:
        """Send the head of a request.

        Raises:
            ExchangeBroken: there is no room (any more).
        """
        if not self.room:
            why = "no room on the connection" if self.failure is None else str(self.failure)
            raise ExchangeBroken(why, untouched=True)
        exchange.stream_id = exchange.incoming.stream_id = self.protocol.send_request(head, end=end)
        self._streams[exchange.stream_id] = exchange

    def forget(self, stream_id: int) -> None:
        """Tell a stream nothing any more."""
        super().forget(stream_id)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if (self._closing or self.protocol.draining) and not self._streams and self.failure is None:
            self.protocol.drain()
            self.flush()
            self._scope.cancel()

    # What the connection says.

    def head_received(self, event: RequestReceived | RequestRefused | ResponseReceived) -> None:
        """Hand on an answer's head."""
        stream = self._streams.get(event.stream_id)
        if isinstance(event, ResponseReceived) and isinstance(stream, H2ClientExchange):
            stream.answered(event.head)

    def stream_broke(self, stream: StreamEnd, event: StreamBroken) -> None:
        """Say why, and whether the peer did anything with the request."""
        if event.refused is not None:
            stream.broke(event.refused)
        elif event.code == NO_ERROR and event.by_peer:
            stream.broke(ExchangeBroken("the other side reads no more of the request"))
        else:
            untouched = event.code == REFUSED_STREAM and event.by_peer
            why = f"the other side reset the request ({event.code})"
            stream.broke(ExchangeBroken(why, untouched=untouched, by_peer=event.by_peer))
        self._end_if_done()

    def peer_drains(self, code: int, why: str) -> None:
        """Take no more requests; `protocol` has said so already."""
        self._end_if_done()

    def broke(self) -> None:
        """End `run`."""
        if self._greeted is not None:
            self._greeted.set()
        self._scope.cancel()
