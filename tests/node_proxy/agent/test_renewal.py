from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from node_proxy.agent.credentials import Held
from node_proxy.agent.renewal import (
    LAST_RETRY,
    LONGEST_SLEEP,
    CertificateKeeper,
    alarm_level,
    keep_all_fresh,
    renew_at,
    retry_after,
)
from node_proxy.errors import EnrolmentError
from registry.model.identity import Identity, WorkloadIdentity
from tests.node_proxy.agent.documents import TRUST_DOMAIN, seeded
from tests.node_proxy.agent.material import NOON, make_authority

DAY = timedelta(hours=24)
WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
AUTHORITY = make_authority()


@given(seed=st.integers())
def test_renewal_is_at_half_life_with_jitter(seed: int) -> None:
    """Renewal is due within a twentieth of the life around its middle."""
    due = renew_at(NOON, NOON + DAY, seeded(seed))
    assert NOON + DAY * 0.45 <= due <= NOON + DAY * 0.55


def test_jitter_spreads() -> None:
    """Two nodes that were certified together do not renew together."""
    rng = seeded(1)
    assert renew_at(NOON, NOON + DAY, rng) != renew_at(NOON, NOON + DAY, rng)


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_backoff(failures: int, seed: int) -> None:
    """Retries begin within a second, slow down, and never stop."""
    delay = retry_after(failures, seeded(seed))
    assert 0.5 <= delay <= LAST_RETRY
    assert delay <= 2.0 ** min(failures - 1, 10)


@pytest.mark.parametrize(
    ("gone", "level"), [(0, 0), (49, 0), (50, 50), (74, 50), (75, 75), (90, 90), (120, 90)]
)
def test_alarm_levels(gone: int, level: int) -> None:
    """The alarm grows at 50, 75 and 90 percent of the life."""
    assert alarm_level(NOON, NOON + DAY, NOON + DAY * gone / 100) == level


