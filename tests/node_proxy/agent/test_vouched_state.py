"""Whose word counts: what a node does with records that are unsigned, forged, or of nodes that may not."""

from datetime import timedelta

import msgspec
import pytest

from node_proxy.agent.state import MeshState
from node_proxy.agent.trust import Trust, trust_of
from node_proxy.agent.vouching import Vouching
from registry.ca.issuer import to_pem
from registry.model.enrolment import TrustBundle
from registry.model.mesh import Mesh, PolicySigning
from registry.model.parse import render
from registry.model.resource import Resource
from registry.model.service import Service
from registry.model.workload import Node, Workload
from registry.store.signed import Signatures
from tests.fakes.signers import NOON, MeshKeys, revoked_node
from tests.node_proxy.agent.documents import changed, mesh, node, policy, relisted, removed, service, workload

RECORD = "nodes/api-1/record"
WORKLOAD = "nodes/api-1/workloads/default/api"
ENROLMENT = "enrolments/api-1"
API = "services/default/api"


class Watched:
    """A node's state, what others write into it, and a clock."""

    def __init__(self, *, roots: MeshKeys | None = None) -> None:
        self.keys = MeshKeys()
        self.now = NOON
        self._trusted = trusted = roots or self.keys
        self.state = MeshState(
            trust_domain=self.keys.trust_domain,
            trust=self.trust,
            vouching=Vouching(
                Signatures(trust_domain=self.keys.trust_domain, roots=trusted.roots), lambda: self.now
            ),
        )
        self.revision = 1
        self._created: dict[str, int] = {}

    def trust(self) -> Trust:
        """Give whom the node trusts now, as its credentials do: they follow the bundle."""
        if bundle := self.state.get("ca/bundle", TrustBundle):
            return trust_of(bundle.spec)
        return Trust(roots=tuple(to_pem(root) for root in self._trusted.roots))

    def write(self, place: str, value: Resource | bytes) -> None:
        """Write a value; a resource is signed as it should be."""
        self.revision += 1
        raw = value if isinstance(value, bytes) else self.keys.signed(place, value)
        created = self._created.setdefault(place, self.revision)
        self.state.apply(changed(place, raw, self.revision, created=created))

    def delete(self, place: str) -> None:
        """Delete a key."""
        self.revision += 1
        self._created.pop(place, None)
        self.state.apply(removed(place, self.revision))

    def api_runs(self) -> None:
        """Write what a good node writes."""
        self.write(ENROLMENT, self.keys.enrolment("api-1", "api"))
        self.write(RECORD, node("api-1"))
        self.write(WORKLOAD, workload(on="api-1"))

    def in_force(self) -> set[str]:
        """Give the keys of records and workloads in force."""
        return {key for kind in (Node, Workload) for key, _ in self.state.of(kind)}

    def why(self, key: str) -> str:
        """Say why a key is rejected."""
        return next((each.reason for each in self.state.rejections() if each.key == key), "")


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_signed_and_enrolled(watched: Watched) -> None:
    """What an enrolled node signs of itself is in force, without its signature."""
    watched.api_runs()
    assert dict(watched.state.of(Workload)) == {WORKLOAD: workload(on="api-1")}
    assert watched.state.rejections() == ()


@pytest.mark.parametrize("place", [RECORD, WORKLOAD])
def test_unsigned(watched: Watched, place: str) -> None:
    """What a node has not signed is not used, and the rejection says to upgrade the node."""
    watched.write(ENROLMENT, watched.keys.enrolment("api-1", "api"))
    watched.write(place, render(node("api-1") if place == RECORD else workload(on="api-1")))
    assert watched.in_force() == set()
    assert "upgrade nodemesh-proxy on api-1" in watched.why(place)


def test_another_nodes_address(watched: Watched) -> None:
    """A node that writes another's record, to draw its traffic, changes nothing."""
    watched.api_runs()
    lie = node("api-1", address="10.66.6.6")
    watched.write(RECORD, watched.keys.node("evil-1").sign(RECORD, render(lie)))
    assert watched.state.get(RECORD, Node) == node("api-1")
    assert "signed by spiffe://nodemesh.local/node/evil-1" in watched.why(RECORD)


def test_forged_identity(watched: Watched) -> None:
    """A node that claims a workload of an identity it is not enrolled for gets no traffic for it."""
    watched.write("enrolments/evil-1", watched.keys.enrolment("evil-1", "web"))
    watched.write("nodes/evil-1/record", node("evil-1"))
    place = "nodes/evil-1/workloads/default/api"
    watched.write(place, workload(on="evil-1"))
    assert watched.in_force() == {"nodes/evil-1/record"}
    assert "not enrolled for spiffe://nodemesh.local/ns/default/sa/api" in watched.why(place)


