"""A token bucket whose whole state is one number: when it will be full again.

Pure. This is the generic cell rate algorithm (ITU-T I.371): a bucket of 10 tokens that gets 5 a second and
whose tokens are all taken is full in 2 s. So one that is full again is like one that never was, and its
memory is free for another.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

# Sums of intervals are off by a few parts in 10**16 of an uptime: no token must be lost by that.
_ROUNDING: Final = 1e-9


class Taken(NamedTuple):
    """What became of an attempt to take tokens.

    Args:
        full_at: when the bucket is full again, to be kept.
        remaining: whole tokens that are left.
        wait: seconds until as many would be there; 0 when they were taken.
    """

    full_at: float
    remaining: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """How fast a bucket fills, and how much it holds.

    Args:
        interval: seconds for one token.
        depth: seconds for all of them; at least `interval`, or none could ever be taken.
    """

    interval: float
    depth: float

    @classmethod
    def of(cls, amount: float, *, per: float, burst: float | None = None) -> "Bucket":
        """Give the bucket that gets `amount` tokens in `per` seconds and holds `burst`, or else as many."""
        interval = per / amount
        return cls(interval, max(1.0, amount if burst is None else burst) * interval)

    def scaled(self, share: float) -> "Bucket":
        """Give the bucket of one who has this share of the tokens, above 0; it holds one at least."""
        interval = self.interval / share
        return Bucket(interval, max(self.depth, interval))

    def take(self, full_at: float, now: float, tokens: float = 1.0) -> Taken:
        """Take so many tokens, all or none."""
        interval = self.interval
        after = (full_at if full_at > now else now) + tokens * interval
        left = now + self.depth - after + _ROUNDING
        if left < 0.0:
            return Taken(full_at, self.remaining(full_at, now), -left)
        return Taken(after, int(left / interval))

    def give_back(self, full_at: float, tokens: float = 1.0) -> float:
        """Give `full_at` as if so many tokens had not been taken."""
        return full_at - tokens * self.interval

    def remaining(self, full_at: float, now: float) -> int:
        """Give how many whole tokens there are."""
        left = self.depth - max(0.0, full_at - now)
        return max(0, int((left + _ROUNDING) / self.interval))
