"""What the leading replica does for the authority by itself."""

from datetime import datetime, timedelta

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from registry.ca import issuer
from registry.ca.authority import Authority, found_with
from registry.ca.bundle import read_trust
from registry.ca.keyring import IssuingKey
from registry.ca.revoking import Editor
from registry.ca.rotating import Rotator
from registry.ca.rotation import SETTLE
from registry.ca.upkeep import INTERMEDIATE_RENEWAL, ROUND_SECONDS, Upkeep
from registry.errors import StoreUnavailable
from registry.store.memory import MemoryStore
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock, new_key


class TrioClock(SetClock):
    """A clock that goes with trio's, and can be set ahead of it."""

    def __call__(self) -> datetime:
        """Read it."""
        return self.now + timedelta(seconds=trio.current_time())


@pytest.fixture
def clock() -> SetClock:
    return TrioClock()


async def keep_up(store: MemoryStore, authority: Authority, clock: SetClock, seconds: float) -> None:
    """Lead for so long."""
    with trio.move_on_after(seconds):
        await Upkeep(store=store, authority=authority, clock=clock).run()


async def test_rotation_goes_on(
    store: MemoryStore, authority: Authority, clock: SetClock, autojump_clock: MockClock
) -> None:
    """A rotation is taken on from step to step until the old root is gone."""
    begun = await Rotator(store=store, authority=authority, clock=clock).start_root()
    await keep_up(store, authority, clock, 2 * (SETTLE.total_seconds() + 2 * ROUND_SECONDS))
    (root,) = (await read_trust(store)).roots
    assert issuer.fingerprint(root) == begun.root


async def test_intermediate_renewed(
    store: MemoryStore, authority: Authority, clock: SetClock, autojump_clock: MockClock
) -> None:
    """An intermediate near its end gives way to another, and not before."""
    first = authority.issuing
    clock.now = first.certificate.not_valid_after_utc - INTERMEDIATE_RENEWAL - timedelta(hours=1)
    await keep_up(store, authority, clock, 60)
    assert authority.issuing is first
    clock.advance(hours=1)
    await keep_up(store, authority, clock, 60)
    assert (await read_trust(store)).spec.issuer != first.fingerprint
    assert authority.issuing.certificate.not_valid_after_utc > first.certificate.not_valid_after_utc


async def test_root_ends_first(
    store: MemoryStore, authority: Authority, clock: SetClock, autojump_clock: MockClock
) -> None:
    """Near the root's end no intermediate after the other is made; the log says what to do."""
    clock.now = authority.root.not_valid_after_utc - timedelta(days=30)
    await Rotator(store=store, authority=authority, clock=clock).start_intermediate()
    await Rotator(store=store, authority=authority, clock=clock).advance(force=True)
    before = authority.issuing.fingerprint
    with capture_logs() as logs:
        await keep_up(store, authority, clock, 60)
    assert (await read_trust(store)).spec.issuer == before
    (warning,) = [line for line in logs if line["event"].startswith("signing certificate ends soon")]
    assert (warning["what"], warning["days_left"]) == ("root", 30)


async def test_external(store: MemoryStore, clock: SetClock, autojump_clock: MockClock) -> None:
    """An intermediate that only an operator's authority can renew is warned of, with what to run."""
    root = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=1, now=START)
    signer = issuer.make_intermediate(root, new_key(), trust_domain=TRUST_DOMAIN, serial=2, now=START)
    founding = found_with(root.certificate, IssuingKey(signer), trust_domain=TRUST_DOMAIN, kek=KEK, now=START)
    await store.commit(founding.conditions, founding.writes)
    authority = await Authority.load(store, kek=KEK, clock=clock)
    clock.advance(days=300)
    with capture_logs() as logs:
        await keep_up(store, authority, clock, 60)
    (warning,) = [line for line in logs if line["event"].startswith("signing certificate ends soon")]
    assert warning["what"] == "intermediate"
    assert "nodemesh-registry ca csr" in warning["reason"]


async def test_revocations_forgotten(
    store: MemoryStore, authority: Authority, clock: SetClock, autojump_clock: MockClock
) -> None:
    """A revocation that no certificate needs any more leaves the bundle."""
    await Editor(store=store, authority=authority, clock=clock).revoke("node", "web-1", reason="")
    await keep_up(store, authority, clock, 60)
    assert len((await read_trust(store)).spec.revocations) == 1
    clock.advance(days=31)
    await keep_up(store, authority, clock, 60)
    assert not (await read_trust(store)).spec.revocations


async def test_what_fails_is_tried_again(
    store: MemoryStore, authority: Authority, clock: SetClock, autojump_clock: MockClock
) -> None:
    """A rotation whose new key has vanished is complained of in every round, and harms nothing else."""
    begun = await Rotator(store=store, authority=authority, clock=clock).start_root()
    key = f"ca/keys/issuing-{begun.issuer[:16]}"
    item = await store.get(key)
    assert item is not None
    await store.delete(key)
    with capture_logs() as logs:
        await keep_up(store, authority, clock, SETTLE.total_seconds() + 10)
    assert any("upkeep" in line["event"] and "not in etcd" in line["reason"] for line in logs)
    await store.put(key, item.value)
    await keep_up(store, authority, clock, 2 * SETTLE.total_seconds() + 10)
    assert (await read_trust(store)).spec.issuer == begun.issuer


async def test_store_away(
    store: MemoryStore, authority: Authority, clock: SetClock, autojump_clock: MockClock
) -> None:
    """With the store away leading is over."""
    with store.outage(), pytest.raises(StoreUnavailable):
        await keep_up(store, authority, clock, 60)
