"""The steps of a rotation, and that nobody valid is refused at any of them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry.ca.rotation import (
    SETTLE,
    SKEW,
    HoldUp,
    Standing,
    begin,
    bundle_for,
    bundle_without,
    hold_ups,
    step,
)
from registry.model.enrolment import TrustBundleSpec
from registry.model.rotation import Phase, RotationSpec
from tests.registry.ca.material import START

OLD, NEW = "0" * 64, "1" * 64
ISSUER = "a" * 64
DAY = timedelta(hours=24)


def start(*outgoing: str, root: str = NEW, now: datetime = START) -> RotationSpec:
    return begin(root=root, issuer=ISSUER, outgoing=outgoing, leaf_lifetime=DAY, now=now)


def node(
    name: str = "n1", *, live: bool = True, roots: tuple[str, ...] = (), issuers: tuple[str, ...] = ()
) -> Standing:
    return Standing(name, live, frozenset(roots), frozenset(issuers))


def waits(rotation: RotationSpec, *nodes: Standing, after: timedelta = SETTLE) -> list[HoldUp]:
    return hold_ups(rotation, nodes, now=START + after)


class TestSpreading:
    def test_first(self) -> None:
        """A new root is spread before its intermediate issues."""
        assert start(OLD).phase is Phase.SPREADING

    def test_settles(self) -> None:
        """Even with nobody to wait for, the replicas are given time."""
        assert waits(start(OLD), after=timedelta()) == [
            HoldUp("the registry's replicas take it in", START + SETTLE)
        ]
        assert not waits(start(OLD))

    def test_reported(self) -> None:
        """A live node that trusts both roots holds nothing up."""
        assert not waits(start(OLD), node(roots=(OLD, NEW)))

    @pytest.mark.parametrize("roots", [(), (OLD,), (NEW,)])
    def test_not_reported(self, roots: tuple[str, ...]) -> None:
        """A live node that does not say it trusts both is waited for without end."""
        (hold_up,) = waits(start(OLD), node(roots=roots), after=timedelta(days=400))
        assert hold_up.until is None
        assert "n1 has not reported yet" in hold_up.why

    def test_away(self) -> None:
        """A node that is away is waited for as long as its certificates could live, and no longer."""
        outlived = DAY + SKEW
        (hold_up,) = waits(start(OLD), node(live=False), after=outlived - timedelta(seconds=1))
        assert hold_up.until == START + outlived
        assert not waits(start(OLD), node(live=False), after=outlived)

    def test_many(self) -> None:
        """Of thousands that are waited for some are named and the rest counted."""
        (hold_up,) = waits(start(OLD), *(node(f"n{number:04}") for number in range(1000)))
        assert hold_up.why.startswith("n0000, n0001, ")
        assert "and 990 more have not" in hold_up.why

    def test_next(self) -> None:
        """Then the new intermediate issues, and both roots stay."""
        before = start(OLD)
        after = step(before, now=START + DAY)
        assert after is not None
        assert (after.phase, after.since) == (Phase.MOVING, "2026-03-02T12:00:00Z")
        bundle = TrustBundleSpec(trust_domain="mesh.test", roots_pem=("old", "new"), issuer="b" * 64)
        moved = bundle_for(bundle, before, after, {OLD: "old", NEW: "new"})
        assert (moved.issuer, moved.roots_pem) == (ISSUER, ("old", "new"))

    def test_abort(self) -> None:
        """Until then it can be given up, and the new root goes."""
        bundle = TrustBundleSpec(trust_domain="mesh.test", roots_pem=("old", "new"))
        without = bundle_without(bundle, start(OLD), {OLD: "old", NEW: "new"})
        assert without is not None
        assert without.roots_pem == ("old",)


class TestMoving:
    MOVING = step(start(OLD), now=START)

    def moving(self) -> RotationSpec:
        """Give a rotation in that phase."""
        assert self.MOVING is not None
        return self.MOVING

    def test_renewed(self) -> None:
        """A node all of whose certificates are of the new intermediate holds nothing up."""
        assert not waits(self.moving(), node(issuers=(ISSUER,)))

    @pytest.mark.parametrize("issuers", [(), ("b" * 64,), (ISSUER, "b" * 64)])
    def test_not_renewed(self, issuers: tuple[str, ...]) -> None:
        """One that has others, or does not say, is waited for until they have ended in any case."""
        (hold_up,) = waits(self.moving(), node(issuers=issuers))
        assert hold_up.until == START + DAY + SKEW
        assert not waits(self.moving(), node(issuers=issuers), after=DAY + SKEW)

    def test_last(self) -> None:
        """Then the old root goes."""
        assert step(self.moving(), now=START) is None
        bundle = TrustBundleSpec(trust_domain="mesh.test", roots_pem=("old", "new"), issuer=ISSUER)
        done = bundle_for(bundle, self.moving(), None, {OLD: "old", NEW: "new"})
        assert done.roots_pem == ("new",)

    def test_too_late(self) -> None:
        """It cannot be given up any more: nodes have certificates of the new root."""
        bundle = TrustBundleSpec(trust_domain="mesh.test", roots_pem=("old", "new"))
        assert bundle_without(bundle, self.moving(), {OLD: "old", NEW: "new"}) is None


class TestIntermediate:
    def test_at_once(self) -> None:
        """An intermediate of the root that is trusted already issues from the start."""
        assert start(root=OLD).phase is Phase.MOVING

    def test_away(self) -> None:
        """Nobody who is away is waited for: no root goes."""
        assert not waits(start(root=OLD), node(live=False), node("n2", issuers=(ISSUER,)))


@dataclass
class Peer:
    """A node of the simulation: what it trusts and shows; `live` while etcd hears from it."""

    trusts: frozenset[str]
    root: str
    issuer: str
    ends: datetime
    live: bool = True


class Rotations(RuleBasedStateMachine):
    """Nodes that sync, renew, vanish and return in any order while roots and intermediates change.

    What nodes report is what they had when they last spoke; certificates are renewed at any time, also by a
    node that etcd does not hear from, and come with the bundle as the registry sends it.
    """

    @initialize(count=st.integers(2, 3))
    def found(self, count: int) -> None:
        """Make the first root and the nodes."""
        self.now = START
        self.made = 0
        self.root_of: dict[str, str] = {}
        root, issuer = self._make(None)
        self.trusted = TrustBundleSpec(trust_domain="mesh.test", roots_pem=(root,), issuer=issuer)
        self.rotation: RotationSpec | None = None
        self.peers = [self._renewed(Peer(frozenset(), "", "", self.now)) for _ in range(count)]

    def _make(self, root: str | None) -> tuple[str, str]:
        self.made += 1
        root = root or f"root{self.made}"
        self.root_of[f"issuer{self.made}"] = root
        return root, f"issuer{self.made}"

    def _renewed(self, peer: Peer) -> Peer:
        peer.issuer = self.trusted.issuer
        peer.root = self.root_of[peer.issuer]
        peer.ends = self.now + DAY
        peer.trusts = frozenset(self.trusted.roots_pem)
        return peer

    def _roots(self) -> dict[str, str]:
        return {root: root for root in self.trusted.roots_pem}

    @rule(minutes=st.integers(1, 60 * 30) | st.just(24 * 60 + 5))
    def time_passes(self, minutes: int) -> None:
        """Let time pass."""
        self.now += timedelta(minutes=minutes)
        self._take_step()

    @rule(data=st.data())
    def peer_moves(self, data: st.DataObject) -> None:
        """Let a node vanish from etcd's sight, or return to it; it serves in either case."""
        peer = data.draw(st.sampled_from(self.peers))
        peer.live = not peer.live
        self._take_step()

    @rule(data=st.data(), renews=st.booleans())
    def peers_act(self, data: st.DataObject, renews: bool) -> None:
        """Let some nodes take in what is new, and all of a minute pass."""
        for peer in data.draw(st.lists(st.sampled_from(self.peers), unique_by=id)):
            if renews:
                self._renewed(peer)
            elif peer.live:
                peer.trusts = frozenset(self.trusted.roots_pem)
        self.now += timedelta(minutes=1)
        self._take_step()

    @rule(renews=st.booleans())
    def live_peers_act(self, renews: bool) -> None:
        """Let every live node take in what is new, as they do unless something is wrong."""
        for peer in self.peers:
            if peer.live and renews:
                self._renewed(peer)
            elif peer.live:
                peer.trusts = frozenset(self.trusted.roots_pem)
        self.now += timedelta(minutes=1)
        self._take_step()

    @precondition(lambda self: self.rotation is None)
    @rule(whole=st.booleans())
    def begin(self, whole: bool) -> None:
        """Start a rotation."""
        trusted = self.trusted.roots_pem
        root, issuer = self._make(None if whole else trusted[0])
        self.rotation = begin(
            root=root,
            issuer=issuer,
            outgoing=trusted if whole else (),
            leaf_lifetime=DAY,
            now=self.now,
        )
        self.trusted = TrustBundleSpec(
            trust_domain="mesh.test",
            roots_pem=(*trusted, root) if whole else trusted,
            issuer=self.trusted.issuer if whole else issuer,
        )

    def _take_step(self) -> None:
        """Take the next step if nothing holds it up, as the controller does all the time."""
        if self.rotation is None:
            return
        standings = [
            Standing(f"n{number}", peer.live, peer.trusts, frozenset((peer.issuer,)))
            if peer.live
            else Standing(f"n{number}", live=False)
            for number, peer in enumerate(self.peers)
        ]
        if hold_ups(self.rotation, standings, now=self.now):
            return
        after = step(self.rotation, now=self.now)
        self.trusted = bundle_for(self.trusted, self.rotation, after, self._roots())
        self.rotation = after

    @precondition(lambda self: self.rotation is not None)
    @rule(seldom=st.integers(0, 4))
    def abort(self, seldom: int) -> None:
        """Give up, if it can be; seldom, for else no rotation would get far."""
        if self.rotation is None or seldom:
            return
        without = bundle_without(self.trusted, self.rotation, self._roots())
        if without is not None:
            self.trusted, self.rotation = without, None

    @invariant()
    def valid_peers_trust_each_other(self) -> None:
        """Whoever has a valid certificate is believed by every other that has one."""
        valid = [peer for peer in self.peers if peer.ends > self.now]
        assert all(one.root in other.trusts for one in valid for other in valid)


TestRotations = Rotations.TestCase
TestRotations.settings = hypothesis.settings(max_examples=250, stateful_step_count=50)
