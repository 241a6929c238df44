"""Log lines that callers can cause as often as they like: of each sort one a second, and how many there were.

Pure. What is left out is in the metrics and in the decision log.
"""

from collections import OrderedDict
from collections.abc import Hashable

# Seconds in which one line of a sort is enough.
INTERVAL = 1.0
# Sorts that are remembered; with more at once the oldest speaks again, which is a line too many and no harm.
MAX_SORTS = 256


class Quiet:
    """Says which lines to write. Times are seconds of the clock that the caller reads."""

    def __init__(self) -> None:
        # When a line was written, and how many were not since.
        self._written: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()

    def ask(self, sort: Hashable, now: float) -> int | None:
        """Give how many lines of a sort were left out before this one; None to leave this one out too."""
        since, left_out = self._written.get(sort, (None, 0))
        if since is not None and now - since < INTERVAL:
            self._written[sort] = since, left_out + 1
            return None
        self._written[sort] = now, 0
        self._written.move_to_end(sort)
        if len(self._written) > MAX_SORTS:
            self._written.popitem(last=False)
        return left_out
