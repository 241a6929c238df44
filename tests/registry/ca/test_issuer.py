"""Certificates as SPIFFE and RFC 5280 want them."""

import ipaddress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.ca import issuer, verifying
from registry.errors import ConfigError, InvalidResource, Unauthenticated
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from tests.registry.ca.material import START, TRUST_DOMAIN, make_csr, new_key

NODE = NodeIdentity(TRUST_DOMAIN, "web-1")
WORKLOAD = WorkloadIdentity(TRUST_DOMAIN, "default", "web")


def make_root(trust_domain: str = TRUST_DOMAIN) -> issuer.Signer:
    return issuer.make_root(new_key(), trust_domain=trust_domain, serial=7, now=START)


@pytest.fixture(scope="module")
def root() -> issuer.Signer:
    return make_root()


def leaf_of(root: issuer.Signer, identity: Identity = WORKLOAD) -> x509.Certificate:
    return issuer.issue_leaf(root, new_key().public_key(), identity, node="web-1", serial=11, now=START)


class TestRoot:
    def test_extensions(self, root: issuer.Signer) -> None:
        """The root may sign one level of authorities, certificates and revocation lists, nothing else."""
        extensions = root.certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert constraints.value == x509.BasicConstraints(ca=True, path_length=1)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (
            True,
            True,
            False,
        )

    def test_trust_domain(self, root: issuer.Signer) -> None:
        """The root is named by its trust domain's SPIFFE ID."""
        names = root.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TRUST_DOMAIN}"]

    def test_long_trust_domain(self) -> None:
        """The longest trust domain there may be still gets a root."""
        assert make_root("d" * 255).certificate.subject


class TestIntermediate:
    @staticmethod
    def made(root: issuer.Signer, **changes: Any) -> issuer.Signer:
        """Make one."""
        given = {"trust_domain": TRUST_DOMAIN, "serial": 5, "now": START, **changes}
        return issuer.make_intermediate(root, new_key(), **given)

    def test_contents(self, root: issuer.Signer) -> None:
        """It signs leaves and nothing else, for our trust domain, and names the root's key."""
        extensions = self.made(root).certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.value, constraints.critical) == (x509.BasicConstraints(True, 0), True)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert (usage.value.key_cert_sign, usage.value.digital_signature, usage.critical) == (
            True,
            False,
            True,
        )
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TRUST_DOMAIN}"]
        above = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        issued_by = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert issued_by.key_identifier == above.digest

    def test_leaf_below(self, root: issuer.Signer) -> None:
        """A leaf of it verifies by the root, with it and not without."""
        middle = self.made(root)
        roots = [root.certificate]
        chain = [leaf_of(middle), middle.certificate]
        assert verifying.verify_chain(chain, roots=roots, trust_domain=TRUST_DOMAIN, now=START) == WORKLOAD
        with pytest.raises(Unauthenticated):
            verifying.verify_chain(chain[:1], roots=roots, trust_domain=TRUST_DOMAIN, now=START)

    def test_no_authority_below(self, root: issuer.Signer) -> None:
        """What holds its key cannot make an authority of its own."""
        middle = self.made(root)
        below = self.made(middle)
        chain = [leaf_of(below), below.certificate, middle.certificate]
        with pytest.raises(Unauthenticated):
            verifying.verify_chain(chain, roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START)

    def test_within_the_root(self, root: issuer.Signer) -> None:
        """It ends with its root at the latest."""
        end = root.certificate.not_valid_after_utc
        late = self.made(root, now=end - timedelta(days=10))
        assert late.certificate.not_valid_after_utc == end

    def test_cross(self, root: issuer.Signer) -> None:
        """A new root that the old one certified keeps name, key and limits, and is self-issued."""
        new = make_root()
        cross = issuer.cross_certify(root, new.certificate, serial=9, now=START)
        cross.verify_directly_issued_by(root.certificate)
        assert (cross.subject, cross.public_key()) == (new.certificate.subject, new.key.public_key())
        assert cross.subject == cross.issuer
        assert cross.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
        assert cross.not_valid_after_utc == START + issuer.CROSS_LIFETIME


