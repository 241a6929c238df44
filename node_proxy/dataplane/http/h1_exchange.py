"""One request of HTTP/1.1 and its answer, as the one who answers sees it."""

from typing import Protocol

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import Body, ExchangeBroken
from node_proxy.dataplane.http.h1_body import BODILESS, BY_CLOSE
from node_proxy.dataplane.http.h1_head import ParsedRequest
from node_proxy.dataplane.http.h1_incoming import NO_BODY, IncomingBody
from node_proxy.dataplane.http.h1_reader import RequestReader
from node_proxy.dataplane.http.h1_writer import CONTINUE, BodyWriter, Persistence, render_response
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import HTTP_10, HTTP_11, Fields, ResponseHead, has_no_body
from node_proxy.dataplane.http.upgraded_channel import UpgradedChannel
from node_proxy.errors import LocalProtocolError

_CONTINUE = 100
_UNSAID = Persistence.DEFAULT


class Served(Protocol):
    """What an exchange needs of the connection it belongs to."""

    channel: Channel
    reader: RequestReader
    limits: HttpLimits

    @property
    def leaving(self) -> bool:
        """Whether the connection takes no more requests after this one."""


class H1ServerExchange:
    """A `ServerExchange` of HTTP/1.1. `keep_alive` says, at its end, whether another request may follow."""

    def __init__(self, connection: Served, parsed: ParsedRequest) -> None:
        self.head = parsed.head
        self.body: Body = NO_BODY
        self.keep_alive = parsed.keep_alive
        self.ended = False
        self._connection = connection
        self._channel = connection.channel
        self._writer: BodyWriter | None = None
        self._upgraded = False
        # The caller waits for 100 before it sends its body.
        self._awaited = parsed.head.expects_continue
        self._incoming: IncomingBody | None = None
        if parsed.framing is not BODILESS:
            self.body = self._incoming = IncomingBody(
                connection.reader, connection.channel, before_waiting=self._ask_for_body, on_ended=_nothing
            )

    @property
    def responded(self) -> bool:
        """Whether a final answer has begun."""
        return self._writer is not None

    def takes_another(self) -> bool:
        """Whether another request may follow this one, whose answer is whole.

        Raises:
            MessageRefused: the rest of its body is none.
        """
        return self.keep_alive and self._drained()

    async def inform(self, head: ResponseHead) -> None:
        """Send an informational answer; see `ServerExchange`."""
        if self._writer is not None or self.head.version is not HTTP_11:
            return
        if head.status == _CONTINUE:
            if not self._awaited:
                return
            self._awaited = False
        data, _ = render_response(
            head, method=self.head.method, version=HTTP_11, persistence=Persistence.DEFAULT
        )
        await self._send(data)

    async def respond(self, head: ResponseHead, body: bytes = b"", *, end: bool = False) -> None:
        """Send the answer's head and the first bytes of its body; see `ServerExchange`."""
        if self._writer is not None:
            raise LocalProtocolError("the answer has begun already")
        request = self.head
        if end and head.length is None and (body or not has_no_body(request.method, head.status)):
            # It is all here: no need for chunks.
            head = ResponseHead(head.status, head.fields, len(body))
        if head.length is None and request.version is HTTP_10:
            self.keep_alive = False
        if self._connection.leaving or self._awaited or (end and not self._drained()):
            # Whether the body that was not asked for comes or not, who reads the next request cannot know.
            self.keep_alive = False
        data, framing = render_response(
            head, method=request.method, version=request.version, persistence=self._persistence()
        )
        silent = request.method == b"HEAD" or framing is BODILESS
        writer = self._writer = BodyWriter(framing, head.length, silent=silent)
        if body:
            data += writer.frame(body)
        if end:
            data += writer.finish([])
            self.ended = True
        await self._send(data)

    async def send(self, data: bytes) -> None:
        """Send more of the answer's body; see `ServerExchange`."""
        framed = self._body_writer().frame(data)
        if framed:
            await self._send(framed)

    async def end(self, trailers: Fields | None = None) -> None:
        """End the answer."""
        if self.ended:
            return
        last = self._body_writer().finish(trailers or [])
        self.ended = True
        if last:
            await self._send(last)

    async def upgrade(self, head: ResponseHead) -> Channel:
        """Answer with 101, and give the connection's bytes from then on."""
        if self._writer is not None or not self.head.upgrade:
            raise LocalProtocolError("nobody asked for another protocol, or the answer has begun already")
        self._writer = BodyWriter(BY_CLOSE, None)
        self._upgraded = self.ended = True
        self.keep_alive = False
        switched = ResponseHead(101, head.fields, 0, head.upgrade or self.head.upgrade)
        data, _ = render_response(
            switched, method=self.head.method, version=HTTP_11, persistence=Persistence.DEFAULT
        )
        await self._send(data)
        return UpgradedChannel(self._channel, self._connection.reader.take_rest())

    def reset(self, why: str) -> None:
        """Break the exchange; see `ServerExchange`."""
        self.keep_alive = False
        self._channel.abort()

    async def wait_gone(self) -> None:
        """Wait until the caller has given up on this exchange."""
        await self._channel.wait_broken()

    def _persistence(self) -> Persistence:
        if not self.keep_alive:
            return Persistence.CLOSE
        return _UNSAID if self.head.version is HTTP_11 else Persistence.KEEP_ALIVE

    def _body_writer(self) -> BodyWriter:
        if self._writer is None or self.ended:
            raise LocalProtocolError("the answer has not begun, or has ended")
        return self._writer

    async def _send(self, data: bytes) -> None:
        try:
            await self._channel.send(data)
        except ChannelBroken as broken:
            raise ExchangeBroken(str(broken)) from None

    def _ask_for_body(self) -> None:
        """Say 100 to who waits for it, before we wait for the body ourselves."""
        if self._awaited and self._writer is None:
            self._awaited = False
            self._channel.send_nowait(CONTINUE)

    def _drained(self) -> bool:
        """Whether the rest of the request's body is here, and out of the way of the next request."""
        incoming = self._incoming
        return incoming is None or incoming.discard_nowait(self._connection.limits.linger_bytes)


def _nothing() -> None:
    """Do nothing: a request's body that has ended changes nothing for its answer."""
