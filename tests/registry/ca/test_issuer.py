"""Certificates as SPIFFE and RFC 5280 want them."""

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from registry.ca import issuer
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
    return issuer.issue_leaf(root, new_key().public_key(), identity, serial=11, now=START)


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
            root, new_key().public_key(), NODE, serial=1, now=end - timedelta(hours=1)
        )
        assert certificate.not_valid_after_utc == end

    def test_expired_issuer(self, root: issuer.Signer) -> None:
        """An expired root signs nothing."""
        after = root.certificate.not_valid_after_utc + timedelta(seconds=1)
        with pytest.raises(ConfigError, match="expired"):
            issuer.issue_leaf(root, new_key().public_key(), NODE, serial=1, now=after)


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
            issuer.verify_chain([certificate], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START)

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
        found = issuer.verify_chain(
            [leaf_of(root, identity)], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
        )
        assert found == identity

    def test_either_of_two_roots(self, root: issuer.Signer) -> None:
        """During a rotation certificates of both roots hold, although the roots have one name."""
        second = make_root()
        roots = [root.certificate, second.certificate]
        for signer in (root, second):
            issuer.verify_chain([leaf_of(signer)], roots=roots, trust_domain=TRUST_DOMAIN, now=START)

    @pytest.mark.parametrize("days", [-1, 2], ids=["early", "expired"])
    def test_out_of_time(self, root: issuer.Signer, days: int) -> None:
        """A certificate before or after its time proves nothing."""
        with pytest.raises(Unauthenticated, match="not valid now"):
            issuer.verify_chain(
                [leaf_of(root)],
                roots=[root.certificate],
                trust_domain=TRUST_DOMAIN,
                now=START + timedelta(days=days),
            )

    def test_other_root(self, root: issuer.Signer) -> None:
        """A certificate of another root with the same name proves nothing."""
        with pytest.raises(Unauthenticated):
            issuer.verify_chain(
                [leaf_of(make_root())], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
            )

    def test_leaf_signs_nothing(self, root: issuer.Signer) -> None:
        """A leaf's key cannot make certificates, even under a genuine chain."""
        key = new_key()
        genuine = issuer.issue_leaf(root, key.public_key(), WORKLOAD, serial=1, now=START)
        forged = leaf_of(issuer.Signer(genuine, key), NODE)
        with pytest.raises(Unauthenticated):
            issuer.verify_chain(
                [forged, genuine], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START
            )

    def test_other_trust_domain(self, root: issuer.Signer) -> None:
        """An identity of another trust domain is refused even when our root signed it."""
        foreign = leaf_of(root, WorkloadIdentity("other.test", "default", "web"))
        with pytest.raises(Unauthenticated, match=r"other\.test"):
            issuer.verify_chain([foreign], roots=[root.certificate], trust_domain=TRUST_DOMAIN, now=START)

    @pytest.mark.parametrize("length", [0, 4])
    def test_length(self, root: issuer.Signer, length: int) -> None:
        """Chains of no or too many certificates are refused unread."""
        with pytest.raises(Unauthenticated, match="chain"):
            issuer.verify_chain(
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
            issuer.identity_of(certificate, trust_domain=TRUST_DOMAIN)
