"""Counts over the last seconds, in a fixed number of slots. Pure."""

from typing import Final

# What has left the window is forgotten a tenth of it at a time: near enough, and a few numbers to keep.
SLOTS: Final = 10


class Window:
    """How many there were within the last `seconds`, and how many of these were of the kind that is counted.

    Times are seconds of a monotonic clock, and never go back.
    """

    __slots__ = ("_all", "_slot", "_some", "_width", "all", "seconds", "some")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._width = seconds / SLOTS
        self._all = [0] * SLOTS
        self._some = [0] * SLOTS
        self._slot = -SLOTS
        self.all = 0
        self.some = 0

    def add(self, now: float, *, all: int = 0, some: int = 0) -> None:  # noqa: A002 - what it counts
        """Count."""
        self.move(now)
        place = self._slot % SLOTS
        self._all[place] += all
        self._some[place] += some
        self.all += all
        self.some += some

    def move(self, now: float) -> None:
        """Forget what is older than the window: `all` and `some` are right as of now."""
        slot = int(now / self._width)
        if slot == self._slot:
            return
        for passed in range(max(self._slot + 1, slot - SLOTS + 1), slot + 1):
            place = passed % SLOTS
            self.all -= self._all[place]
            self.some -= self._some[place]
            self._all[place] = self._some[place] = 0
        self._slot = slot

    def clear(self) -> None:
        """Forget everything."""
        self._all = [0] * SLOTS
        self._some = [0] * SLOTS
        self.all = self.some = 0
