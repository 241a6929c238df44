from datetime import timedelta

import msgspec

from node_proxy.agent.credentials import hold
from node_proxy.agent.record_signing import RecordSigner
from registry.ca.issuer import to_pem
from registry.model.identity import NodeIdentity
from registry.model.parse import render
from registry.model.signature import strip
from registry.model.workload import Health
from tests.fakes.signers import NOON, MeshKeys
from tests.node_proxy.agent.documents import TRUST_DOMAIN, node, workload

RECORD = "nodes/web-1/record"
WORKLOAD = "nodes/web-1/workloads/default/api"


class Signing:
    """A node's signer, and its certificate as it is renewed."""

    def __init__(self) -> None:
        self.keys = MeshKeys()
        self.renew(hours=0)
        self.sign = RecordSigner(lambda: self.held)

    def renew(self, *, hours: int) -> None:
        """Get another certificate, so many hours after noon."""
        signer = self.keys.leaf(
            NodeIdentity(TRUST_DOMAIN, "web-1"), node="web-1", now=NOON + timedelta(hours=hours)
        )
        self.held = hold("".join(map(to_pem, signer.chain)), signer.key)


def test_what_readers_verify() -> None:
    """Records and workloads are signed as the node; a reader of the mesh agrees."""
    signing = Signing()
    for place, resource in ((RECORD, node("web-1")), (WORKLOAD, workload(on="web-1"))):
        value = signing.sign(place, resource)
        assert strip(value) == render(resource)
        assert signing.keys.signatures().require(place, value, at=NOON).node == "web-1"


def test_the_same_while_nothing_changes() -> None:
    """The same resource gives the same bytes, so that nothing is written for nothing."""
    signing = Signing()
    assert signing.sign(RECORD, node("web-1")) == signing.sign(RECORD, node("web-1"))


def test_a_change_is_signed_anew() -> None:
    """What a workload's health changes is signed, and what it changes back too."""
    signing = Signing()
    sick = msgspec.structs.replace(
        workload(on="web-1"),
        spec=msgspec.structs.replace(workload(on="web-1").spec, health=Health.UNHEALTHY),
    )
    for resource in (workload(on="web-1"), sick, workload(on="web-1")):
        assert strip(signing.sign(WORKLOAD, resource)) == render(resource)


def test_renewal() -> None:
    """With another certificate everything is signed anew, before the old one ends."""
    signing = Signing()
    before = signing.sign(RECORD, node("web-1"))
    signing.renew(hours=12)
    after = signing.sign(RECORD, node("web-1"))
    assert before != after
    assert signing.keys.signatures().require(RECORD, after, at=NOON + timedelta(hours=30)).node == "web-1"


def test_reports_are_not_signed() -> None:
    """What nobody acts on carries no signature."""
    assert Signing().sign("nodes/web-1/status", node("web-1")) == render(node("web-1"))