class TestLeaf:
    def test_extensions(self, root: issuer.Signer) -> None:
        """A leaf signs handshakes at both ends of a tunnel and is no authority."""
        extensions = leaf_of(root).extensions
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.digital_signature, usage.key_cert_sign, usage.key_agreement) == (True, False, False)
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}

    def test_one_critical_name(self, root: issuer.Signer) -> None:
        """The identity is the only name: no subject, and the alternative name is critical."""
        certificate = leaf_of(root)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert names.critical
        assert list(names.value) == [x509.UniformResourceIdentifier(str(WORKLOAD))]
        assert not list(certificate.subject)

    def test_key_identifiers(self, root: issuer.Signer) -> None:
        """The leaf points at its issuer's key, so that two roots of one name can be told apart."""
        ours = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        theirs = leaf_of(root).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert theirs.key_identifier == ours.digest

    def test_lifetime(self, root: issuer.Signer) -> None:
        """A leaf begins five minutes in the past and lasts a day."""
        certificate = leaf_of(root)
        assert certificate.not_valid_before_utc == START - timedelta(minutes=5)
        assert certificate.not_valid_after_utc == START + timedelta(hours=24)

    def test_never_outlives_its_issuer(self, root: issuer.Signer) -> None:
        """Near the root's end a leaf ends with the root."""
        end = root.certificate.not_valid_after_utc
        certificate = issuer.issue_leaf(
            root, new_key().public_key(), NODE, node="web-1", serial=1, now=end - timedelta(hours=1)
        )
        assert certificate.not_valid_after_utc == end

    def test_expired_issuer(self, root: issuer.Signer) -> None:
        """An expired root signs nothing."""
        after = root.certificate.not_valid_after_utc + timedelta(seconds=1)
        with pytest.raises(ConfigError, match="expired"):
            issuer.issue_leaf(root, new_key().public_key(), NODE, node="web-1", serial=1, now=after)


class TestServer:
    def test_names(self, root: issuer.Signer) -> None:
        """An API server's certificate carries addresses as addresses and names as names."""
        certificate = issuer.issue_server(
            root, new_key().public_key(), ["mesh.example", "10.0.0.1", "::1"], serial=1, now=START
        )
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["mesh.example"]
        assert names.get_values_for_type(x509.IPAddress) == [
            ipaddress.ip_address("10.0.0.1"),
            ipaddress.ip_address("::1"),
        ]

    def test_is_no_identity(self, root: issuer.Signer) -> None:
        """An API server's certificate proves no identity in the mesh."""
        certificate = issuer.issue_server(root, new_key().public_key(), ["a"], serial=1, now=START)
        with pytest.raises(Unauthenticated):
            verifying.verify_chain(
                [certificate], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
            )

    def test_bad_name(self, root: issuer.Signer) -> None:
        """A name outside ASCII is refused by name."""
        with pytest.raises(ConfigError, match="grün"):
            issuer.issue_server(root, new_key().public_key(), ["grün.example"], serial=1, now=START)


