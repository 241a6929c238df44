"""Rotations carried out in each kind of store."""

from dataclasses import dataclass
from datetime import timedelta

import pytest
import trio
from cryptography import x509

from registry.ca import issuer, verifying
from registry.ca.authority import Authority
from registry.ca.bundle import read_trust
from registry.ca.revoking import Editor
from registry.ca.rotating import KEY, Rotator
from registry.ca.rotation import SETTLE
from registry.errors import Conflict, NotFound, Unauthenticated
from registry.model.identity import WorkloadIdentity
from registry.model.parse import render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.model.workload import Node, NodeSpec, NodeStatus, NodeStatusSpec
from registry.store.base import Store
from registry.store.signed import Signatures
from tests.fakes.signers import MeshKeys, enrolment
from tests.registry.ca.material import KEK, TRUST_DOMAIN, SetClock, found_authority, new_key

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")


@dataclass
class Replica:
    """A replica of the registry: its own memory over the shared store."""

    store: Store
    clock: SetClock
    authority: Authority

    @property
    def rotator(self) -> Rotator:
        """Its way to rotate."""
        return Rotator(store=self.store, authority=self.authority, clock=self.clock)

    def leaf(self) -> list[x509.Certificate]:
        """Issue a leaf; gives its chain."""
        issued = self.authority.sign(new_key().public_key(), WEB, node="web-1")
        return x509.load_pem_x509_certificates(issued.chain_pem.encode())

    async def believes(self, chain: list[x509.Certificate]) -> bool:
        """Whether a chain leads to what the bundle trusts now."""
        trust = await read_trust(self.store)
        try:
            verifying.verify_chain(chain, roots=trust.roots, trust_domain=TRUST_DOMAIN, now=self.clock())
        except Unauthenticated:
            return False
        return True


@pytest.fixture
async def replica(store: Store) -> Replica:
    clock = SetClock()
    return Replica(store, clock, await found_authority(store, clock))


@pytest.fixture
async def other(replica: Replica) -> Replica:
    """Give a second replica over the same store."""
    authority = await Authority.load(replica.store, kek=KEK, clock=replica.clock)
    return Replica(replica.store, replica.clock, authority)


async def report(store: Store, *, roots: tuple[str, ...] = (), issuers: tuple[str, ...] = ()) -> None:
    """Report as the live node web-1 does."""
    status = NodeStatus(
        api_version=NODEMESH,
        kind=NodeStatus.KIND,
        metadata=Metadata(name="web-1", namespace=ROOT_NAMESPACE),
        spec=NodeStatusSpec(applied_revision=1, trusted_roots=roots, issuers=issuers),
    )
    await store.put("nodes/web-1/record", b"{}")
    await store.put("nodes/web-1/status", render(status))


async def roots_of(store: Store) -> tuple[str, ...]:
    return tuple(issuer.fingerprint(root) for root in (await read_trust(store)).roots)


async def test_root(replica: Replica, other: Replica) -> None:
    """A new root is spread, issues by its intermediate on every replica, and stays alone."""
    store, clock = replica.store, replica.clock
    before = replica.leaf()
    (old,) = await roots_of(store)
    begun = await replica.rotator.start_root()
    assert await roots_of(store) == (old, begun.root)

    clock.advance(seconds=SETTLE.total_seconds())
    await report(store, roots=(old,))
    assert not await replica.rotator.advance()
    await report(store, roots=(old, begun.root), issuers=("0" * 64,))
    assert await replica.rotator.advance()

    await other.authority.refresh()
    during = other.leaf()
    assert issuer.fingerprint(during[1]) == begun.issuer
    assert await replica.believes(before)
    assert await replica.believes(during)

    clock.advance(seconds=SETTLE.total_seconds())
    assert not await other.rotator.advance()
    await report(store, roots=(old, begun.root), issuers=(begun.issuer,))
    assert await other.rotator.advance()
    assert await roots_of(store) == (begun.root,)
    assert await replica.rotator.progress() is None
    assert await replica.believes(during)
    assert not await replica.believes(before)
    ids = [item.key for item in (await store.list("ca/keys/")).items]
    assert ids == [f"ca/keys/issuing-{begun.issuer[:16]}", f"ca/keys/root-{begun.root[:16]}"]


async def test_signed_anew(replica: Replica) -> None:
    """When the old root goes, what the authority signed is signed by the new key and holds."""
    place = "enrolments/web-1"
    await replica.store.put(place, replica.authority.sign_resource(place, render(enrolment("web-1"))))
    await replica.rotator.start_root()
    for _ in range(2):
        assert await replica.rotator.advance(force=True)
    signatures = Signatures(trust_domain=TRUST_DOMAIN, roots=(await read_trust(replica.store)).roots)
    for folder in ("ca/bundle", "enrolments/"):
        for item in (await replica.store.list(folder)).items:
            signatures.require(item.key, item.value, at=replica.clock())


