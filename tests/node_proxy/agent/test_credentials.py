from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from node_proxy.agent.credentials import (
    Enrolment,
    Keyring,
    credentials_update,
    hold,
    new_key,
    signing_request,
)
from node_proxy.errors import ConfigError, EnrolmentError
from registry.model.identity import NodeIdentity, WorkloadIdentity
from tests.node_proxy.agent.documents import TRUST_DOMAIN
from tests.node_proxy.agent.material import NOON, make_authority

NODE = NodeIdentity(TRUST_DOMAIN, "web-1")
WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
AUTHORITY = make_authority()
ENROLMENT = Enrolment(
    node="web-1", identity=str(NODE), trust_domain=TRUST_DOMAIN, roots=(AUTHORITY.root_pem,)
)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "state")


def test_certificate_survives_a_restart(keyring: Keyring, tmp_path: Path) -> None:
    """What was saved is loaded by the next agent, key and chain together."""
    for identity in (NODE, WEB):
        held = AUTHORITY.held(identity)
        keyring.save(held)
        assert Keyring(tmp_path / "state").load(identity) == held


def test_nothing_is_stored_yet(keyring: Keyring) -> None:
    """An identity without a file has no certificate; a node without enrolment must join."""
    assert keyring.load(WEB) is None
    with pytest.raises(ConfigError, match="has not joined a mesh; run `nodemesh-proxy join"):
        keyring.enrolment()


def test_files_are_private(keyring: Keyring, tmp_path: Path) -> None:
    """Keys are readable by their owner alone, in a directory of their owner alone."""
    keyring.save(AUTHORITY.held(NODE))
    keyring.save_enrolment(ENROLMENT)
    directory = tmp_path / "state" / "credentials"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert sorted(path.name for path in directory.iterdir()) == ["enrolment.json", "node.pem"]
    assert keyring.enrolment() == ENROLMENT


def test_unwritable_directory_is_noticed_before_joining(tmp_path: Path) -> None:
    """A state_dir that cannot be made is the operator's fault, said before a token is spent."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="correct state_dir"):
        Keyring(tmp_path / "file").prepare()


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_damaged_file(keyring: Keyring, tmp_path: Path, text: str) -> None:
    """A damaged file is an error that names it, never a certificate."""
    keyring.save(AUTHORITY.held(WEB))
    path = tmp_path / "state" / "credentials" / "workload.default.web.pem"
    path.write_text(text)
    with pytest.raises(EnrolmentError, match=r"workload\.default\.web\.pem: is damaged"):
        keyring.load(WEB)


def test_file_of_another_identity(keyring: Keyring, tmp_path: Path) -> None:
    """A certificate under another's name is not used."""
    keyring.save(AUTHORITY.held(WEB))
    directory = tmp_path / "state" / "credentials"
    (directory / "workload.default.web.pem").rename(directory / "workload.default.api.pem")
    with pytest.raises(EnrolmentError, match=r"is for spiffe://nodemesh\.local/ns/default/sa/web"):
        keyring.load(WorkloadIdentity(TRUST_DOMAIN, "default", "api"))


def test_certificate_for_another_key() -> None:
    """A registry that signs another key than ours is not believed."""
    with pytest.raises(EnrolmentError, match="for another key"):
        hold(AUTHORITY.chain(new_key(), WEB), new_key())


def test_no_certificate_at_all() -> None:
    """What is no certificate is not believed either."""
    with pytest.raises(EnrolmentError, match="no certificate with one SPIFFE ID"):
        hold("nothing", new_key())


def test_validity() -> None:
    """A certificate is valid from its beginning to before its end."""
    held = AUTHORITY.held(WEB, lifetime=timedelta(hours=1))
    assert held.valid_at(NOON)
    assert held.valid_at(held.not_before)
    assert not held.valid_at(held.not_before - timedelta(seconds=1))
    assert not held.valid_at(held.not_after)


def test_request_proves_the_key() -> None:
    """A signing request carries our public key and is signed with its private half."""
    key = new_key()
    request = x509.load_pem_x509_csr(signing_request(key, "a" * 100).encode())
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()


def test_update_for_workers() -> None:
    """Workers get each certificate with the server name that peers ask for, and the default to show."""
    update = credentials_update((AUTHORITY.held(NODE), AUTHORITY.held(WEB)), enrolment=ENROLMENT, default=WEB)
    assert [(each.identity, each.server_name) for each in update.credentials] == [
        (str(NODE), "web-1.node.nodemesh.local"),
        (str(WEB), "web.default.sa.nodemesh.local"),
    ]
    assert update.default_identity == str(WEB)
    assert update.roots_pem == AUTHORITY.root_pem


@pytest.mark.parametrize("default", [None, WEB])
def test_default_without_a_certificate(default: WorkloadIdentity | None) -> None:
    """Until the default workload has a certificate, the node's own is shown."""
    update = credentials_update((AUTHORITY.held(NODE),), enrolment=ENROLMENT, default=default)
    assert update.default_identity == str(NODE)
