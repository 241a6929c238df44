"""When certificates are renewed, and the tasks that do it.

The schedule is pure. A renewal that fails keeps the certificate that is held, tries again with backoff,
and grows louder as its life runs out.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
import trio

from node_proxy.agent.credentials import Held
from node_proxy.errors import EnrolmentError
from registry.model.identity import Identity

# A mesh restarted as a whole must not renew as a whole: spread over a tenth of a life.
JITTER = 0.05
# The first retry comes soon, since most faults are a registry's restart.
FIRST_RETRY = 1.0
LAST_RETRY = 60.0
# Wall clocks are set and hosts sleep: look at the clock again at least this often, in seconds.
LONGEST_SLEEP = 30.0
# A registry whose clock is far behind issues certificates that look half spent: this much of a life, at most
# this many seconds, passes before the next renewal all the same.
PAUSE_SHARE = 0.1
LONGEST_PAUSE = 60.0
# Revocations are dated in whole seconds, as certificates are: one issued within that second is revoked too.
REVOKED_PAUSE = 1.5
REVOKED_SPREAD = 0.5
# A registry that goes on giving certificates of the old issuer lags behind: not worth asking all the time.
LAGGING_SPREAD = 600.0
# Between a renewal and one that was asked for out of turn: what the registry just gave may be no better.
LEAST_PAUSE = 5.0

log = structlog.get_logger("node_proxy.agent.renewal")


def renew_at(not_before: datetime, not_after: datetime, rng: random.Random) -> datetime:
    """Choose the moment of the first attempt: half of the life, give or take a twentieth of it."""
    return not_before + (not_after - not_before) * (0.5 + rng.uniform(-JITTER, JITTER))


def retry_after(failures: int, rng: random.Random) -> float:
    """Give the seconds to wait after the `failures`-th failure in a row (from 1)."""
    ceiling = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, 16))
    return ceiling * rng.uniform(0.5, 1.0)


def alarm_level(not_before: datetime, not_after: datetime, now: datetime) -> int:
    """Say how much of the life is gone: 90, 75, 50 or 0 percent."""
    gone = (now - not_before) / (not_after - not_before)
    return next((level for level in (90, 75, 50) if gone * 100 >= level), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateState:
    """How it stands with one identity. `alarm` is above 0 only while renewals fail."""

    identity: str
    not_after: datetime | None
    alarm: int
    failures: int
    error: str


class CertificateKeeper:
    """Keeps one identity's certificate fresh.

    Args:
        identity: whose certificate.
        held: the one on disk, if any.
        obtain: asks the registry and stores the answer.
        replaced: called when a new one is held.
        now: the wall clock, in UTC.
        rng: jitter.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        held: Held | None,
        obtain: Callable[[Identity], Awaitable[Held]],
        replaced: Callable[[Held], None],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self.identity = identity
        self.held = held
        self._obtain = obtain
        self._replaced = replaced
        self._now = now
        self._rng = rng
        self._failures = 0
        self._error = ""
        self._rest_ends = self._long_rest_ends = -math.inf
        self._asked_for = math.inf
        self._asked = trio.Event()

    @property
    def state(self) -> CertificateState:
        """Give the state as it is now."""
        return CertificateState(
            identity=str(self.identity),
            not_after=self.held.not_after if self.held else None,
            alarm=self._alarm(),
            failures=self._failures,
            error=self._error,
        )

    @property
    def valid(self) -> bool:
        """Whether a certificate is held that is valid now."""
        return self.held is not None and self.held.valid_at(self._now())

    def renew_within(self, seconds: float, *, after: float = 0) -> None:
        """Renew before its time, at some moment of the `seconds` that begin `after` seconds from now."""
        moment = trio.current_time() + after + self._rng.uniform(0, seconds)
        self._asked_for = min(self._asked_for, moment)
        self._asked.set()

    async def keep_fresh(self) -> None:
        """Renew for ever; cancellation keeps what is held."""
        while True:
            if self.held is not None:
                await self._wait_due(renew_at(self.held.not_before, self.held.not_after, self._rng))
            self._asked_for = math.inf
            held = await self._renew()
            life = (held.not_after - held.not_before) / timedelta(seconds=1)
            self._long_rest_ends = trio.current_time() + min(LONGEST_PAUSE, life * PAUSE_SHARE)
            self._rest_ends = trio.current_time() + LEAST_PAUSE

    async def _renew(self) -> Held:
        while True:
            try:
                held = await self._obtain(self.identity)
            except EnrolmentError as error:
                self._failures += 1
                self._error = str(error)
                delay = retry_after(self._failures, self._rng)
                self._complain(delay)
                await trio.sleep(delay)
                continue
            self._failures, self._error = 0, ""
            self.held = held
            log.info("certificate renewed", identity=str(self.identity), expires=held.not_after.isoformat())
            self._replaced(held)
            return held

    def _alarm(self) -> int:
        if not self._failures:
            return 0
        if self.held is None:
            return 100
        return alarm_level(self.held.not_before, self.held.not_after, self._now())

    def _complain(self, delay: float) -> None:
        alarm = self._alarm()
        say = log.error if alarm >= 75 else log.warning
        say(
            "certificate renewal failed",
            identity=str(self.identity),
            error=self._error,
            alarm=alarm,
            expires=self.held.not_after.isoformat() if self.held else None,
            retry_in=round(delay, 1),
        )

    async def _wait_due(self, planned: datetime) -> None:
        while True:
            asked = self._asked = trio.Event()
            left = (planned - self._now()) / timedelta(seconds=1)
            now = trio.current_time()
            left = min(max(left, self._long_rest_ends - now), max(self._asked_for, self._rest_ends) - now)
            if left <= 0:
                return
            with trio.move_on_after(min(left, LONGEST_SLEEP)):
                await asked.wait()


async def keep_all_fresh(keepers: Sequence[CertificateKeeper]) -> None:
    """Run every keeper; one that fails holds up no other."""
    async with trio.open_nursery() as nursery:
        for keeper in keepers:
            nursery.start_soon(keeper.keep_fresh)