async def test_record_signed_before(replica: Replica) -> None:
    """A node whose record is still signed under the old intermediate is waited for, whatever it reports."""
    keys = MeshKeys(TRUST_DOMAIN)
    record = Node(
        api_version=NODEMESH,
        kind=Node.KIND,
        metadata=Metadata(name="web-1", namespace=ROOT_NAMESPACE),
        spec=NodeSpec(address="10.0.0.1"),
    )
    begun = await replica.rotator.start_intermediate()
    await report(replica.store, issuers=(begun.issuer,))
    await replica.store.put("nodes/web-1/record", keys.signed("nodes/web-1/record", record))
    replica.clock.advance(seconds=SETTLE.total_seconds())
    assert not await replica.rotator.advance()


async def test_intermediate(replica: Replica, other: Replica) -> None:
    """A new intermediate issues at once; the one before is forgotten when no live node shows it."""
    before, root = replica.leaf(), await roots_of(replica.store)
    begun = await replica.rotator.start_intermediate()
    assert (await other.authority.refresh()).spec.issuer == begun.issuer
    assert issuer.fingerprint(other.leaf()[1]) == begun.issuer
    assert await roots_of(replica.store) == root
    await report(replica.store, issuers=(begun.issuer,))
    replica.clock.advance(seconds=SETTLE.total_seconds())
    assert await other.rotator.advance()
    assert await other.believes(before)
    assert len((await replica.store.list("ca/keys/")).items) == 2


async def test_one_at_a_time(replica: Replica, other: Replica) -> None:
    """While one is under way no other starts, on whichever replica; of two at once one starts."""
    outcomes: list[bool] = []

    async def start(one: Replica) -> None:
        try:
            await one.rotator.start_root()
            outcomes.append(True)
        except Conflict:
            outcomes.append(False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start, replica)
        nursery.start_soon(start, other)
    assert sorted(outcomes) == [False, True]
    with pytest.raises(Conflict, match="under way already"):
        await other.rotator.start_intermediate()
    assert len(await roots_of(replica.store)) == 2


async def test_one_step_at_a_time(replica: Replica, other: Replica) -> None:
    """Replicas that take the same step at once take it once."""
    await replica.rotator.start_root()
    replica.clock.advance(seconds=SETTLE.total_seconds())
    taken: list[bool] = []

    async def advance(one: Replica) -> None:
        taken.append(await one.rotator.advance())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(advance, replica)
        nursery.start_soon(advance, other)
    assert sorted(taken) == [False, True]
    assert len(await roots_of(replica.store)) == 2


async def test_goes_on_after_a_restart(replica: Replica) -> None:
    """A replica that starts in the middle of a rotation goes on with it."""
    begun = await replica.rotator.start_root()
    for phases_left in (1, 0):
        fresh = await Authority.load(replica.store, kek=KEK, clock=replica.clock)
        replica.clock.advance(seconds=SETTLE.total_seconds())
        successor = Replica(replica.store, replica.clock, fresh)
        assert await successor.rotator.advance()
        assert (await successor.rotator.progress() is not None) == bool(phases_left)
    assert await roots_of(replica.store) == (begun.root,)


async def test_abort(replica: Replica) -> None:
    """Given up while it spreads, a rotation leaves nothing behind; later it cannot be."""
    before = [item.key for item in (await replica.store.list("ca/")).items]
    await replica.rotator.start_root()
    await replica.rotator.abort()
    assert [item.key for item in (await replica.store.list("ca/")).items] == before
    await replica.rotator.start_root()
    await replica.rotator.advance(force=True)
    with pytest.raises(Conflict, match="issues already"):
        await replica.rotator.abort()


async def test_nothing_to_take_on(replica: Replica) -> None:
    """Without a rotation there is nothing to take on or give up."""
    with pytest.raises(NotFound):
        await replica.rotator.advance()
    with pytest.raises(NotFound):
        await replica.rotator.abort()
    assert await replica.store.get(KEY) is None


async def test_unreadable_report(replica: Replica) -> None:
    """A node whose report does not parse is waited for, not passed over."""
    await replica.rotator.start_root()
    await report(replica.store)
    await replica.store.put("nodes/web-1/status", b"nonsense")
    replica.clock.advance(days=300)
    assert not await replica.rotator.advance()


async def test_revocations_survive(replica: Replica, other: Replica) -> None:
    """Edits of the bundle on two replicas and a rotation do not undo each other."""
    editors = [Editor(store=one.store, authority=one.authority, clock=one.clock) for one in (replica, other)]
    await replica.rotator.start_root()

    async def revoke(number: int) -> None:
        await editors[number % 2].revoke("node", f"web-{number}", reason="")

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(revoke, number)
        replica.clock.advance(seconds=SETTLE.total_seconds())
        await replica.rotator.advance()
    trust = await read_trust(replica.store)
    assert {each.value for each in trust.spec.revocations} == {f"web-{number}" for number in range(6)}
    assert len(trust.roots) == 2


async def test_lifetimes(replica: Replica) -> None:
    """No leaf outlives the intermediate, and no intermediate its root."""
    end = replica.authority.issuing.certificate.not_valid_after_utc
    assert end <= replica.authority.root.not_valid_after_utc
    replica.clock.now = end - timedelta(hours=1)
    assert replica.leaf()[0].not_valid_after_utc == end
