from datetime import datetime, timedelta

import pytest

from registry.errors import InvalidResource
from registry.model.identity import NodeIdentity
from registry.model.parse import render
from registry.store import keys
from registry.store.base import KeyValue
from registry.store.signed import rule_for
from tests.fakes.signers import NOON, MeshKeys, bundle, enrolment

RECORD = "nodes/web-1/record"
ENROLMENT = "enrolments/web-1"
VALUE = render(enrolment("web-1"))


@pytest.fixture(scope="module")
def mesh() -> MeshKeys:
    return MeshKeys()


def refusal(mesh: MeshKeys, place: str, value: bytes, at: datetime | None = NOON) -> str:
    with pytest.raises(InvalidResource) as caught:
        mesh.signatures().require(place, value, at=at)
    assert (caught.value.where, caught.value.path) == (place, "signature")
    return caught.value.describe()


def test_a_node_for_itself(mesh: MeshKeys) -> None:
    """A node's signature on its own record holds, and says who signed with which certificate."""
    signer = mesh.signatures().require(RECORD, mesh.node("web-1").sign(RECORD, VALUE), at=NOON)
    assert (signer.node, signer.facts.identity) == ("web-1", "spiffe://nodemesh.local/node/web-1")
    assert len(signer.facts.serials) == 2


def test_the_authority_for_enrolments(mesh: MeshKeys) -> None:
    """The issuing key's signature on an enrolment holds."""
    assert mesh.signatures().require(ENROLMENT, mesh.enrolment("web-1", "web"), at=NOON).node is None


@pytest.mark.parametrize("place", [RECORD, "nodes/web-1/workloads/default/web"])
def test_a_node_for_another(mesh: MeshKeys, place: str) -> None:
    """A node's signature under another node's folder does not hold."""
    assert "not by the node web-1" in refusal(mesh, place, mesh.node("web-2").sign(place, VALUE))


@pytest.mark.parametrize("place", [ENROLMENT, "ca/bundle", "authorizationpolicies/default/p", "mesh"])
def test_a_node_for_the_authority(mesh: MeshKeys, place: str) -> None:
    """A node's signature on what the authority signs does not hold, not even on its own enrolment."""
    assert "not by the mesh's authority" in refusal(mesh, place, mesh.node("web-1").sign(place, VALUE))


def test_the_authority_for_a_node(mesh: MeshKeys) -> None:
    """The authority does not speak for nodes."""
    assert "not by the node web-1" in refusal(mesh, RECORD, mesh.authority.sign(RECORD, VALUE))


def test_a_workload_key(mesh: MeshKeys) -> None:
    """A workload's certificate, which a workload may have got hold of, signs nothing."""
    value = mesh.workload("web", node="web-1").sign(RECORD, VALUE)
    assert "which is no node" in refusal(mesh, RECORD, value)


def test_another_mesh(mesh: MeshKeys) -> None:
    """Another mesh's signatures do not hold, be it of the same name."""
    other = MeshKeys()
    for place, value in (
        (RECORD, other.node("web-1").sign(RECORD, VALUE)),
        (ENROLMENT, other.enrolment("web-1", "web")),
    ):
        assert "not of this mesh" in refusal(mesh, place, value)


def test_another_trust_domain(mesh: MeshKeys) -> None:
    """A node of a federated trust domain is no node of this one, even under a root that is trusted."""
    signer = mesh.leaf(NodeIdentity("other.example", "web-1"), node="web-1")
    assert "no node of nodemesh.local" in refusal(mesh, RECORD, signer.sign(RECORD, VALUE))


def test_unsigned(mesh: MeshKeys) -> None:
    """What is not signed says what to do about it, by who should have signed."""
    assert "upgrade nodemesh-proxy on web-1" in refusal(mesh, RECORD, VALUE)
    assert "meshctl node approve" in refusal(mesh, ENROLMENT, VALUE)
    assert "policySigning is required" in refusal(mesh, "services/default/web", VALUE)


@pytest.mark.parametrize(
    ("late", "text"), [(timedelta(hours=25), "expired at"), (-timedelta(minutes=6), "is valid from")]
)
def test_certificate_not_valid_now(mesh: MeshKeys, late: timedelta, text: str) -> None:
    """A signature by a certificate that is not valid now does not hold."""
    assert text in refusal(mesh, RECORD, mesh.node("web-1").sign(RECORD, VALUE), NOON + late)


def test_found_good_before(mesh: MeshKeys) -> None:
    """What was found good before holds without a look at the clock."""
    value = mesh.node("web-1").sign(RECORD, VALUE)
    assert mesh.signatures().require(RECORD, value, at=None).node == "web-1"


def test_roots_change(mesh: MeshKeys) -> None:
    """When other roots are trusted, what the old ones vouched for holds no more."""
    signatures = mesh.signatures()
    value = mesh.enrolment("web-1", "web")
    signatures.require(ENROLMENT, value, at=NOON)
    assert signatures.trust(MeshKeys().roots)
    with pytest.raises(InvalidResource, match="root is not trusted"):
        signatures.require(ENROLMENT, value, at=NOON)


def test_an_older_intermediate(mesh: MeshKeys) -> None:
    """What an intermediate signed holds after the authority has moved to the next."""
    value = mesh.enrolment("web-1", "web")
    mesh.issuing = mesh.new_issuing()
    assert mesh.signatures().require(ENROLMENT, value, at=NOON)


def test_examined_before(mesh: MeshKeys) -> None:
    """Looking ahead raises nothing, whatever the values are."""
    signatures = mesh.signatures()
    signatures.examine(
        KeyValue(key, value, 1, 1) for key, value in ((RECORD, b"{"), (ENROLMENT, VALUE), ("junk", b""))
    )
    assert "is not signed" in refusal(mesh, ENROLMENT, VALUE)


def test_nobody_signs_for_the_rest() -> None:
    """Nodes' reports and sealed keys carry no signature."""
    for key in (keys.NodeStatusKey("a"), keys.SigningKeyKey("a"), None):
        assert rule_for(key) is None


def test_bundle(mesh: MeshKeys) -> None:
    """A bundle that adds a root is believed by those who trust the root that signed it."""
    other = MeshKeys()
    mesh.signatures().require("ca/bundle", mesh.bundle(roots=(*mesh.roots, *other.roots)), at=NOON)
    value = other.authority.sign("ca/bundle", render(bundle("nodemesh.local", other.roots)))
    assert "not of this mesh" in refusal(mesh, "ca/bundle", value)
