"""Flow-control credit of one stream, and the budget that bounds all of them. Pure.

A stream's window starts at 256 KiB and doubles, up to 4 MiB, each time its reader has promptly taken
two windows' worth; so a fast long path gets a large window and a stalled reader never does. Growth is
paid from a budget that all streams of a worker share. Source: RFC 9113 section 5.2; the growth rule
is a byte-counting form of what Linux does for TCP receive buffers.
"""

from node_proxy.tunnel.frames import MAX_WINDOW

# Four 64 KiB reads in flight: enough for 1 Gbit/s at 2 ms, small enough for thousands of streams.
INITIAL_WINDOW = 256 * 1024
# 4 MiB fill 10 Gbit/s at 3 ms.
LARGEST_WINDOW = 4 * 1024 * 1024
# Growth a worker may grant in all: 64 streams at the largest window.
GROWTH_BUDGET = 64 * LARGEST_WINDOW


class WindowBudget:
    """Bytes of window growth that the streams of one worker may still take."""

    def __init__(self, total: int = GROWTH_BUDGET) -> None:
        self.free = total

    def reserve(self, amount: int) -> bool:
        """Take `amount` bytes if they are there."""
        if amount > self.free:
            return False
        self.free -= amount
        return True

    def release(self, amount: int) -> None:
        """Give `amount` bytes back."""
        self.free += amount


class ReceiveWindow:
    """What the peer may still send on one stream, and what we owe it for bytes delivered."""

    __slots__ = ("_budget", "_due", "_initial", "_prompt", "open", "size")

    def __init__(self, budget: WindowBudget, size: int = INITIAL_WINDOW) -> None:
        self._budget = budget
        self._initial = size
        self.size = size
        self.open = size
        self._due = 0
        self._prompt = 0

    def take(self, amount: int) -> bool:
        """Count bytes received; False when the peer sent more than it may."""
        self.open -= amount
        return self.open >= 0

    def delivered(self, amount: int, *, prompt: bool) -> int:
        """Count bytes the reader took, `prompt` if it took them at once; gives the credit to send, or 0."""
        self._due += amount
        if prompt:
            self._prompt += amount
        else:
            self._prompt = 0
        if self._prompt >= 2 * self.size < 2 * LARGEST_WINDOW and self._budget.reserve(self.size):
            self._due += self.size
            self.size *= 2
            self._prompt = 0
        # Half a window at a time: rarer would stall the sender, oftener costs a frame for each read.
        if self._due < self.size // 2:
            return 0
        credit, self._due = self._due, 0
        self.open += credit
        return credit

    def close(self) -> None:
        """Give the growth back to the budget."""
        self._budget.release(self.size - self._initial)
        self.size = self._initial


class SendWindow:
    """What we may still send, on a stream or a connection. May be negative (RFC 9113 section 6.9.2)."""

    __slots__ = ("open",)

    def __init__(self, size: int) -> None:
        self.open = size

    def grow(self, increment: int) -> bool:
        """Add the peer's credit; False when it exceeds what a window may be."""
        self.open += increment
        return self.open <= MAX_WINDOW
