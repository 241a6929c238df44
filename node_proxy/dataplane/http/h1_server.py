"""The server's end of HTTP/1.1 over a channel."""

import contextlib
import math
from collections.abc import Callable

import trio

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, Handler, MessageRefused
from node_proxy.dataplane.http.h1_exchange import H1ServerExchange
from node_proxy.dataplane.http.h1_head import ParsedRequest
from node_proxy.dataplane.http.h1_reader import RequestReader
from node_proxy.dataplane.http.h1_writer import Persistence, render_response
from node_proxy.dataplane.http.limits import HEAD_TIMEOUT, HttpLimits
from node_proxy.dataplane.http.message import ResponseHead, Version
from node_proxy.dataplane.http.timers import MOMENT, Timers
from node_proxy.dataplane.reason import BAD_REQUEST, TIMEOUT, TOO_LARGE, Reason, render_reason

_REASONS = {408: TIMEOUT, 413: TOO_LARGE, 414: TOO_LARGE, 431: TOO_LARGE}


async def serve_h1(
    channel: Channel,
    handler: Handler,
    *,
    limits: HttpLimits,
    timers: Timers,
    draining: Callable[[], bool],
    first_bytes: bytes = b"",
    on_refused: Callable[[MessageRefused], None],
) -> None:
    """Serve one HTTP/1.1 connection until it ends, one request after the other, in the calling task.

    Returns when the connection is over; never raises for what the other side does. The channel is closed
    whatever happens. Cancellation resets what is open. A handler is cancelled when the caller resets the
    connection; a caller that only ends its sending is still answered.

    Args:
        channel: where the connection is.
        handler: answers one request; one that returns without a whole answer breaks the connection.
        limits: what callers may do.
        timers: the worker's; ends connections that are idle, or take too long over a head.
        draining: whether this proxy takes no new requests; then answers say ``connection: close``.
        first_bytes: what was read from the channel already.
        on_refused: hears what was no HTTP, or beyond the limits.
    """
    connection = _Connection(
        channel,
        RequestReader(limits, first_bytes),
        handler,
        limits=limits,
        timers=timers,
        draining=draining,
        on_refused=on_refused,
    )
    await connection.serve()


class _Connection:
    """One connection, and what its `Timers` watch."""

    def __init__(
        self,
        channel: Channel,
        reader: RequestReader,
        handler: Handler,
        *,
        limits: HttpLimits,
        timers: Timers,
        draining: Callable[[], bool],
        on_refused: Callable[[MessageRefused], None],
    ) -> None:
        self.channel = channel
        self.reader = reader
        self.limits = limits
        self._handler = handler
        self._timers = timers
        self._draining = draining
        self._on_refused = on_refused
        self._scope = trio.CancelScope()
        # When a request has been waited for long enough; infinity while one is answered.
        self._expires = timers.now() + limits.head_seconds
        self._expired = False
        self._moment = timers.begin(self, self._expires)

    @property
    def leaving(self) -> bool:
        """Whether the connection takes no more requests after this one."""
        return self._draining()

    def due(self, now: float) -> float:
        """Give up a caller that has nothing more to say, or says it too slowly; see `Timed`.

        Looked at now and then, and closely only when it is near: to move it for each request would cost more.
        """
        if now + MOMENT >= self._expires:
            self._expired = True
            self._scope.cancel()
        else:
            self._moment = self._timers.begin(self, min(self._expires, now + self.limits.head_seconds))
        return math.inf

    async def serve(self) -> None:
        """Serve until the connection ends."""
        self.channel.when_broken(self._scope.cancel)
        whole = False
        try:
            with self._scope:
                while await self._serve_one():
                    pass
                whole = True
            if self._expired:
                self._answer_late()
                whole = True
        except MessageRefused as refused:
            self._refuse(refused)
            whole = True
        except (ExchangeBroken, ChannelBroken):
            # The caller is gone, or broke off its own request: nobody is left to be told.
            pass
        finally:
            self._timers.end(self, self._moment)
            if not whole:
                self.channel.abort()
        await self._leave()

    async def _serve_one(self) -> bool:
        """Serve one request; gives whether another may follow."""
        parsed = await self._next_request()
        if parsed is None:
            return False
        exchange = H1ServerExchange(self, parsed)
        try:
            await self._handler(exchange)
            if exchange.ended:
                return exchange.takes_another()
        except MessageRefused as refused:
            if not exchange.responded:
                raise
            self._on_refused(refused)
        # The caller must not take what it has for a whole answer.
        self.channel.abort()
        return False

    async def _next_request(self) -> ParsedRequest | None:
        """Wait for a request; None when none will come."""
        reader, limits = self.reader, self.limits
        began = False
        while (parsed := reader.next_request()) is None:
            if reader.ended:
                return None
            if not began:
                began = reader.buffered > 0
                if began or self._expires == math.inf:
                    patience = limits.head_seconds if began else limits.idle_seconds
                    self._expires = self._timers.now() + patience
            reader.feed(await self.channel.receive())
            if self._expired:
                # Both in one moment; what has just been read gets no answer, as if it had come later.
                return None
        self._expires = math.inf
        return parsed

    def _answer_late(self) -> None:
        if self.reader.buffered:
            seconds = f"{self.limits.head_seconds:.0f} s"
            self._refuse(MessageRefused(408, HEAD_TIMEOUT, f"the header was not there within {seconds}"))

    def _refuse(self, refused: MessageRefused) -> None:
        """Answer what was no request; whatever follows it is not looked at."""
        self._on_refused(refused)
        text = f"{refused.detail}\n".encode()
        reason = Reason(_REASONS.get(refused.status, BAD_REQUEST))
        fields = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"nodemesh-reason", render_reason(reason).encode()),
        ]
        data, _ = render_response(
            ResponseHead(refused.status, fields, len(text)),
            method=b"GET",
            version=Version.HTTP_11,
            persistence=Persistence.CLOSE,
        )
        with contextlib.suppress(ChannelBroken):
            self.channel.send_nowait(data + text)

    async def _leave(self) -> None:
        """Close; while the caller may still be sending, only when it has had time to read its last answer."""
        try:
            if not self.channel.broken and (self.reader.buffered or not self.reader.body_ended):
                self.channel.end()
                with trio.move_on_after(self.limits.linger_seconds):
                    await self._discard()
        finally:
            self.channel.close()

    async def _discard(self) -> None:
        left = self.limits.linger_bytes
        while left > 0:
            try:
                data = await self.channel.receive()
            except ChannelBroken:
                return
            if not data:
                return
            left -= len(data)
