"""Bytes that workloads have not taken yet, over all streams of a worker, and the bound of their sum.

A stream's window bounds what one stalled reader holds; ten thousand of them would hold gigabytes. When the
sum passes its limit, the stream that holds most is cut: one reader that does not read, not the worker.
Precedent: Envoy's overload action that resets the streams which use most memory.
"""

from typing import Protocol

# A thousand stalled readers with the window that every stream begins with.
BACKLOG_LIMIT = 256 * 1024 * 1024


class Holder(Protocol):
    """A stream that may hold bytes."""

    def cut(self, outcome: str) -> None:
        """End now and let go of them; says `forget` itself."""


class Backlog:
    """Who holds how much: `total` bytes now, and how many `cuts` it took to stay below the limit."""

    def __init__(self, limit: int = BACKLOG_LIMIT) -> None:
        self.total = 0
        self.cuts = 0
        self._limit = limit
        self._held: dict[Holder, int] = {}

    def grew(self, holder: Holder, amount: int) -> None:
        """Note that `holder` holds `amount` bytes more; it may be cut within this call."""
        self._held[holder] = self._held.get(holder, 0) + amount
        self.total += amount
        while self.total > self._limit:
            self.cuts += 1
            most = max(self._held, key=self._held.__getitem__)
            most.cut("backlog: the workload reads too slowly, and the worker's memory for it is used up")
            # Whatever it does when it is cut, its bytes no longer count.
            self.forget(most)

    def shrank(self, holder: Holder, amount: int) -> None:
        """Note that `holder` got rid of `amount` bytes."""
        left = self._held[holder] - amount
        self.total -= amount
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]

    def forget(self, holder: Holder) -> None:
        """Note that `holder` is gone with all it held, which may be nothing."""
        self.total -= self._held.pop(holder, 0)