def test_forged_enrolment(watched: Watched) -> None:
    """A node that writes itself an enrolment, signed by itself or by nobody, is not enrolled."""
    for value in (
        watched.keys.node("evil-1").sign("enrolments/evil-1", watched.keys.enrolment("evil-1", "api")),
        watched.keys.authority.sign("enrolments/api-1", watched.keys.enrolment("evil-1", "api")),
    ):
        watched.write("enrolments/evil-1", value)
        watched.write("nodes/evil-1/record", node("evil-1"))
        assert watched.in_force() == set()


def test_moved(watched: Watched) -> None:
    """A node's good value, copied under another key, is not used there."""
    watched.api_runs()
    value = watched.keys.signed(WORKLOAD, workload(on="api-1"))
    watched.write("nodes/api-1/workloads/default/other", value)
    assert watched.in_force() == {RECORD, WORKLOAD}


def test_not_enrolled(watched: Watched) -> None:
    """A node's records count when it is enrolled, whichever is seen first, and no longer than that."""
    watched.write(RECORD, node("api-1"))
    assert (watched.in_force(), "not enrolled" in watched.why(RECORD)) == (set(), True)
    watched.write(ENROLMENT, watched.keys.enrolment("api-1", "api"))
    assert (watched.in_force(), watched.why(RECORD)) == ({RECORD}, "")
    watched.delete(ENROLMENT)
    assert watched.in_force() == set()


def test_forbidden(watched: Watched) -> None:
    """An identity taken from the enrolment takes its workload out of service at once."""
    watched.api_runs()
    watched.write(ENROLMENT, watched.keys.enrolment("api-1", "web"))
    assert watched.in_force() == {RECORD}


def test_enrolled_anew(watched: Watched) -> None:
    """What was signed with a certificate from before the node was enrolled anew does not count."""
    watched.api_runs()
    later = NOON + timedelta(hours=1)
    watched.write(ENROLMENT, watched.keys.enrolment("api-1", "api", enrolled_at=later))
    assert (watched.in_force(), "enrolled anew" in watched.why(RECORD)) == (set(), True)


def test_revoked(watched: Watched) -> None:
    """A revoked node's records do not count, whether the revocation is seen before them or after."""
    watched.api_runs()
    watched.write("ca/bundle", watched.keys.bundle(revoked_node("api-1")))
    assert (watched.in_force(), "revoked by node" in watched.why(WORKLOAD)) == (set(), True)
    watched.write(WORKLOAD, workload(on="api-1", ports=(8081,)))
    assert watched.in_force() == set()
    watched.write("ca/bundle", watched.keys.bundle())
    assert watched.in_force() == {RECORD, WORKLOAD}


def test_expired_certificate(watched: Watched) -> None:
    """What is in force stays when its signer's certificate ends; what is written then does not count."""
    watched.api_runs()
    watched.now = NOON + timedelta(hours=25)
    watched.write(RECORD, node("api-1", address="10.77.0.9"))
    assert watched.state.get(RECORD, Node) == node("api-1")
    assert "expired at" in watched.why(RECORD)


def test_restored(watched: Watched) -> None:
    """What the cache kept is in force again after the signer's certificate has ended, and judged again."""
    watched.api_runs()
    watched.write("nodes/evil-1/record", node("evil-1"))
    after = Watched(roots=watched.keys)
    after.now = NOON + timedelta(days=7)
    after.state.restore(9, watched.state.records())
    assert after.in_force() == {RECORD, WORKLOAD}
    assert "not enrolled" in after.why("nodes/evil-1/record")


def test_restored_under_other_roots(watched: Watched) -> None:
    """A cache says nothing to a node that has joined another mesh since."""
    watched.api_runs()
    after = Watched()
    after.state.restore(9, watched.state.records())
    assert after.in_force() == set()


def test_listed_in_any_order(watched: Watched) -> None:
    """In a listing the order of the keys does not matter."""
    keys = watched.keys
    written = {
        RECORD: keys.signed(RECORD, node("api-1")),
        ENROLMENT: keys.enrolment("api-1", "api"),
        "ca/bundle": keys.bundle(),
    }
    events = [changed(place, value, 7) for place, value in written.items()]
    watched.state.examine(event.item for event in events)
    watched.state.apply(relisted(7, *events))
    assert watched.in_force() == {RECORD}


