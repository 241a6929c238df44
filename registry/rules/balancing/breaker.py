"""The circuit breaker of a service: when all of it fails, callers hear so at once. Pure.

::

    CLOSED --failures--> OPEN --`open_for` over--> HALF_OPEN --a failure--> OPEN
       ^                                               |
       +-------------all probes succeeded--------------+
"""

import enum
from dataclasses import dataclass

from registry.model.backend_policy import CircuitBreaker
from registry.model.duration import seconds
from registry.rules.balancing.window import Window


class State(enum.Enum):
    """The value is that of the gauge."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """A service's rule as numbers: times in seconds, `success` from 0 to 1."""

    consecutive: int | None
    success: float | None
    minimum: int
    window: float
    open_for: float
    probes: int

    @classmethod
    def of(cls, model: CircuitBreaker) -> "BreakerRule":
        """Read what the operator wrote."""
        return cls(
            consecutive=model.consecutive_failures,
            success=None if model.success_percent is None else model.success_percent / 100,
            minimum=model.minimum_requests,
            # A window of no time would never have seen enough to judge.
            window=seconds(model.window) or 1.0,
            open_for=seconds(model.open_for),
            probes=model.half_open_probes,
        )


class Breaker:
    """One worker's: each finds out for itself, so that a service is probed by every worker that calls it."""

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self.state = State.CLOSED
        self._failures = 0
        # `all` are tries, `some` those that succeeded.
        self._window = Window(rule.window)
        self._until = 0.0
        self._probes_left = 0
        self._proven = 0

    def allow(self, now: float) -> bool:
        """Whether a request may be made; one that may while half open is a probe."""
        if self.state is State.CLOSED:
            return True
        if now >= self._until:
            # Also when probes have not come back in that time: a caller that gave up says nothing.
            self.state = State.HALF_OPEN
            self._until = now + self._rule.open_for
            self._probes_left = self._rule.probes
            self._proven = 0
        if self.state is State.OPEN or not self._probes_left:
            return False
        self._probes_left -= 1
        return True

    def record(self, now: float, *, failed: bool) -> bool:
        """Take in how a try ended; gives whether the state has changed.

        What ends while it is open was begun before, and changes nothing.
        """
        match self.state:
            case State.OPEN:
                return False
            case State.HALF_OPEN:
                return self._judge_probe(now, failed)
            case State.CLOSED:
                return self._judge(now, failed)

    def _judge_probe(self, now: float, failed: bool) -> bool:
        if failed:
            self._open(now)
            return True
        self._proven += 1
        if self._proven < self._rule.probes:
            return False
        self.state = State.CLOSED
        self._failures = 0
        self._window.clear()
        return True

    def _judge(self, now: float, failed: bool) -> bool:
        rule = self._rule
        self._failures = self._failures + 1 if failed else 0
        if rule.success is not None:
            self._window.add(now, all=1, some=not failed)
        if not failed:
            return False
        in_a_row = rule.consecutive is not None and self._failures >= rule.consecutive
        window = self._window
        too_few = (
            rule.success is not None
            and window.all >= rule.minimum
            and window.some < window.all * rule.success
        )
        if not (in_a_row or too_few):
            return False
        self._open(now)
        return True

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        self._until = now + self._rule.open_for
