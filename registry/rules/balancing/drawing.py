"""Draws among endpoints by their weights: at random, two at a time, in turn. Pure."""

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from registry.rules.balancing.candidate import Candidate, Record

E = TypeVar("E", bound=Candidate)
Cost = Callable[[Record, float], float]


@dataclass(slots=True)
class Seat(Generic[E]):
    """An endpoint with what is known of it.

    `share` is its weight, less while it starts slowly. `reachable`: connections to it are not known to fail.
    `good`: it is healthy besides, and not ejected. `usable`: requests go to it, perhaps for want of others.
    """

    endpoint: E
    record: Record
    share: float
    reachable: bool = True
    good: bool = True
    usable: bool = True


class Draw(Generic[E]):
    """Endpoints to draw from; at least one, each with a share above 0."""

    __slots__ = ("_even", "_heap", "_sums", "_turn", "seats")

    def __init__(self, seats: Sequence[Seat[E]]) -> None:
        self.seats = seats
        share = seats[0].share
        self._even = all(seat.share == share for seat in seats)
        self._sums = [] if self._even else list(accumulate(seat.share for seat in seats))
        self._turn = -1
        self._heap: list[tuple[float, int]] = []

    def one(self, rng: random.Random) -> Seat[E]:
        """Draw by weight."""
        seats = self.seats
        if self._even:
            return seats[int(rng.random() * len(seats))]
        # What rounds up to the sum itself is the last one's.
        return seats[min(bisect_right(self._sums, rng.random() * self._sums[-1]), len(seats) - 1)]

    def better_of_two(self, rng: random.Random, cost: Cost, now: float) -> Seat[E]:
        """Draw two by weight, and give the one that costs less for its weight.

        Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing".
        """
        seats = self.seats
        count = len(seats)
        if count == 1:
            return seats[0]
        if self._even:
            place = int(rng.random() * count)
            other = int(rng.random() * (count - 1))
            first, second = seats[place], seats[other + (other >= place)]
            return second if cost(second.record, now) < cost(first.record, now) else first
        first, second = self._two(rng)
        cheaper = cost(second.record, now) * first.share < cost(first.record, now) * second.share
        return second if cheaper else first

    def in_turn(self, rng: random.Random) -> Seat[E]:
        """Give each its turn: twice as often to twice the weight, and as evenly spread as can be."""
        seats = self.seats
        if self._even:
            # Begins anywhere, or all workers of all nodes would begin with the same.
            self._turn = (int(rng.random() * len(seats)) if self._turn < 0 else self._turn + 1) % len(seats)
            return seats[self._turn]
        if not self._heap:
            # The one whose time comes first is next. Source: Envoy's EDF scheduler.
            self._heap = [(rng.random() / seat.share, place) for place, seat in enumerate(seats)]
            heapq.heapify(self._heap)
        due, place = self._heap[0]
        heapq.heapreplace(self._heap, (due + 1 / seats[place].share, place))
        return seats[place]

    def _two(self, rng: random.Random) -> tuple[Seat[E], Seat[E]]:
        sums, seats = self._sums, self.seats
        last = len(seats) - 1
        place = min(bisect_right(sums, rng.random() * sums[-1]), last)
        # The first one's part of the line is cut out for the second draw.
        begin = sums[place - 1] if place else 0.0
        width = sums[place] - begin
        point = rng.random() * (sums[-1] - width)
        other = min(bisect_right(sums, point if point < begin else point + width), last)
        if other == place:
            # Rounding only.
            other = place - 1 if place else 1
        return seats[place], seats[other]
