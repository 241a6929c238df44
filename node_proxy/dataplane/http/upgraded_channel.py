"""The channel of a connection that speaks another protocol from now on."""

from collections.abc import Callable

from node_proxy.dataplane.http.channel import Channel


class UpgradedChannel:
    """A `Channel` that gives first what was read too far, and is otherwise the one it stands for."""

    def __init__(self, channel: Channel, first_bytes: bytes) -> None:
        self._channel = channel
        self._first = first_bytes

    async def receive(self) -> bytes:
        """Give the next bytes; see `Channel`."""
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._channel.receive()

    def receive_nowait(self) -> bytes | None:
        """Give what is there; see `Channel`."""
        if self._first:
            first, self._first = self._first, b""
            return first
        return self._channel.receive_nowait()

    async def send(self, data: bytes) -> None:
        """Send everything; see `Channel`."""
        await self._channel.send(data)

    def send_nowait(self, data: bytes) -> bool:
        """Send or queue everything; see `Channel`."""
        return self._channel.send_nowait(data)

    def end(self) -> None:
        """Say that no more will be sent; see `Channel`."""
        self._channel.end()

    def close(self) -> None:
        """Let go of both directions; see `Channel`."""
        self._channel.close()

    def abort(self) -> None:
        """Reset both directions; see `Channel`."""
        self._channel.abort()

    @property
    def received(self) -> int:
        """How many bytes were received; see `Channel`."""
        return self._channel.received

    @property
    def sent(self) -> int:
        """How many bytes were sent; see `Channel`."""
        return self._channel.sent

    @property
    def quiet(self) -> bool:
        """Whether all that came was received, and both sides go on."""
        return not self._first and self._channel.quiet

    @property
    def broken(self) -> bool:
        """Whether the other side is known to be gone."""
        return self._channel.broken

    async def wait_broken(self) -> None:
        """Wait until the channel is reset; see `Channel`."""
        await self._channel.wait_broken()

    def when_broken(self, call: Callable[[], None]) -> None:
        """Call `call` when the channel is reset; see `Channel`."""
        self._channel.when_broken(call)
