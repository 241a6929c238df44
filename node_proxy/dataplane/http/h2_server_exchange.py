"""A request that came over HTTP/2."""

from typing import TYPE_CHECKING

import trio

from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h2_body import Failure
from node_proxy.dataplane.http.h2_server_protocol import ServerProtocol
from node_proxy.dataplane.http.h2_stream_end import StreamEnd
from node_proxy.dataplane.http.h2_streams import INTERNAL_ERROR
from node_proxy.dataplane.http.message import RequestHead, ResponseHead, has_no_body
from node_proxy.dataplane.http.parking import Parking
from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel.http2 import NO_ERROR

if TYPE_CHECKING:
    from node_proxy.dataplane.http.h2_driver import H2Driver


class H2ServerExchange(StreamEnd):
    """A `ServerExchange`. `scope` is cancelled when the caller is gone."""

    def __init__(
        self, driver: "H2Driver", protocol: ServerProtocol, stream_id: int, head: RequestHead
    ) -> None:
        super().__init__(driver, stream_id)
        self._protocol = protocol
        self.head = head
        self.scope = trio.CancelScope()
        self.responded = False
        self._is_gone = False
        self._gone = Parking()
        # Whether the answer has no body whatever the handler sends.
        self._bodiless = False
        if head.expects_continue:
            self.incoming.ask_first(self._continue)

    async def inform(self, head: ResponseHead) -> None:
        """Send an informational answer."""
        await self._wait_calm()
        if self.failure is None and not self.responded:
            self._protocol.send_response(self.stream_id, head, end=False)
            self._driver.flush()

    def _continue(self) -> None:
        if not self.responded:
            self._protocol.send_response(self.stream_id, ResponseHead(100), end=False)
            self._driver.flush()

    async def respond(self, head: ResponseHead, body: bytes = b"", *, end: bool = False) -> None:
        """Send the answer's head and the first bytes of its body, which is whole with these if `end`.

        Raises:
            ExchangeBroken: the caller is gone.
            LocalProtocolError: there was an answer already.
        """
        if self.responded:
            raise LocalProtocolError("a second answer")
        await self._wait_calm()
        if self.failure is not None:
            raise self.failure
        self.responded = True
        self._bodiless = has_no_body(self.head.method, head.status)
        nothing_follows = self._bodiless or (end and not body)
        self._protocol.send_response(self.stream_id, head, end=nothing_follows)
        if nothing_follows:
            self._ended()
        elif rest := self._send_first(body, end=end):
            await super().send(rest)
            if end:
                await super().end()

    async def send(self, data: bytes) -> None:
        """Send more of the answer's body; waits while the caller is behind.

        Raises:
            ExchangeBroken: the caller is gone.
        """
        if not self._bodiless:
            await super().send(data)

    async def upgrade(self, head: ResponseHead) -> Channel:
        """Not of HTTP/2: no request that came this way asks for it."""
        raise LocalProtocolError("HTTP/2 has no upgrade")

    def reset(self, why: str) -> None:
        """Break the exchange so that the caller cannot take what it has for a whole answer."""
        if not self.sent_end and self.failure is None:
            self._reset(INTERNAL_ERROR, ExchangeBroken(why, by_peer=False))

    async def wait_gone(self) -> None:
        """Wait until the caller has given up on this exchange."""
        while not self._is_gone:
            await self._gone.wait()

    def finish(self) -> None:
        """Leave nothing open behind a handler that has returned."""
        if not self.sent_end:
            self.reset("no whole answer was given")
        elif not self.incoming.ended and self.failure is None:
            # RFC 9113 section 8.1: the answer is whole, and the rest of the request interests nobody.
            self._reset(NO_ERROR, ExchangeBroken("the answer is whole", by_peer=False))
        self.incoming.drop()

    # What the connection says.

    def broke(self, failure: Failure) -> None:
        """Take note that the caller is gone."""
        super().broke(failure)
        if isinstance(failure, MessageRefused) or failure.by_peer:
            self._is_gone = True
            self._gone.wake()
            self.scope.cancel()
