"""Which endpoints of a service may be used just now, and what part of the requests each zone gets. Pure."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from registry.model.backend_policy import LocalityPreference
from registry.rules.balancing.candidate import Candidate
from registry.rules.balancing.drawing import Draw, Seat
from registry.rules.balancing.settings import Home, Settings

E = TypeVar("E", bound=Candidate)


def usable(seats: Sequence[Seat[E]], panic: float) -> list[Seat[E]]:
    """Give the endpoints that requests go to; only without any endpoint none.

    The first of these that is not empty:

    1. good ones (healthy, reachable, not ejected) of weight above 0, if they are at least the share `panic`
       of all of weight above 0;
    2. with none of those, good ones that are drained: better than one that is known to fail;
    3. all of weight above 0 that are reachable (panic): when nearly every check says no, the checks may be
       what is broken, and the few that are left would not bear the load. That a connection was refused is no
       judgement, and is believed also then;
    4. all.

    Where all are drained they share alike.
    """
    live = [seat for seat in seats if seat.endpoint.weight > 0] or list(seats)
    good = [seat for seat in live if seat.good]
    if good and len(good) >= panic * len(live):
        return good
    if not good and (drained := [seat for seat in seats if seat.good]):
        return drained
    return [seat for seat in live if seat.reachable] or live


def spread(
    chosen: Sequence[Seat[E]], seats: Sequence[Seat[E]], settings: Settings, home: Home
) -> "Levels[E]":
    """Divide the usable endpoints by how near they are, and the requests among these levels.

    Near ones get everything while the share `near` of them is good. Below, what they get falls in proportion,
    and the rest overflows to the next level. Source: Envoy's priority levels.
    """
    ranks = sorted({_rank(seat.endpoint, settings.prefer, home) for seat in chosen})
    if len(ranks) < 2:
        return Levels([Draw(chosen)], [1.0])
    draws: list[Draw[E]] = []
    shares: list[float] = []
    left = 1.0
    for rank in ranks:
        level = [seat for seat in seats if _rank(seat.endpoint, settings.prefer, home) == rank]
        share = min(left, _capacity(level, settings.near))
        left -= share
        draws.append(Draw([seat for seat in chosen if _rank(seat.endpoint, settings.prefer, home) == rank]))
        shares.append(share)
    if left >= 1.0:
        # Nobody is good: distance is the least of the troubles.
        return Levels([Draw(chosen)], [1.0])
    return Levels(draws, [share / (1.0 - left) for share in shares])


class Levels(Generic[E]):
    """Draws, the nearest first, and the share of the requests that each gets."""

    __slots__ = ("_draws", "_shares", "only")

    def __init__(self, draws: list[Draw[E]], shares: list[float]) -> None:
        self._draws = draws
        self._shares = shares
        self.only = draws[0] if len(draws) == 1 else None

    def at(self, point: float) -> Draw[E]:
        """Give the level at a point between 0 and 1."""
        for draw, share in zip(self._draws, self._shares, strict=True):
            point -= share
            if point < 0:
                return draw
        # Shares that add up to a little less than 1.
        return self._draws[0]


def _capacity(level: Sequence[Seat[E]], near: float) -> float:
    """Give what part of all requests a level may bear."""
    total = sum(seat.endpoint.weight for seat in level)
    good = sum(seat.endpoint.weight for seat in level if seat.good)
    if not good:
        return 0.0
    return 1.0 if near <= 0 else min(1.0, good / total / near)


def _rank(endpoint: Candidate, prefer: LocalityPreference, home: Home) -> int:
    """Say how far away an endpoint is: 0 is preferred. Whoever does not say where it is, is far."""
    if prefer is LocalityPreference.NONE:
        return 0
    same_region = bool(home.region) and endpoint.region == home.region
    if prefer is LocalityPreference.REGION:
        return 0 if same_region else 1
    # Regions may call their zones by the same names, and a mesh of one region need not name it.
    if home.zone and endpoint.zone == home.zone and endpoint.region == home.region:
        return 0
    return 1 if same_region else 2
