"""The client's end of HTTP/1.1 over a channel: one request at a time."""

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import Body, ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h1_incoming import NO_BODY, IncomingBody, WholeBody
from node_proxy.dataplane.http.h1_reader import ResponseReader
from node_proxy.dataplane.http.h1_syntax import BAD_STATUS
from node_proxy.dataplane.http.h1_writer import BodyWriter, render_request
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead
from node_proxy.dataplane.http.upgraded_channel import UpgradedChannel
from node_proxy.errors import LocalProtocolError

_CONTINUE = 100
_SWITCHING = 101


class H1ClientConnection:
    """A `ClientConnection` of HTTP/1.1. Needs no task: who asks also reads."""

    def __init__(self, channel: Channel, *, limits: HttpLimits) -> None:
        self._channel = channel
        self._limits = limits
        self._reader = ResponseReader(limits)
        self._exchange: H1ClientExchange | None = None
        self._closing = False

    @property
    def room(self) -> int:
        """1 when a request may be sent now; 0 while one is in flight, and once it is closing or broken."""
        if self._closing or self._exchange is not None:
            return 0
        # Answers that nobody asked for are an attack.
        if self._channel.quiet and not self._reader.buffered:
            return 1
        self.close()
        return 0

    @property
    def in_flight(self) -> int:
        """Requests that have not ended: 0 or 1."""
        return 0 if self._exchange is None else 1

    async def request(self, head: RequestHead, body: bytes = b"", *, end: bool) -> "H1ClientExchange":
        """Send a head and the first bytes of its body; see `ClientConnection`."""
        if self._exchange is not None:
            raise LocalProtocolError("a request is in flight")
        if not self.room:
            raise ExchangeBroken("the connection is closed", untouched=True)
        exchange = H1ClientExchange(self, self._channel, self._reader, self._limits, head)
        data = exchange.begin(body, end=end)
        self._exchange = exchange
        try:
            prompt = self._channel.send_nowait(data)
        except ChannelBroken as broken:
            self.let_go(exchange, reusable=False)
            raise ExchangeBroken(str(broken), untouched=True) from None
        if not prompt:
            await exchange.wait_sent()
        return exchange

    def close(self) -> None:
        """Close when nothing is in flight any more; take no more requests."""
        self._closing = True
        if self._exchange is None:
            self._channel.close()

    def let_go(self, exchange: "H1ClientExchange", *, reusable: bool) -> None:
        """Hear that an exchange needs the connection no more."""
        if self._exchange is exchange:
            self._exchange = None
            if self._closing or not reusable:
                self.close()


class H1ClientExchange:
    """A `ClientExchange` of HTTP/1.1."""

    def __init__(
        self,
        connection: H1ClientConnection,
        channel: Channel,
        reader: ResponseReader,
        limits: HttpLimits,
        head: RequestHead,
    ) -> None:
        self.body: Body = NO_BODY
        self._connection = connection
        self._channel = channel
        self._reader = reader
        self._head = head
        self._informational = limits.informational
        self._writer: BodyWriter | None = None
        self._sent_all = False
        self._answered = False
        self._got_all = False
        self._keep_alive = True
        self._upgraded = False

    def begin(self, body: bytes, *, end: bool) -> bytes:
        """Give the head and the first bytes of the body as they are sent."""
        head = self._head
        if end and head.length is None:
            # It is all here: no need for chunks.
            head.length = len(body)
        data, framing = render_request(head)
        writer = self._writer = BodyWriter(framing, head.length)
        if body:
            data += writer.frame(body)
        if end:
            data += writer.finish([])
            self._sent_all = True
        return data

    async def wait_sent(self) -> None:
        """Wait while the other side is behind.

        Raises:
            ExchangeBroken: it reads no more.
        """
        try:
            await self._channel.send(b"")
        except ChannelBroken as broken:
            raise ExchangeBroken(str(broken)) from None

    async def send(self, data: bytes) -> None:
        """Send more of the request's body; see `ClientExchange`."""
        await self._send(self._body_writer().frame(data))

    async def end(self, trailers: Fields | None = None) -> None:
        """End the request."""
        if self._sent_all:
            return
        last = self._body_writer().finish(trailers or [])
        self._sent_all = True
        try:
            await self._send(last)
        finally:
            self._let_go_if_done()

    async def response(self) -> ResponseHead:
        """Wait for the next head; see `ClientExchange`."""
        if self._answered:
            raise LocalProtocolError("the answer was given already")
        while True:
            try:
                parsed = self._reader.next_response(self._head.method)
            except (MessageRefused, ExchangeBroken):
                self._give_up()
                raise
            if parsed is not None:
                break
            try:
                self._reader.feed(await self._channel.receive())
            except ChannelBroken as broken:
                self._give_up()
                raise ExchangeBroken(str(broken)) from None
        head = parsed.head
        if head.status < 200:
            self._inform(head)
            if not self._upgraded:
                return head
        self._answered = True
        self._keep_alive = parsed.keep_alive
        if self._upgraded:
            return head
        if self._reader.body_ended:
            self._body_ended()
        elif (whole := self._reader.take_whole()) is not None:
            self.body = WholeBody(whole)
            self._body_ended()
        else:
            self.body = IncomingBody(
                self._reader, self._channel, before_waiting=_nothing, on_ended=self._body_ended
            )
        return head

    def upgraded(self) -> Channel:
        """Give the connection's bytes after a 101."""
        if not self._upgraded:
            raise LocalProtocolError("the answer was no 101")
        return UpgradedChannel(self._channel, self._reader.take_rest())

    def reset(self, why: str) -> None:
        """Give up; harmless when both sides have ended."""
        if not (self._sent_all and self._got_all):
            self._give_up()

    def _body_writer(self) -> BodyWriter:
        if self._writer is None or self._sent_all:
            raise LocalProtocolError("the request has ended")
        return self._writer

    async def _send(self, data: bytes) -> None:
        try:
            await self._channel.send(data)
        except ChannelBroken as broken:
            raise ExchangeBroken(str(broken)) from None

    def _inform(self, head: ResponseHead) -> None:
        if head.status == _SWITCHING:
            if not self._head.upgrade:
                self._give_up()
                raise MessageRefused(502, BAD_STATUS, "the answer switches protocols unasked")
            self._upgraded = True
            return
        self._informational -= 1
        if self._informational < 0:
            self._give_up()
            raise MessageRefused(502, BAD_STATUS, "there are too many informational answers")

    def _body_ended(self) -> None:
        # A body that broke off has ended as well, but not been read to its end.
        self._got_all = True
        self._keep_alive = self._keep_alive and self._reader.body_ended
        self._let_go_if_done()

    def _let_go_if_done(self) -> None:
        if self._sent_all and self._got_all:
            self._connection.let_go(self, reusable=self._keep_alive)

    def _give_up(self) -> None:
        self._channel.abort()
        self._connection.let_go(self, reusable=False)


def _nothing() -> None:
    """Do nothing: a request that is on its way needs nobody to ask for its answer."""
