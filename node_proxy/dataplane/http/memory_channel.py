"""Two channels that are each other's far side: a call that stays on this host, and tests."""

from node_proxy.dataplane.http.buffered_channel import SEND_AHEAD, BufferedChannel
from node_proxy.dataplane.http.channel import ChannelBroken

# The two ends are one thing, and know each other's insides.
# ruff: noqa: SLF001


class MemoryChannel(BufferedChannel):
    """One end; what is sent here is in the other's inbox at once. Behaves as a socket on loopback does."""

    # Set by `memory_channels`; None once either end has let go, since two that held each other for ever would
    # wait for the garbage collector.
    far: "MemoryChannel | None" = None

    def end(self) -> None:
        """Say that no more will be sent; see `Channel`."""
        if not self._ended_out:
            self._ended_out = True
            if self.far is not None:
                self.far._ended_in = True
                self.far._receiver.wake()

    def close(self) -> None:
        """Let go of both directions; see `Channel`."""
        self.end()
        far = self._part()
        if far is not None and (self._inbox.size or far._sender.occupied):
            # Who sends to one that has closed is told so; one that does not send need not care.
            far._break("the other side has closed")
        self._inbox.clear()
        self._break("closed here")

    def abort(self) -> None:
        """Reset both directions; see `Channel`."""
        far = self._part()
        if far is not None:
            far._break("reset by the other side")
        self._inbox.clear()
        self._break("aborted here")

    @property
    def _unsent(self) -> int:
        return self.far._inbox.size if self.far is not None else 0

    def _write(self, data: bytes) -> None:
        if self.far is None:
            self._break("the other side has closed")
            raise ChannelBroken(self._why)
        self.far._inbox.put(data)
        self.far._receiver.wake()

    def _taken(self, amount: int) -> None:
        if self.far is not None and self._inbox.size <= SEND_AHEAD:
            self.far._sender.wake()

    def _part(self) -> "MemoryChannel | None":
        """Let both ends forget each other; gives the other one, unless it had left."""
        far, self.far = self.far, None
        if far is not None:
            far.far = None
        return far


def memory_channels() -> tuple[MemoryChannel, MemoryChannel]:
    """Give both ends of a duplex stream in memory; backpressure is that of a socket with small buffers."""
    near, far = MemoryChannel(), MemoryChannel()
    near.far, far.far = far, near
    return near, far
