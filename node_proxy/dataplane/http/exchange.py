"""One request and its answer, as seen by who answers and by who asks; the same for HTTP/1.1 and HTTP/2.

`serve_…` functions of the server connections call a `Handler` for each request; client connections give a
`ClientExchange` for each. Bodies are streams with backpressure: who does not receive holds up who sends.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead
from node_proxy.errors import NodeProxyError


class MessageRefused(NodeProxyError):
    """The other side sent what is no HTTP, or more than the limits allow.

    Args:
        status: what a server answers: 400, 408, 413, 414, 431, 501, 505.
        reason: a code of a closed set, as ``bad_framing``, for logs and metrics.
        detail: what was wrong, without the offending bytes.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail


class ExchangeBroken(NodeProxyError):
    """The exchange ended before its answer did.

    Args:
        why: for people.
        untouched: whether the other side surely did nothing with the request: nothing of it was sent, or it
            was refused unseen (REFUSED_STREAM, GOAWAY). Another try is safe whatever the method.
        by_peer: whether the other side ended it, rather than its silence or this side.
    """

    def __init__(self, why: str, *, untouched: bool = False, by_peer: bool = True) -> None:
        super().__init__(why)
        self.untouched = untouched
        self.by_peer = by_peer


class Body(Protocol):
    """A message's body, read once."""

    async def receive(self) -> bytes:
        """Give the next bytes; empty at the end, and ever after.

        Raises:
            ExchangeBroken, MessageRefused: it will never be whole. Cancellation loses nothing.
        """

    def receive_nowait(self) -> bytes | None:
        """Give what is there already; None when nothing is, empty at the end."""

    @property
    def trailers(self) -> Fields:
        """The fields after it; complete when `receive` has given the end."""


class ServerExchange(Protocol):
    """A request that came to us. Exactly one final answer is given, or it is reset."""

    head: RequestHead
    body: Body

    async def inform(self, head: ResponseHead) -> None:
        """Send an informational answer (1xx but 101), if the caller's version has them."""

    async def respond(self, head: ResponseHead, body: bytes = b"", *, end: bool = False) -> None:
        """Send the answer's head and the first bytes of its body, which is whole with these if `end`.

        A request that waits for 100 sends its body only after `inform`, or when `body.receive` is called.
        """

    async def send(self, data: bytes) -> None:
        """Send more of the answer's body; waits while the caller is behind.

        Raises:
            ExchangeBroken: the caller is gone.
        """

    async def end(self, trailers: Fields = ...) -> None:
        """End the answer."""

    async def upgrade(self, head: ResponseHead) -> Channel:
        """Answer with 101, and give the connection's bytes from then on. HTTP/1.1 only."""

    def reset(self, why: str) -> None:
        """Break the exchange so that the caller cannot take what it has for a whole answer."""

    @property
    def responded(self) -> bool:
        """Whether a final answer has begun."""

    async def wait_gone(self) -> None:
        """Wait until the caller has given up on this exchange."""


Handler = Callable[[ServerExchange], Awaitable[None]]


class ClientExchange(Protocol):
    """A request of ours, whose head is sent."""

    body: Body

    async def send(self, data: bytes) -> None:
        """Send more of the request's body; waits while the other side is behind.

        Raises:
            ExchangeBroken: it reads no more. An answer may be there all the same: ask `response`.
        """

    async def end(self, trailers: Fields = ...) -> None:
        """End the request."""

    async def response(self) -> ResponseHead:
        """Wait for the next head: of an informational answer (again and again), or of the answer.

        Raises:
            ExchangeBroken, MessageRefused: there will be none.
        """

    def upgraded(self) -> Channel:
        """Give the connection's bytes after a 101."""

    def reset(self, why: str) -> None:
        """Give up; harmless when both sides have ended."""


class ClientConnection(Protocol):
    """A connection to one workload, used for one request at a time (HTTP/1.1) or for many (HTTP/2)."""

    @property
    def room(self) -> int:
        """How many more requests it takes now; 0 once it is closing or broken."""

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""

    async def request(self, head: RequestHead, body: bytes = b"", *, end: bool) -> ClientExchange:
        """Send a head and the first bytes of its body, which is whole with these if `end`. Needs `room`.

        Raises:
            ExchangeBroken: the connection is gone.
        """

    def close(self) -> None:
        """Close when nothing is in flight any more; take no more requests."""
