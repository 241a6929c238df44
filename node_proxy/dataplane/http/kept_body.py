"""A request's body on its way through: what was read of it is kept while it may have to be sent again.

A body that was not kept whole is never sent twice. What is kept is bounded for each request, and for all of a
worker's together: beyond that requests go through as before and are just not tried again.
"""

from typing import Final

from node_proxy.dataplane.http.exchange import Body, ClientExchange, ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.hygiene import clean_trailers

# What calls of APIs send; uploads are larger, and whoever sends them waits long enough to try again itself.
MAX_KEPT: Final = 64 * 1024
# A thousand requests whose bodies are kept at the same time.
MAX_KEPT_BY_WORKER: Final = 16 * 1024 * 1024


class KeptBytes:
    """How much all requests of a worker keep; `refusals` counts those that were over the limit."""

    def __init__(self, limit: int = MAX_KEPT_BY_WORKER) -> None:
        self.total = 0
        self.refusals = 0
        self._limit = limit

    def take(self, amount: int) -> bool:
        """Keep so much more, if there is room."""
        if self.total + amount > self._limit:
            self.refusals += 1
            return False
        self.total += amount
        return True

    def give(self, amount: int) -> None:
        """Let go of so much."""
        self.total -= amount


class KeptBody:
    """One request's body.

    Args:
        body: as it comes from the caller.
        length: of all of it; None when only its end will tell.
        room: the worker's.
    """

    __slots__ = ("_body", "_kept", "_length", "_over", "_paid", "_room", "failure", "lost", "whole")

    def __init__(self, body: Body, length: int | None, room: KeptBytes) -> None:
        self._body = body
        self._length = length
        self._room = room
        self._kept = bytearray()
        self._paid = 0
        # Whether more was read than may be kept: it is sent once, and then forgotten.
        self._over = False
        # Whether its end has been read, and whether something was read that is no longer kept.
        self.whole = length == 0
        self.lost = False
        # What broke it on the caller's side.
        self.failure: ExchangeBroken | MessageRefused | None = None

    @property
    def is_small(self) -> bool:
        """Whether all of it will surely fit what may be kept."""
        return self._length is not None and self._length <= MAX_KEPT

    @property
    def ends_with_head(self) -> bool:
        """Whether what `begin` gives is all that there is to send: the body is whole and has no trailers."""
        return self.whole and not self._body.trailers

    def begin(self) -> bytes:
        """Give what was read, to be sent with the head. Needs that nothing is `lost`."""
        ready = bytes(self._kept)
        if self._over:
            self.forget()
        return ready

    def read_nowait(self) -> None:
        """Keep what is there already, as far as it fits.

        Raises:
            ExchangeBroken, MessageRefused: the body will never be whole.
        """
        while not (self.whole or self._over):
            data = self._body.receive_nowait()
            if data is None:
                return
            self._keep(data)

    async def read_small(self) -> None:
        """Wait for all of a body that is small, unless there is no room to keep it.

        Raises:
            ExchangeBroken, MessageRefused: it will never be whole. Cancellation loses nothing.
        """
        while not (self.whole or self._over):
            self._keep(await self._body.receive())

    async def send_rest(self, client: ClientExchange) -> None:
        """Send what follows as it comes, and the end; a failure of either side resets `client`.

        Cancellation loses nothing that the caller sent.
        """
        try:
            while not self.whole:
                try:
                    data = await self._body.receive()
                except (ExchangeBroken, MessageRefused) as error:
                    self.failure = error
                    client.reset("the caller's request broke")
                    return
                self._keep(data)
                if self._over:
                    self.forget()
                if data:
                    await client.send(data)
            await client.end(clean_trailers(self._body.trailers))
        except ExchangeBroken:
            # It reads no more; what its answer is, or why there is none, `response` tells.
            return

    def copy(self) -> "KeptBody | None":
        """Give the same body once more; None unless it is whole, kept, and without trailers."""
        if not self.ends_with_head or self.lost or not self._room.take(len(self._kept)):
            return None
        twin = KeptBody(self._body, self._length, self._room)
        twin._kept, twin._paid, twin.whole = bytearray(self._kept), len(self._kept), True
        return twin

    def forget(self) -> None:
        """Keep nothing any more; if there was anything, it cannot be sent again."""
        self._room.give(self._paid)
        self._paid = 0
        self.lost = self.lost or bool(self._kept)
        self._kept.clear()

    def _keep(self, data: bytes) -> None:
        if not data:
            self.whole = True
        elif not self.lost:
            # Even if it is too much: it was read, and has to be sent at least once.
            self._kept += data
            if len(self._kept) <= MAX_KEPT and self._room.take(len(data)):
                self._paid += len(data)
            else:
                self._over = True
