"""Our end of one stream of HTTP/2: the body that comes, and the content that goes."""

from typing import TYPE_CHECKING

from node_proxy.dataplane.http.exchange import Body
from node_proxy.dataplane.http.h2_body import Failure, H2Body
from node_proxy.dataplane.http.message import Fields
from node_proxy.dataplane.http.parking import Parking
from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel.http2 import CANCEL

if TYPE_CHECKING:
    from node_proxy.dataplane.http.h2_driver import H2Driver


class StreamEnd:
    """What exchanges of both ends have in common.

    Args:
        driver: the connection's.
        stream_id: 0 of a request that is not sent yet.
    """

    def __init__(self, driver: "H2Driver", stream_id: int) -> None:
        self.incoming = H2Body(driver, stream_id)
        self.body: Body = self.incoming
        self.stream_id = stream_id
        # Whether we have sent our whole message, and why we cannot send more.
        self.sent_end = False
        self.failure: Failure | None = None
        self._driver = driver
        self._room = Parking()
        # Content that is sent as the window opens, before all else, and whether the message ends with it.
        self._unsent = b""
        self._ends_with_it = False

    async def send(self, data: bytes) -> None:
        """Send more of our body; waits while the other side is behind. After cancellation, reset.

        Raises:
            ExchangeBroken, MessageRefused: it reads no more.
            LocalProtocolError: our message has ended.
        """
        if self.sent_end:
            raise LocalProtocolError("content after the end of the message")
        await self._wait_unsent()
        rest = memoryview(data)
        while rest:
            if self.failure is not None:
                raise self.failure
            if room := self._driver.sendable(self.stream_id):
                self._driver.protocol.send_data(self.stream_id, rest[:room], end=False)
                self._driver.flush()
                rest = rest[room:]
            else:
                await self._wait_turn()

    async def end(self, trailers: Fields = []) -> None:  # noqa: B006 - never changed
        """End our message.

        Raises:
            ExchangeBroken, MessageRefused: the other side is gone.
        """
        await self._wait_unsent()
        if self.sent_end:
            return
        if self.failure is not None:
            raise self.failure
        self._driver.protocol.send_end(self.stream_id, trailers)
        self._ended()

    def _send_first(self, body: bytes, *, end: bool) -> bytes:
        """Send with the head what the window allows; gives the rest. `end` if the body is whole with it."""
        if not body:
            self._driver.flush()
            return b""
        room = self._driver.sendable(self.stream_id)
        whole = end and len(body) <= room
        if room:
            self._driver.protocol.send_data(self.stream_id, body[:room], end=whole)
        if whole:
            self._ended()
        else:
            self._driver.flush()
        return body[room:]

    def _ended(self) -> None:
        self.sent_end = True
        self._driver.flush()
        self.forget_if_done()

    async def _wait_calm(self) -> None:
        """Wait while the connection's peer is behind: heads have no windows of their own."""
        while self._driver.congested and self.failure is None:
            await self._wait_turn()

    async def _wait_turn(self) -> None:
        self._driver.wait_in_line(self)
        try:
            await self._room.wait()
        finally:
            if not self._unsent:
                self._driver.leave_line(self)

    async def _wait_unsent(self) -> None:
        while self._unsent and self.failure is None:
            await self._wait_turn()

    def _send_later(self, data: bytes, *, end: bool) -> None:
        self._unsent, self._ends_with_it = data, end
        self._send_unsent()

    def _send_unsent(self) -> None:
        while self._unsent and (room := self._driver.sendable(self.stream_id)):
            data, self._unsent = self._unsent[:room], self._unsent[room:]
            whole = self._ends_with_it and not self._unsent
            self._driver.protocol.send_data(self.stream_id, data, end=whole)
            if whole:
                self._ended()
            else:
                self._driver.flush()
        if self._unsent:
            self._driver.wait_in_line(self)

    def _reset(self, code: int, failure: Failure) -> None:
        self._driver.protocol.reset_stream(self.stream_id, code)
        self._driver.forget(self.stream_id)
        self._driver.flush()
        self.broke(failure)

    def give_up(self, failure: Failure) -> None:
        """End the stream here and now."""
        self._reset(CANCEL, failure)

    # What the connection says.

    def may_send(self) -> None:
        """Go on sending."""
        if self._unsent:
            self._send_unsent()
        self._room.wake()

    def broke(self, failure: Failure) -> None:
        """Take note that the stream is gone."""
        self.failure = failure
        self._unsent = b""
        self.incoming.fail(failure)
        self._room.wake()

    def forget_if_done(self) -> None:
        """Let the connection forget a stream on which both messages are whole."""
        if self.sent_end and self.incoming.ended:
            self._driver.forget(self.stream_id)
