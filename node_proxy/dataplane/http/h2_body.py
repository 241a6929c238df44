"""The body that comes on a stream of HTTP/2."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.inbox import Inbox
from node_proxy.dataplane.http.message import Fields
from node_proxy.dataplane.http.parking import Parking

if TYPE_CHECKING:
    from node_proxy.dataplane.http.h2_driver import H2Driver

Failure = ExchangeBroken | MessageRefused


class H2Body:
    """A `Body` of a stream; what was received of it is credited to the peer."""

    __slots__ = (
        "_arrival",
        "_before_waiting",
        "_driver",
        "_inbox",
        "_prompt",
        "ended",
        "failure",
        "stream_id",
        "trailers",
    )

    def __init__(self, driver: "H2Driver", stream_id: int) -> None:
        self.stream_id = stream_id
        self.trailers: Fields = []
        self.ended = False
        self.failure: Failure | None = None
        self._driver = driver
        self._inbox = Inbox()
        self._arrival = Parking()
        # Whether the reader had waited for what is there now.
        self._prompt = False
        self._before_waiting: Callable[[], None] | None = None

    def ask_first(self, ask: Callable[[], None]) -> None:
        """Call `ask` once before anybody waits for the body."""
        self._before_waiting = ask

    async def receive(self) -> bytes:
        """Give the next bytes; empty at the end, and ever after.

        Raises:
            ExchangeBroken, MessageRefused: it will never be whole. Cancellation loses nothing.
        """
        while (data := self.receive_nowait()) is None:
            if self._before_waiting is not None:
                ask, self._before_waiting = self._before_waiting, None
                ask()
            await self._arrival.wait()
        return data

    def receive_nowait(self) -> bytes | None:
        """Give what is there already; None when nothing is, empty at the end.

        Raises:
            ExchangeBroken, MessageRefused: it will never be whole.
        """
        if self._inbox.size:
            data = self._inbox.take()
            self._driver.backlog.shrank(self, len(data))
            prompt, self._prompt = self._prompt, False
            self._driver.protocol.delivered(self.stream_id, len(data), prompt=prompt)
            self._driver.flush()
            return data
        if self.ended:
            return b""
        if self.failure is not None:
            raise self.failure
        return None

    # What the connection says.

    def put(self, data: bytes) -> None:
        """Take bytes that came; this may cut the stream."""
        self._before_waiting = None
        if self._arrival.occupied:
            self._prompt = True
        self._inbox.put(data)
        self._arrival.wake()
        self._driver.backlog.grew(self, len(data))

    def finish(self, trailers: Fields) -> None:
        """Take the end."""
        self._before_waiting = None
        self.trailers = trailers
        self.ended = True
        self._arrival.wake()

    def drop(self, why: str = "the rest of the body was dropped") -> None:
        """Let go of what came and was not received; whoever reads on is told that there is no whole."""
        if self._inbox.size:
            self._inbox.clear()
            self.ended = False
            self.fail(ExchangeBroken(why, by_peer=False))
        self._driver.backlog.forget(self)

    def cut(self, outcome: str) -> None:
        """Break off, since what waits here is more than the worker can keep; see `Holder`."""
        self.drop(outcome)
        self._driver.cut(self.stream_id, ExchangeBroken(outcome, by_peer=False))

    def fail(self, failure: Failure) -> None:
        """Say that no more will come; what came is still given."""
        if not self.ended:
            self._before_waiting = None
            self.failure = failure
            self._arrival.wake()
