"""Two ends of one tunnel's stream without the tunnel: windows and orders, delivered at once."""

from typing import cast

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.stream_channel import StreamChannel
from node_proxy.dataplane.relay import READ_SIZE
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.handlers import StreamHandler

WINDOW = 256 * 1024
STREAM = 1
LARGEST_PAYLOAD = 65_527


class StreamEnd:
    """What a `StreamChannel` sees of its tunnel; the other end hears of every order within the call."""

    def __init__(self) -> None:
        self.other: StreamEnd
        self.channel = StreamChannel(
            cast("TunnelConnection", self),
            STREAM,
            backlog=Backlog(),
            buffer=bytearray(FRAME_HEADER + READ_SIZE),
        )
        self.window = WINDOW
        self.open = True
        self._waiting: StreamHandler | None = None

    def sendable(self, stream_id: int) -> int:
        """How much may go at once."""
        return min(self.window, LARGEST_PAYLOAD) if self.open else 0

    def send_payload(self, stream_id: int, buffer: bytearray, length: int) -> None:
        """Hand payload to the other end."""
        assert 0 < length <= self.sendable(stream_id)
        self.window -= length
        self.other.channel.on_data(memoryview(buffer)[FRAME_HEADER : FRAME_HEADER + length])

    def wait_writable(self, stream_id: int, handler: StreamHandler) -> None:
        """Note who waits."""
        self._waiting = handler

    def delivered(self, stream_id: int, amount: int, *, prompt: bool) -> None:
        """Let the other end send as much again."""
        other = self.other
        other.window += amount
        assert other.window <= WINDOW
        handler, other._waiting = other._waiting, None
        if handler is not None and other.open:
            handler.on_writable()

    def end_stream(self, stream_id: int) -> None:
        """Tell the other end that no more comes."""
        if self.open:
            self.other.channel.on_ended()

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Tell the other end that the stream is gone."""
        if self.open:
            self.open = self.other.open = False
            self.other.channel.on_reset(code)

    def forget_stream(self, stream_id: int) -> None:
        """Let go: both ends are done."""


def stream_channels() -> tuple[StreamChannel, StreamChannel]:
    """Give channels over both ends of one stream."""
    near, far = StreamEnd(), StreamEnd()
    near.other, far.other = far, near
    return near.channel, far.channel
