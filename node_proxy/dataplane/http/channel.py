"""A duplex stream of bytes, as HTTP connections see it: a socket, a tunnel's stream, or memory."""

from collections.abc import Callable
from typing import Protocol

from node_proxy.errors import NodeProxyError


class ChannelBroken(NodeProxyError):
    """The other side reset the channel, or it was aborted here."""


class Channel(Protocol):
    """Two directions that end each by itself. One task may receive and one send at a time."""

    @property
    def received(self) -> int:
        """How many bytes were received."""

    @property
    def sent(self) -> int:
        """How many bytes were given to `send`."""

    async def receive(self) -> bytes:
        """Give the next bytes, at most some 64 KiB; empty at the end.

        The sender's credit is given back by this call alone, so that whoever does not call it holds it up.

        Raises:
            ChannelBroken: the channel was reset. Cancellation loses nothing.
        """

    def receive_nowait(self) -> bytes | None:
        """Give what is there already; None when nothing is, empty at the end.

        Raises:
            ChannelBroken: the channel was reset.
        """

    async def send(self, data: bytes) -> None:
        """Send everything; waits while the other side is more than a buffer behind.

        Raises:
            ChannelBroken: the channel was reset, or ended here. After cancellation `data` counts as sent.
        """

    def send_nowait(self, data: bytes) -> bool:
        """Send or queue everything at once; gives whether more may follow without waiting in `send`.

        Raises:
            ChannelBroken: the channel was reset, or ended here.
        """

    def end(self) -> None:
        """Say that no more will be sent, once what is queued is; the other direction goes on."""

    def close(self) -> None:
        """Let go of both directions; what is queued is still sent if it can be. Closing twice is harmless."""

    def abort(self) -> None:
        """Reset both directions now. Harmless after a close."""

    @property
    def quiet(self) -> bool:
        """Whether all that came was received, and neither side has ended or broken off."""

    @property
    def broken(self) -> bool:
        """Whether the other side is known to be gone: `send` would raise."""

    async def wait_broken(self) -> None:
        """Wait until the channel is reset by the other side; an orderly end of its sending is none.

        It returns, too, when the channel is closed or aborted here.
        """

    def when_broken(self, call: Callable[[], None]) -> None:
        """Call `call` once, inline, when `wait_broken` would return; at once if it would already.

        For who watches many channels: a task for each would cost more than what it watches.
        """
