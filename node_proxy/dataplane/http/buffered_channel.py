"""What the channels have in common: what came and waits to be received, who waits, and how it ends."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import trio

from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.inbox import Inbox
from node_proxy.dataplane.http.parking import Parking

# Who sends is held up while more than this has not left.
SEND_AHEAD = 64 * 1024


class BufferedChannel(ABC):
    """A `Channel` but for its far side, which the classes below speak to."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self._inbox = Inbox()
        # The other side has ended: after what is in the inbox there is no more.
        self._ended_in = False
        # `end` or `close` was said here.
        self._ended_out = False
        # Why nothing can be sent any more; empty while it can.
        self._why = ""
        self._receiver = Parking()
        self._sender = Parking()
        self._calls: tuple[Callable[[], None], ...] = ()

    # Receiving.

    async def receive(self) -> bytes:
        """Give the next bytes; see `Channel`."""
        while True:
            data = self.receive_nowait()
            if data is not None:
                return data
            await self._receiver.wait()

    def receive_nowait(self) -> bytes | None:
        """Give what is there; see `Channel`."""
        if self._inbox.size:
            data = self._inbox.take()
            self.received += len(data)
            self._taken(len(data))
            return data
        if self._ended_in:
            return b""
        if self._why:
            raise ChannelBroken(self._why)
        return None

    # Sending.

    async def send(self, data: bytes) -> None:
        """Send everything; see `Channel`."""
        if self.send_nowait(data):
            return
        while self._unsent > SEND_AHEAD:
            await self._sender.wait()
            if self._why:
                raise ChannelBroken(self._why)

    def send_nowait(self, data: bytes) -> bool:
        """Send or queue everything; see `Channel`."""
        if self._why:
            raise ChannelBroken(self._why)
        if self._ended_out:
            raise ChannelBroken("this side has ended")
        if data:
            self.sent += len(data)
            self._write(data)
        return self._unsent <= SEND_AHEAD

    # Its end.

    @property
    def quiet(self) -> bool:
        """Whether all that came was received, and both sides go on."""
        return not (self._inbox.size or self._ended_in or self._ended_out or self._why)

    @property
    def broken(self) -> bool:
        """Whether the other side is known to be gone."""
        return bool(self._why)

    async def wait_broken(self) -> None:
        """Wait until the channel is reset; see `Channel`."""
        event = trio.Event()
        self.when_broken(event.set)
        await event.wait()

    def when_broken(self, call: Callable[[], None]) -> None:
        """Call `call` when the channel is reset; see `Channel`."""
        if self._why:
            call()
        else:
            self._calls += (call,)

    def _break(self, why: str) -> None:
        """Note that nothing can be sent any more, and tell everybody who must know."""
        if self._why:
            return
        self._why = why
        calls, self._calls = self._calls, ()
        self._receiver.wake()
        self._sender.wake()
        for call in calls:
            call()

    # What the classes below do.

    @property
    @abstractmethod
    def _unsent(self) -> int:
        """How many bytes were given to `send` and have not left."""

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Send what the far side takes now, queue the rest."""

    @abstractmethod
    def _taken(self, amount: int) -> None:
        """Let the far side send more: `amount` bytes were received here."""
