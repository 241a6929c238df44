"""Outlier ejection: an endpoint whose answers fail is passed over for a while. Pure.

Ejected for failures in a row, or for a success rate well under the others'. Whoever comes back is on
probation: its next failure ejects it again, its next success clears it. A refused connection is known at
once, and not judged here. Source: Envoy's outlier detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from registry.model.backend_policy import OutlierEjection
from registry.model.duration import seconds
from registry.rules.balancing.candidate import Record

# With times doubled ten times over `max_time` has long won.
_MOST_DOUBLINGS: Final = 10


@dataclass(frozen=True, slots=True)
class EjectionRule:
    """A service's rule as numbers: times in seconds, shares from 0 to 1."""

    consecutive: int
    below: float | None
    minimum: int
    window: float
    base: float
    longest: float
    most: float

    @classmethod
    def of(cls, model: OutlierEjection) -> "EjectionRule":
        """Read what the operator wrote."""
        base = seconds(model.base_time)
        return cls(
            consecutive=model.consecutive_failures,
            below=None if model.success_percent_below is None else model.success_percent_below / 100,
            minimum=model.minimum_requests,
            window=seconds(model.window),
            base=base,
            longest=max(base, seconds(model.max_time)),
            most=model.max_ejected_percent / 100,
        )


@dataclass(frozen=True, slots=True)
class Ejected:
    """An endpoint was ejected for `seconds`; `cause` is ``failures`` or ``success_rate``."""

    record: Record
    seconds: float
    cause: str


class Ejector:
    """Judges the endpoints of one service port, for success rates at the end of each interval."""

    def __init__(self, rule: EjectionRule) -> None:
        self._rule = rule
        self._interval_end = 0.0

    def judge(
        self, record: Record, among: Sequence[Record], *, failed: bool, now: float
    ) -> tuple[Ejected, ...]:
        """Take in an answer of one endpoint `among` all; gives those who are ejected now.

        What comes from an endpoint that is ejected already was under way before, and counts no more.
        """
        if now < record.ejected_until:
            return ()
        if failed:
            record.failures += 1
        else:
            record.failures = 0
        if self._rule.below is not None:
            record.answers += 1
            record.good += not failed
            if now >= self._interval_end and (ejected := self._compare(among, now)):
                return ejected
        if failed and record.failures >= self._rule.consecutive:
            return self._eject(record, among, "failures", now)
        return ()

    def _compare(self, among: Sequence[Record], now: float) -> tuple[Ejected, ...]:
        """End an interval: eject those whose success rate is too far under the mean of the others'."""
        rule = self._rule
        # Before the first interval answers may have been counted by another rule.
        judged = self._interval_end > 0
        self._interval_end = now + rule.window
        enough = [each for each in among if judged and each.answers and each.answers >= rule.minimum]
        rates = [each.good / each.answers for each in enough]
        ejected: list[Ejected] = []
        # The worst first: the cap may not leave room for all.
        for rate, record in sorted(zip(rates, enough, strict=True), key=lambda each: each[0]):
            if len(rates) > 1 and rule.below is not None:
                others = (sum(rates) - rate) / (len(rates) - 1)
                if rate < others - rule.below:
                    ejected += self._eject(record, among, "success_rate", now)
        for each in among:
            each.answers = each.good = 0
        return tuple(ejected)

    def _eject(self, record: Record, among: Sequence[Record], cause: str, now: float) -> tuple[Ejected, ...]:
        rule = self._rule
        ejected = sum(each.ejected_until > now for each in among)
        # One may always be, as with Envoy, but not the only one: there is nowhere else to go.
        most = max(1, int(len(among) * rule.most)) if len(among) > 1 and rule.most > 0 else 0
        if ejected >= most or rule.base <= 0:
            return ()
        if now - record.ejected_until > rule.longest:
            record.ejections = 0
        length = min(rule.longest, rule.base * 2.0 ** min(record.ejections, _MOST_DOUBLINGS))
        record.ejections += 1
        record.ejected_until = now + length
        record.failures = rule.consecutive - 1
        return (Ejected(record, length, cause),)
