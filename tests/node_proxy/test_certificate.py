"""What is read from certificates."""

import pytest

from node_proxy.certificate import facts_of, fingerprint, issuer_of, read_roots
from registry.model.identity import InvalidIdentity, NodeIdentity, WorkloadIdentity
from registry.model.revocation import BACKDATE
from tests.integration.certificates import TRUST_DOMAIN, Authority, spiffe

ROOT = Authority("root", path_length=1)
ISSUING = Authority("issuing", above=ROOT)
WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")


def test_facts_of_a_workload() -> None:
    """A workload's certificate says which node obtained it; the chain's serials come leaf first."""
    leaf = ISSUING.issue(str(WEB), node="web-1").certificate
    facts = facts_of((leaf, ISSUING.certificate), WEB, trust_domain=TRUST_DOMAIN)
    assert facts.identity == str(WEB)
    assert facts.node == "web-1"
    assert facts.serials == (leaf.serial_number, ISSUING.certificate.serial_number)
    assert facts.not_before == leaf.not_valid_before_utc


def test_facts_of_a_node() -> None:
    """A node's own certificate is its node's, whatever its extension says."""
    node = NodeIdentity(TRUST_DOMAIN, "web-1")
    leaf = ROOT.issue(str(WEB), uris=(str(node),), node="web-2").certificate
    assert facts_of((leaf,), node, trust_domain=TRUST_DOMAIN).node == "web-1"


def test_facts_of_another_mesh() -> None:
    """Another mesh's certificates name none of our nodes, and are not taken to be dated back."""
    identity = WorkloadIdentity("partner.example", "default", "web")
    leaf = ROOT.issue(spiffe("web", trust_domain="partner.example"), node="web-1").certificate
    facts = facts_of((leaf,), identity, trust_domain=TRUST_DOMAIN)
    assert facts.node == ""
    assert facts.not_before + BACKDATE == leaf.not_valid_before_utc


def test_certificate_that_names_no_node() -> None:
    """A certificate from before there was such an extension names none."""
    leaf = ROOT.issue(str(WEB)).certificate
    assert facts_of((leaf,), WEB, trust_domain=TRUST_DOMAIN).node == ""


def test_malformed_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension that names a node in another way is an error, not no node."""
    monkeypatch.setattr("tests.integration.certificates.encode_node", lambda _: b"\x30\x00")
    leaf = ROOT.issue(str(WEB), node="web-1").certificate
    with pytest.raises(InvalidIdentity):
        facts_of((leaf,), WEB, trust_domain=TRUST_DOMAIN)


def test_issuer() -> None:
    """The issuer is the intermediate that comes with the leaf, or else the root that signed it."""
    roots = [Authority("another").certificate, ROOT.certificate]
    below, direct = ISSUING.issue(str(WEB)).certificate, ROOT.issue(str(WEB)).certificate
    assert issuer_of((below, ISSUING.certificate), roots) == fingerprint(ISSUING.certificate)
    assert issuer_of((direct,), roots) == fingerprint(ROOT.certificate)
    assert issuer_of((below,), roots) == ""


def test_roots_in_one_text_or_several() -> None:
    """Roots may come one to a text or together, and a text without any is an error."""
    other = Authority("another")
    assert read_roots([ROOT.root_pem + other.root_pem]) == read_roots([ROOT.root_pem, other.root_pem])
    with pytest.raises(ValueError, match="PEM"):
        read_roots([""])