def test_bundle_of_a_stranger(watched: Watched) -> None:
    """A bundle that adds a root changes nothing unless it is signed under a root already trusted."""
    stranger = MeshKeys()
    both = (*watched.keys.roots, *stranger.roots)
    for forged in (
        stranger.bundle(roots=both),
        watched.keys.node("evil-1").sign("ca/bundle", stranger.bundle()),
    ):
        watched.write("ca/bundle", forged)
        assert watched.state.get("ca/bundle", TrustBundle) is None
    watched.write(ENROLMENT, stranger.enrolment("api-1", "api"))
    assert "not of this mesh" in watched.why(ENROLMENT)


def test_roots_follow_the_bundle(watched: Watched) -> None:
    """A root that comes in is believed; when the old one goes, what it vouched for does not count."""
    old, new = watched.keys, MeshKeys()
    watched.api_runs()
    watched.write("ca/bundle", old.bundle(roots=(*old.roots, *new.roots)))
    watched.write("ca/bundle", new.bundle(roots=new.roots))
    assert watched.in_force() == set()
    watched.write(ENROLMENT, new.enrolment("api-1", "api"))
    watched.write(RECORD, new.signed(RECORD, node("api-1")))
    assert watched.in_force() == {RECORD}


def test_bundle_deleted(watched: Watched) -> None:
    """Deleting the bundle, which nobody can sign, brings nobody back."""
    watched.api_runs()
    watched.write("ca/bundle", watched.keys.bundle(revoked_node("api-1")))
    watched.delete("ca/bundle")
    assert watched.in_force() == set()
    assert "stays in force" in watched.why("ca/bundle")


def signing_mesh() -> Mesh:
    settings = mesh()
    spec = msgspec.structs.replace(settings.spec, policy_signing=PolicySigning.REQUIRED)
    return msgspec.structs.replace(settings, spec=spec)


class TestPolicySigning:
    def test_off(self, watched: Watched) -> None:
        """Without policySigning an edit by hand is an edit, even one of what was signed before."""
        watched.write(API, service())
        watched.write(API, watched.keys.signed(API, service()).replace(b'"port":80', b'"port":81'))
        assert watched.state.get(API, Service) == service(port=81)

    def test_required(self, watched: Watched) -> None:
        """Where it is required, an unsigned edit is rejected and the last good stays in force."""
        watched.write("mesh", signing_mesh())
        watched.write(API, service())
        for value in (
            render(service(port=81)),
            watched.keys.node("evil-1").sign(API, render(service(port=81))),
        ):
            watched.write(API, value)
            assert watched.state.get(API, Service) == service()
            assert watched.why(API)
        watched.write(API, service(port=82))
        assert (watched.state.get(API, Service), watched.why(API)) == (service(port=82), "")

    def test_policy_never_signed(self, watched: Watched) -> None:
        """A policy that never was signed closes its namespace, as one that never parsed."""
        watched.write("mesh", signing_mesh())
        watched.write("authorizationpolicies/default/p", render(policy()))
        assert watched.state.closed_namespaces() == {"default": "authorizationpolicies/default/p"}

    def test_not_switched_off_by_hand(self, watched: Watched) -> None:
        """An unsigned edit of the settings, or their deletion, does not end the requirement."""
        watched.write("mesh", signing_mesh())
        watched.write("mesh", render(mesh()))
        assert watched.state.mesh().policy_signing is PolicySigning.REQUIRED
        watched.delete("mesh")
        assert watched.state.mesh().policy_signing is PolicySigning.REQUIRED
        assert "policySigning is required" in watched.why("mesh")
        watched.write("mesh", render(mesh()))
        assert watched.state.mesh().policy_signing is PolicySigning.REQUIRED
        watched.write("mesh", mesh())
        assert watched.state.mesh().policy_signing is PolicySigning.OFF

    def test_not_switched_on_by_hand(self, watched: Watched) -> None:
        """The edit that asks for signatures must carry one itself."""
        watched.write("mesh", render(signing_mesh()))
        assert "policySigning is required" in watched.why("mesh")

    def test_listed(self, watched: Watched) -> None:
        """In a listing the settings are read before what they concern."""
        events = [
            changed(API, service(), 3),
            changed("mesh", watched.keys.signed("mesh", signing_mesh()), 2),
        ]
        watched.state.apply(relisted(9, *events))
        assert watched.state.get(API, Service) is None
