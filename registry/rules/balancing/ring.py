"""Ring hash with bounded loads: the same key goes to the same endpoint, unless that has its fill. Pure.

When an endpoint comes or goes only its own part of the keys moves. Source: Karger et al., "Consistent Hashing
and Random Trees"; Mirrokni et al., "Consistent Hashing with Bounded Loads".
"""

import math
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from registry.rules.balancing.candidate import Candidate
from registry.rules.balancing.drawing import Seat

E = TypeVar("E", bound=Candidate)

# Points of an endpoint of average weight: shares are then even to some 10 %.
POINTS: Final = 128
# Of one ring. Beyond it endpoints get fewer points each: a ring of this size takes 0.4 MB, and some 50 ms to
# make whenever an endpoint comes or goes.
MAX_POINTS: Final = 32_768
# Points that one digest gives.
_EACH: Final = 8
_READ: Final = struct.Struct(f">{_EACH}Q")


class Ring(Generic[E]):
    """A ring of the endpoints of one service port, whether they can be used just now or not.

    That way who fails and comes back gets its keys back, and nobody else's keys move.
    """

    def __init__(self, seats: Sequence[Seat[E]]) -> None:
        weights = [seat.endpoint.weight or 1 for seat in seats]
        each = min(POINTS, MAX_POINTS // len(seats)) / (sum(weights) / len(seats))
        count = len(seats)
        # Point and owner in one number: sorted in half the time that pairs take.
        places = sorted(
            point * count + number
            for number, (seat, weight) in enumerate(zip(seats, weights, strict=True))
            for point in _points(f"{seat.endpoint.address}:{seat.endpoint.port}", round(each * weight) or 1)
        )
        self._seats = seats
        self._points = array("Q", [place // count for place in places])
        self._owners = array("I", [place % count for place in places])

    def find(
        self, key: bytes, usable: Callable[[Seat[E]], bool], *, room: float = math.inf
    ) -> Seat[E] | None:
        """Give the first endpoint from a key's place on that is usable and not full.

        When all that are usable are full it is the first of these; None if none is usable.

        Args:
            key: what the request goes by.
            usable: whether an endpoint may be chosen.
            room: how many requests each unit of weight may have in flight.
        """
        digest = blake2b(key, digest_size=8).digest()
        start = bisect_right(self._points, int.from_bytes(digest, "big"))
        owners, fallback = self._owners, None
        seen: set[int] = set()
        for step in range(len(owners)):
            number = owners[(start + step) % len(owners)]
            if number in seen:
                continue
            seen.add(number)
            seat = self._seats[number]
            if usable(seat):
                if seat.record.in_flight < room * (seat.endpoint.weight or 1):
                    return seat
                fallback = fallback or seat
            if len(seen) == len(self._seats):
                break
        return fallback


def _points(name: str, count: int) -> tuple[int, ...]:
    """Give a name's first `count` places on the ring, always the same."""
    points: list[int] = []
    for block in range(-(-count // _EACH)):
        points += _READ.unpack(blake2b(f"{name}/{block}".encode(), digest_size=64).digest())
    return tuple(points[:count])
