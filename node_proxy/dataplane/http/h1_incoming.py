"""A body of HTTP/1.1 as it comes from a channel."""

from collections.abc import Callable

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h1_reader import MessageReader
from node_proxy.dataplane.http.message import Fields


class NoBody:
    """The `Body` of a message that has none."""

    async def receive(self) -> bytes:
        """Give the end."""
        return b""

    def receive_nowait(self) -> bytes | None:
        """Give the end."""
        return b""

    @property
    def trailers(self) -> Fields:
        """Give none."""
        return []


NO_BODY = NoBody()


class WholeBody:
    """A `Body` that was there with its head."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive(self) -> bytes:
        """Give it, and then the end."""
        return self.receive_nowait()

    def receive_nowait(self) -> bytes:
        """Give it, and then the end."""
        data, self._data = self._data, b""
        return data

    @property
    def trailers(self) -> Fields:
        """Give none."""
        return []


class IncomingBody:
    """A `Body` whose bytes are read from the connection when they are asked for.

    Args:
        reader: has read the message's head.
        channel: feeds the reader.
        before_waiting: called before each wait for bytes.
        on_ended: called once, when the end has been given or will never be.
    """

    def __init__(
        self,
        reader: MessageReader,
        channel: Channel,
        *,
        before_waiting: Callable[[], None],
        on_ended: Callable[[], None],
    ) -> None:
        self.trailers: Fields = []
        self._reader = reader
        self._channel = channel
        self._before_waiting = before_waiting
        self._on_ended = on_ended
        self._ended = False
        self._discarded = False
        self._failure: MessageRefused | ExchangeBroken | None = None

    async def receive(self) -> bytes:
        """Give the next bytes; see `Body`."""
        while True:
            self._check_wanted()
            data = self._next()
            if data is not None:
                return data
            try:
                self._before_waiting()
                self._reader.feed(await self._channel.receive())
            except ChannelBroken as broken:
                raise self._failed(ExchangeBroken(str(broken))) from None

    def receive_nowait(self) -> bytes | None:
        """Give what is there; see `Body`."""
        self._check_wanted()
        return self._receive_nowait()

    def discard_nowait(self, most: int) -> bool:
        """Read over the rest as far as it is there, `most` bytes and a piece; gives whether that was all.

        Whoever reads on meanwhile is told that the body broke: it lacks what was dropped here, and must not
        take what it has for the whole.

        Raises:
            MessageRefused: the rest is none.
        """
        while most > 0:
            try:
                data = self._receive_nowait()
            except ExchangeBroken:
                return False
            if not data:
                return data is not None
            self._discarded = True
            most -= len(data)
        return False

    def _check_wanted(self) -> None:
        if self._discarded:
            raise ExchangeBroken("the rest of the body was dropped", by_peer=False)

    def _receive_nowait(self) -> bytes | None:
        data = self._next()
        if data is not None:
            return data
        try:
            came = self._channel.receive_nowait()
        except ChannelBroken as broken:
            raise self._failed(ExchangeBroken(str(broken))) from None
        if came is None:
            return None
        self._reader.feed(came)
        return self._next()

    def _next(self) -> bytes | None:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return b""
        try:
            data = self._reader.next_body()
        except (MessageRefused, ExchangeBroken) as failure:
            raise self._failed(failure) from None
        if self._reader.body_ended:
            # Its last bytes and its end are known together; whoever waits for the connection need not
            # wait until somebody asks once more.
            self._end()
        return data

    def _failed(self, failure: MessageRefused | ExchangeBroken) -> MessageRefused | ExchangeBroken:
        self._failure = failure
        self._end()
        return failure

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            # The reader goes on with the next message.
            self.trailers = self._reader.trailers
            # Exchange and body would hold each other, and only the garbage collector could free them.
            on_ended, self._on_ended, self._before_waiting = self._on_ended, _nothing, _nothing
            on_ended()


def _nothing() -> None:
    """Do nothing: the body has ended."""
