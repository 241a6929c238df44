"""The endpoints behind one service port: which of them takes the next request, and how each does. Pure.

Clocks and randomness come in as arguments. What is found out about who may be used is kept until a time at
which it may change, or until `Records.version` says that it has.
"""

import math
import random
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final, Generic, TypeVar

from registry.model.backend_policy import BalancingPolicy
from registry.rules.balancing.candidate import Candidate, Place, Record, Records
from registry.rules.balancing.drawing import Draw, Seat
from registry.rules.balancing.ejecting import Ejected, Ejector
from registry.rules.balancing.keys import NO_KEYS, Keys, token_of
from registry.rules.balancing.latency import cost, load, observe
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.ring import Ring
from registry.rules.balancing.settings import Home, Settings
from registry.rules.balancing.standing import spread, usable

E = TypeVar("E", bound=Candidate)

# An endpoint that starts slowly begins with this part of its weight; it must get some requests to warm up.
# Envoy's `min_weight_percent`.
LEAST_SHARE: Final = 0.1
# In how many steps its share grows.
STEPS: Final = 50


class Group(Generic[E]):
    """Endpoints of one service port under one policy; another one takes its place when either changes.

    Args:
        endpoints: all of them.
        records: of the worker; shared by all groups.
        settings: how to balance.
        home: where the callers are.
        unreachable_until: until when connections to an endpoint are not even tried; 0 for no such time.
        former: the group before, if there was one.
        source: what all this was taken from, by which its owner knows it again.
        now: the time.
    """

    def __init__(
        self,
        endpoints: Sequence[E],
        records: Records,
        settings: Settings,
        *,
        home: Home = Home(),  # noqa: B008 - immutable
        unreachable_until: Callable[[E], float] = lambda _: 0.0,
        former: "Group[E] | None" = None,
        source: object = None,
        now: float = 0.0,
    ) -> None:
        self.settings = settings
        self._endpoints = endpoints
        self.source = source
        self._records = records
        self._home = home
        self._unreachable_until = unreachable_until
        self._seats = [Seat(each, records.of((each.address, each.port)), 1.0) for each in endpoints]
        self._among = [seat.record for seat in self._seats]
        self._by_place: Mapping[Place, Seat[E]] = {
            (seat.endpoint.address, seat.endpoint.port): seat for seat in self._seats
        }
        self.ejector = Ejector(settings.ejection)
        if former is not None:
            self._note_newcomers(former, now)
            if former.settings.ejection == settings.ejection:
                self.ejector = former.ejector
        self._rates = settings.ejection.below is not None
        self._ring: Ring[E] | None = None
        self._tokens: dict[bytes, Seat[E]] | None = None
        self._valid_until = -math.inf
        self._version = -1

    @property
    def places(self) -> Sequence[Place]:
        """The addresses and ports of its endpoints."""
        return tuple(self._by_place)

    def choose(
        self, *, now: float, rng: random.Random, tried: Container[E] = (), keys: Keys = NO_KEYS
    ) -> E | None:
        """Choose an endpoint that was not tried; None when all were.

        Args:
            now: seconds of a monotonic clock.
            rng: where the draws come from.
            tried: endpoints that are passed over.
            keys: what the request's hash and its session go by.
        """
        if now >= self._valid_until or self._version != self._records.version:
            self._refresh(now)
        if keys is not NO_KEYS and (seat := self._find(keys, tried)) is not None:
            return seat.endpoint
        if tried:
            return self._choose_untried(tried, now, rng)
        if not self._seats:
            return None
        draw = self._levels.only or self._levels.at(rng.random())
        match self.settings.policy:
            case BalancingPolicy.PEAK_EWMA:
                return draw.better_of_two(rng, cost, now).endpoint
            case BalancingPolicy.LEAST_REQUEST:
                return draw.better_of_two(rng, load, now).endpoint
            case BalancingPolicy.ROUND_ROBIN:
                return draw.in_turn(rng).endpoint
            case BalancingPolicy.RANDOM | BalancingPolicy.RING_HASH:
                # A request without a key may go anywhere.
                return draw.one(rng).endpoint

    def ended(
        self, record: Record, outcome: Outcome, *, now: float, seconds: float | None = None
    ) -> tuple[Ejected, ...]:
        """Take in how a try at an endpoint ended; gives whom that has ejected.

        Args:
            record: the endpoint's.
            outcome: how.
            now: seconds of a monotonic clock.
            seconds: from the request's head to the answer's, or to when it was given up; None if unknown.
        """
        if not outcome.counts or outcome is Outcome.UNREACHED:
            return ()
        failed = outcome.failed
        if seconds is not None:
            observe(record, seconds, now, failed=failed)
        if not (failed or record.failures or self._rates):
            return ()
        ejected = self.ejector.judge(record, self._among, failed=failed, now=now)
        if ejected:
            self._records.changed()
        return ejected

    def same(self, endpoints: Sequence[E], settings: Settings, home: Home) -> bool:
        """Whether a group of these would be the same."""
        return (self._endpoints, self.settings, self._home) == (endpoints, settings, home)

    def at(self, place: Place) -> E | None:
        """Give the endpoint at an address and port."""
        seat = self._by_place.get(place)
        return None if seat is None else seat.endpoint

    def endpoint_of(self, record: Record) -> E | None:
        """Give the endpoint that a record is of."""
        return next((seat.endpoint for seat in self._seats if seat.record is record), None)

    def _note_newcomers(self, former: "Group[E]", now: float) -> None:
        for place, seat in self._by_place.items():
            before = former.at(place)
            if before is None or (seat.endpoint.healthy and not before.healthy):
                seat.record.since = now

    def _refresh(self, now: float) -> None:
        """Find out who may be used, and until when that is so."""
        valid_until = math.inf
        slow_start = self.settings.slow_start
        for seat in self._seats:
            endpoint, record = seat.endpoint, seat.record
            unreachable_until = self._unreachable_until(endpoint)
            seat.reachable = unreachable_until <= now
            seat.good = endpoint.healthy and seat.reachable and record.ejected_until <= now
            seat.usable = False
            seat.share = endpoint.weight or 1
            for until in (unreachable_until, record.ejected_until):
                if now < until < valid_until:
                    valid_until = until
            if (age := now - record.since) < slow_start:
                seat.share *= max(LEAST_SHARE, age / slow_start)
                valid_until = min(valid_until, now + slow_start / STEPS)
        self._valid_until, self._version = valid_until, self._records.version
        if self._seats:
            chosen = usable(self._seats, self.settings.panic)
            for seat in chosen:
                seat.usable = True
            self._weight = sum(seat.endpoint.weight or 1 for seat in chosen)
            self._levels = spread(chosen, self._seats, self.settings, self._home)

    def _find(self, keys: Keys, tried: Container[E]) -> Seat[E] | None:
        """Find the endpoint that a request's keys lead to, if they lead to one that can take it."""
        settings = self.settings
        if keys.sticky is not None and settings.by_cookie:
            if self._tokens is None:
                self._tokens = {
                    token_of(f"{place[0]}:{place[1]}"): seat for place, seat in self._by_place.items()
                }
            seat = self._tokens.get(keys.sticky)
            # One that is drained keeps the sessions that it has.
            if seat is not None and (seat.good or seat.usable) and seat.endpoint not in tried:
                return seat
        if keys.hashed is None or not settings.by_hash or not self._seats:
            return None
        if self._ring is None:
            self._ring = Ring([seat for seat in self._seats if seat.endpoint.weight > 0] or self._seats)
        room = settings.bound
        if room < math.inf:
            # So many times the even share of what is in flight, with this request.
            room *= (sum([record.in_flight for record in self._among]) + 1) / self._weight
        return self._ring.find(
            keys.hashed, lambda seat: seat.usable and seat.endpoint not in tried, room=room
        )

    def _choose_untried(self, tried: Container[E], now: float, rng: random.Random) -> E | None:
        """Choose for another try: of those in use, or else of the good ones, the reachable, or all."""
        untried = [seat for seat in self._seats if seat.endpoint not in tried]
        for fits in (_is_usable, _is_good, _is_reachable, _is_any):
            if seats := [seat for seat in untried if fits(seat)]:
                by = cost if self.settings.policy is BalancingPolicy.PEAK_EWMA else load
                return Draw(seats).better_of_two(rng, by, now).endpoint
        return None


def _is_usable(seat: Seat[E]) -> bool:
    return seat.usable


def _is_good(seat: Seat[E]) -> bool:
    return seat.good


def _is_reachable(seat: Seat[E]) -> bool:
    return seat.reachable


def _is_any(_seat: Seat[E]) -> bool:
    return True
