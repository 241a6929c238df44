"""How fast bytes pass, from counts and a clock that others read anyway. Pure."""

# Long enough to tell a flow from a burst, short enough to notice a flow before the next caller comes.
INTERVAL = 0.25


class Meter:
    """Bytes per second over the last interval; nothing runs for it between two calls."""

    __slots__ = ("_began", "_rate", "_seen", "moved")

    def __init__(self, now: float) -> None:
        # In all; whoever moves bytes adds to it.
        self.moved = 0
        self._began = now
        self._seen = 0
        self._rate = 0.0

    def rate(self, now: float) -> float:
        """Give bytes per second; ask often, or the answer is an average since it was asked last."""
        passed = now - self._began
        if passed >= INTERVAL:
            self._rate = (self.moved - self._seen) / passed
            self._began, self._seen = now, self.moved
        return self._rate