class Registry:
    """Signs certificates of one day, unless told to refuse; counts how often it was asked."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.refuses = False
        self.asked: list[datetime] = []

    async def obtain(self, identity: Identity) -> Held:
        """Sign now."""
        await trio.lowlevel.checkpoint()
        self.asked.append(self.now())
        if self.refuses:
            raise EnrolmentError("the registry is away")
        return AUTHORITY.held(identity, now=self.now(), lifetime=DAY)


class Keeping:
    """A keeper under a virtual clock, and what it did."""

    def __init__(self, held: Held | None, *, seed: int = 1) -> None:
        self.ahead = timedelta(0)
        self.registry = Registry(self.now)
        self.replaced: list[Held] = []
        self.keeper = CertificateKeeper(
            identity=WEB,
            held=held,
            obtain=self.registry.obtain,
            replaced=self.replaced.append,
            now=self.now,
            rng=seeded(seed),
        )

    def now(self) -> datetime:
        """Give the wall clock: noon when the test begins, unless it was set."""
        return NOON + timedelta(seconds=trio.current_time()) + self.ahead

    async def run_for(self, length: timedelta) -> None:
        """Keep fresh for some virtual time."""
        with trio.move_on_after(length / timedelta(seconds=1)):
            await keep_all_fresh([self.keeper])


async def test_renews_at_half_life_again_and_again(autojump_clock: MockClock) -> None:
    """A certificate of a day is renewed about every half day, and each new one is handed on."""
    keeping = Keeping(AUTHORITY.held(WEB, lifetime=DAY))
    await keeping.run_for(timedelta(days=2))
    assert len(keeping.registry.asked) in (3, 4)
    assert keeping.keeper.held == keeping.replaced[-1]
    assert keeping.keeper.valid
    assert keeping.keeper.state.alarm == 0


async def test_missing_certificate_is_asked_for_at_once(autojump_clock: MockClock) -> None:
    """Without a certificate there is nothing to wait for."""
    keeping = Keeping(None)
    assert not keeping.keeper.valid
    await keeping.run_for(timedelta(seconds=1))
    assert keeping.registry.asked == [NOON]
    assert keeping.keeper.valid


async def test_failed_renewal_keeps_the_valid_certificate(autojump_clock: MockClock) -> None:
    """While the registry is away the certificate stays, the alarm grows, and attempts go on."""
    held = AUTHORITY.held(WEB, lifetime=DAY)
    keeping = Keeping(held)
    keeping.registry.refuses = True
    levels: list[int] = []
    with capture_logs() as logs:
        for hours in (11, 4, 4, 4):
            await keeping.run_for(timedelta(hours=hours))
            levels.append(keeping.keeper.state.alarm)
    assert levels == [0, 50, 75, 90]
    assert keeping.keeper.held is held
    assert keeping.keeper.valid
    assert {line["log_level"] for line in logs if line["alarm"] < 75} == {"warning"}
    assert {line["log_level"] for line in logs if line["alarm"] >= 75} == {"error"}
    assert keeping.keeper.state.error == "the registry is away"
    keeping.registry.refuses = False
    await keeping.run_for(timedelta(minutes=2))
    assert keeping.keeper.held is not held
    assert keeping.keeper.state.alarm == 0
    assert keeping.keeper.state.failures == 0


async def test_renewal_out_of_turn_is_spread(autojump_clock: MockClock) -> None:
    """When another issuer takes over, each certificate is renewed at some moment of the minute given."""
    asked: list[float] = []
    for seed in range(20):
        keeping = Keeping(AUTHORITY.held(WEB, lifetime=DAY), seed=seed)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeping.keeper.keep_fresh)
            await trio.sleep(1)
            keeping.keeper.renew_within(60)
            await trio.sleep(61)
            nursery.cancel_scope.cancel()
        (moment,) = keeping.registry.asked
        asked.append((moment - NOON).total_seconds() - began)
    assert min(asked) < 15
    assert max(asked) > 45


async def test_revoked_certificate_does_not_wait_for_its_turn(autojump_clock: MockClock) -> None:
    """What peers refuse already is replaced at once, though another renewal is planned within a minute."""
    keeping = Keeping(AUTHORITY.held(WEB, lifetime=DAY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeping.keeper.keep_fresh)
        await trio.sleep(1)
        keeping.keeper.renew_within(60)
        keeping.keeper.renew_within(0)
        await trio.sleep(0.1)
        assert len(keeping.registry.asked) == 1
        # Both are served by it.
        await trio.sleep(100)
        assert len(keeping.registry.asked) == 1
        nursery.cancel_scope.cancel()


async def test_out_of_turn_again_and_again(autojump_clock: MockClock) -> None:
    """Renewals that are asked for all the time leave the registry some seconds between them."""
    keeping = Keeping(AUTHORITY.held(WEB, lifetime=DAY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeping.keeper.keep_fresh)
        for _ in range(300):
            await trio.sleep(0.1)
            keeping.keeper.renew_within(0)
        nursery.cancel_scope.cancel()
    assert 2 <= len(keeping.registry.asked) <= 7


async def test_expired_certificate_is_not_valid(autojump_clock: MockClock) -> None:
    """A certificate past its end is reported as missing, and asked for at once."""
    keeping = Keeping(AUTHORITY.held(WEB, now=NOON - 2 * DAY, lifetime=DAY))
    assert not keeping.keeper.valid
    await keeping.run_for(timedelta(seconds=1))
    assert keeping.keeper.valid


async def test_clock_that_jumps(autojump_clock: MockClock) -> None:
    """A wall clock set forward is noticed within half a minute, not after the sleep it cut short."""
    keeping = Keeping(AUTHORITY.held(WEB, lifetime=DAY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeping.keeper.keep_fresh)
        await trio.sleep(60)
        assert keeping.registry.asked == []
        keeping.ahead = timedelta(hours=13)
        await trio.sleep(LONGEST_SLEEP + 1)
        assert len(keeping.registry.asked) == 1
        nursery.cancel_scope.cancel()


async def test_registry_with_a_slow_clock(autojump_clock: MockClock) -> None:
    """Certificates that come half spent are not asked for again and again without a pause."""
    keeping = Keeping(None)
    keeping.registry.now = lambda: keeping.now() - timedelta(hours=20)
    await keeping.run_for(timedelta(minutes=10))
    assert len(keeping.registry.asked) <= 11
