"""What relays and connections see of a tunnel: windows, orders and answers, in the test's hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.handlers import StreamHandler

UNBOUNDED = 1 << 40
# What the largest frame of a real tunnel carries.
LARGEST_PAYLOAD = 65_527


@dataclass(eq=False)
class RelayTunnel:
    """A tunnel of which every order is noted. `window` is how much it still takes on any stream."""

    window: int = UNBOUNDED
    has_capacity: bool = True
    sent: bytearray = field(default_factory=bytearray)
    credited: list[tuple[int, bool]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    resets: list[tuple[int, int]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    refused: list[tuple[int, int, str]] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    said: list[tuple[bytes, bytes]] = field(default_factory=list)
    handlers: dict[int, StreamHandler] = field(default_factory=dict)
    waiting: dict[int, StreamHandler] = field(default_factory=dict)

    def as_tunnel(self) -> TunnelConnection:
        """Give it where a tunnel is wanted."""
        return cast("TunnelConnection", self)

    @property
    def credit(self) -> int:
        """How many bytes the peer may send again."""
        return sum(amount for amount, _ in self.credited)

    def open_window(self, amount: int) -> None:
        """Let `amount` more bytes go, and wake who waits for that."""
        self.window += amount
        waiting, self.waiting = self.waiting, {}
        for handler in waiting.values():
            handler.on_writable()

    def sendable(self, stream_id: int) -> int:
        """How much may go at once."""
        return min(self.window, LARGEST_PAYLOAD)

    def send_payload(self, stream_id: int, buffer: bytearray, length: int) -> None:
        """Note payload."""
        assert 0 < length <= self.sendable(stream_id)
        self.window -= length
        self.sent += buffer[FRAME_HEADER : FRAME_HEADER + length]

    def wait_writable(self, stream_id: int, handler: StreamHandler) -> None:
        """Note who waits."""
        self.waiting[stream_id] = handler

    def delivered(self, stream_id: int, amount: int, *, prompt: bool) -> None:
        """Note credit."""
        self.credited.append((amount, prompt))

    def end_stream(self, stream_id: int) -> None:
        """Note END_STREAM."""
        self.ended.append(stream_id)

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Note a reset, after which the handler hears nothing."""
        self.resets.append((stream_id, code))
        self.forget_stream(stream_id)

    def forget_stream(self, stream_id: int) -> None:
        """Let go of a handler."""
        self.forgotten.append(stream_id)
        self.handlers.pop(stream_id, None)
        self.waiting.pop(stream_id, None)

    def set_handler(self, stream_id: int, handler: StreamHandler) -> None:
        """Let another handler hear."""
        self.handlers[stream_id] = handler

    def open_stream(
        self, authority: str, handler: StreamHandler, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> int:
        """Note a request."""
        self.opened.append(authority)
        self.said.extend(headers)
        stream_id = 2 * len(self.opened) - 1
        self.handlers[stream_id] = handler
        return stream_id

    def accept_stream(self, stream_id: int) -> None:
        """Note an acceptance."""
        self.accepted.append(stream_id)

    def refuse_stream(self, stream_id: int, status: int, reason: str) -> None:
        """Note a refusal."""
        self.refused.append((stream_id, status, reason))
        self.handlers.pop(stream_id, None)