class TestRequest:
    def test_only_the_key_is_taken(self) -> None:
        """A request's key is taken, whatever names it asks for."""
        key = new_key()
        assert issuer.read_request(make_csr(key, "root")) == key.public_key()

    @pytest.mark.parametrize(
        "pem",
        [
            "",
            "hello",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
            "-----BEGIN CERTIFICATE REQUEST-----\n\udc80\n-----END CERTIFICATE REQUEST-----\n",
            "é" * 100,
            "A" * (issuer.MAX_REQUEST + 1),
        ],
    )
    def test_malformed(self, pem: str) -> None:
        """What is no request in PEM is the caller's fault, and says so."""
        with pytest.raises(InvalidResource) as caught:
            issuer.read_request(pem)
        assert caught.value.path == "csr"

    @pytest.mark.parametrize(
        "key",
        [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
        ids=["P-384", "RSA"],
    )
    def test_other_keys(self, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        """Keys on other curves, or of other kinds, are refused."""
        with pytest.raises(InvalidResource, match="P-256"):
            issuer.read_request(make_csr(key))

    def test_someone_elses_key(self) -> None:
        """A request whose signature does not fit its key proves no possession."""
        pem = make_csr(new_key())
        request = x509.load_pem_x509_csr(pem.encode())
        der = bytearray(request.public_bytes(serialization.Encoding.DER))
        der[-1] ^= 1
        forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
        with pytest.raises(InvalidResource):
            issuer.read_request(forged.decode())


class TestVerify:
    @pytest.mark.parametrize("identity", [NODE, WORKLOAD], ids=str)
    def test_own(self, root: issuer.Signer, identity: Identity) -> None:
        """What the root signed is who it says."""
        found = verifying.verify_chain(
            [leaf_of(root, identity)], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
        )
        assert found == identity

    def test_either_of_two_roots(self, root: issuer.Signer) -> None:
        """During a rotation certificates of both roots hold, although the roots have one name."""
        second = make_root()
        roots = [root.certificate, second.certificate]
        for signer in (root, second):
            verifying.verify_chain([leaf_of(signer)], roots=roots, trust_domain=TRUST_DOMAIN, now=START)

    @pytest.mark.parametrize(
        ("days", "says"), [(-1, "valid from"), (2, "expired at")], ids=["early", "expired"]
    )
    def test_out_of_time(self, root: issuer.Signer, days: int, says: str) -> None:
        """A certificate before or after its time proves nothing, and both times are told."""
        with pytest.raises(Unauthenticated, match=f"{says} .* it is .* here"):
            verifying.verify_chain(
                [leaf_of(root)],
                roots=[root.certificate],
                trust_domain=TRUST_DOMAIN,
                now=START + timedelta(days=days),
            )

    def test_other_root(self, root: issuer.Signer) -> None:
        """A certificate of another root with the same name proves nothing."""
        with pytest.raises(Unauthenticated):
            verifying.verify_chain(
                [leaf_of(make_root())], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
            )

    def test_leaf_signs_nothing(self, root: issuer.Signer) -> None:
        """A leaf's key cannot make certificates, even under a genuine chain."""
        key = new_key()
        genuine = issuer.issue_leaf(root, key.public_key(), WORKLOAD, node="web-1", serial=1, now=START)
        forged = leaf_of(issuer.Signer(genuine, key), NODE)
        with pytest.raises(Unauthenticated):
            verifying.verify_chain(
                [forged, genuine], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
            )

    def test_other_trust_domain(self, root: issuer.Signer) -> None:
        """An identity of another trust domain is refused even when our root signed it."""
        foreign = leaf_of(root, WorkloadIdentity("other.test", "default", "web"))
        with pytest.raises(Unauthenticated, match=r"other\.test"):
            verifying.verify_chain([foreign], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START)

    @pytest.mark.parametrize("length", [0, 5])
    def test_length(self, root: issuer.Signer, length: int) -> None:
        """Chains of no or too many certificates are refused unread."""
        with pytest.raises(Unauthenticated, match="chain"):
            verifying.verify_chain(
                [leaf_of(root)] * length, roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
            )

    def test_two_names(self, root: issuer.Signer) -> None:
        """A certificate with two identities has none."""
        two = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(str(NODE)), x509.UniformResourceIdentifier(str(WORKLOAD))]
        )
        certificate = issuer._issue(
            root,
            new_key().public_key(),
            two,
            (ExtendedKeyUsageOID.CLIENT_AUTH,),
            serial=1,
            now=START,
            lifetime=issuer.LEAF_LIFETIME,
        )
        with pytest.raises(Unauthenticated, match="2 URI names"):
            verifying.identity_of(certificate, trust_domain=TRUST_DOMAIN)
