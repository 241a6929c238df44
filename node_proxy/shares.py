"""How many connections each worker has, in memory that all workers of a node share.

Workers accept from the same sockets. Left to chance the quickest gets most, and tunnels live long; so a
worker that has more than its share lets the others go first for a moment (`node_proxy.dataplane.accept`).
"""

import enum
import mmap
import os
import struct
from collections.abc import Callable

_SLOT = struct.Struct("=ii")
_COUNT = struct.Struct("=i")
# Says that no worker holds the slot, or that the one that does has not begun to accept.
_ABSENT = -1

# A worker may be this many callers ahead, and an eighth: below that the pauses would cost more than they even
# out. Tunnels are few and carry much, so they get no such allowance.
SLACK = 2


class Kind(enum.IntEnum):
    """What is counted; the value is its place in a slot."""

    CALLERS = 0
    TUNNELS = 1


class Shares:
    """The counts of all workers. The agent makes them, a worker opens the descriptor it inherits.

    Each worker writes its own slot only, and a count read while it is written is a count of before or after:
    aligned words are written whole.
    """

    def __init__(self, fd: int, workers: int) -> None:
        self.fd = fd
        self.workers = workers
        self._memory = mmap.mmap(fd, workers * _SLOT.size)

    @classmethod
    def make(cls, workers: int) -> "Shares":
        """Make counts for so many workers, all absent."""
        fd = os.memfd_create("nodemesh-shares", os.MFD_CLOEXEC)
        os.ftruncate(fd, workers * _SLOT.size)
        made = cls(fd, workers)
        for index in range(workers):
            made.leave(index)
        return made

    def leave(self, index: int) -> None:
        """Note that a worker is gone."""
        _SLOT.pack_into(self._memory, index * _SLOT.size, _ABSENT, _ABSENT)

    def say(self, index: int, kind: Kind, count: int) -> None:
        """Note how many a worker has."""
        _COUNT.pack_into(self._memory, self._at(index, kind), count)

    def ahead(self, index: int, kind: Kind, count: int) -> bool:
        """Whether a worker with `count` has more than its share, beside the others that are there."""
        others = [
            other
            for each in range(self.workers)
            if each != index and (other := self._read(each, kind)) != _ABSENT
        ]
        if not others:
            return False
        least = min(others)
        return count > least + least // 8 + (SLACK if kind is Kind.CALLERS else 0)

    def close(self) -> None:
        """Close the descriptor and the memory."""
        self._memory.close()
        os.close(self.fd)

    def _read(self, index: int, kind: Kind) -> int:
        count: int = _COUNT.unpack_from(self._memory, self._at(index, kind))[0]
        return count

    def _at(self, index: int, kind: Kind) -> int:
        return index * _SLOT.size + kind * _COUNT.size


class Share:
    """One worker's part of one kind of connection.

    Args:
        index: the worker's place among all.
        count: says how many it has.
    """

    def __init__(self, shares: Shares, index: int, kind: Kind, count: Callable[[], int]) -> None:
        self._shares = shares
        self._index = index
        self._kind = kind
        self._count = count

    def publish(self) -> int:
        """Let the others know how many this worker has; gives the number."""
        count = self._count()
        self._shares.say(self._index, self._kind, count)
        return count

    def leave(self) -> None:
        """Let the others know that this worker accepts no more."""
        self._shares.leave(self._index)

    def is_ahead(self) -> bool:
        """Publish, and say whether this worker has more than its share."""
        return self._shares.ahead(self._index, self._kind, self.publish())
