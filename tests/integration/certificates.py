"""A certificate authority of the tests' own, so that they do not lean on the one under test.

Its leaves are what a peer of any make would present: ECDSA P-256, one URI SAN with a SPIFFE ID.
"""

import copy
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node_proxy.control import Credential
from registry.model.identity import NODE_EXTENSION, WorkloadIdentity, encode_node

TRUST_DOMAIN = "nodemesh.local"
HOUR = timedelta(hours=1)
BOTH_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def spiffe(account: str, *, namespace: str = "default", trust_domain: str = TRUST_DOMAIN) -> str:
    """Give the SPIFFE ID of a workload's account."""
    return str(WorkloadIdentity(trust_domain, namespace, account))


def server_name(identity: str) -> str:
    """Give the TLS server name by which a tunnel asks for `identity`."""
    trust_domain, _, namespace, _, account = identity.removeprefix("spiffe://").split("/")
    return WorkloadIdentity(trust_domain, namespace, account).server_name


@dataclass(frozen=True)
class Leaf:
    """A certificate with its chain, leaf first, and its key, in PEM."""

    identity: str
    chain_pem: str
    key_pem: str

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate itself."""
        return x509.load_pem_x509_certificate(self.chain_pem.encode())

    def credential(self) -> Credential:
        """Give it in the form in which a worker takes it."""
        return Credential(
            identity=self.identity,
            server_name=server_name(self.identity),
            chain_pem=self.chain_pem,
            key_pem=self.key_pem,
        )


class Authority:
    """A root, or an intermediate below one, that signs whatever names, dates and purposes a test asks for.

    Args:
        name: its subject.
        path_length: how many authorities may follow below it.
        above: who signs it; itself if None.
    """

    def __init__(self, name: str, *, path_length: int = 0, above: "Authority | None" = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or self
        public = self._key.public_key()
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(signer._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + 24 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if above is not None:
            builder = builder.add_extension(above.key_identifier, critical=False)
        self.certificate = builder.sign(signer._key, hashes.SHA256())
        pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        # What an authority below a root adds to the chains of its leaves.
        self._chain_pem: str = pem + above._chain_pem if above else ""
        self.root_pem: str = above.root_pem if above else pem

    @property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """How what it signs points at it."""
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def posing(self, leaf: Leaf) -> "Authority":
        """Give what signs as if the leaf were an authority."""
        impostor = copy.copy(self)
        key = serialization.load_pem_private_key(leaf.key_pem.encode(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        impostor._key, impostor._name = key, leaf.certificate.subject
        impostor._chain_pem = leaf.chain_pem
        return impostor

    def issue(
        self,
        identity: str,
        *,
        uris: tuple[str, ...] | None = None,
        dns: tuple[str, ...] = (),
        starts: timedelta = -HOUR,
        ends: timedelta = 12 * HOUR,
        purposes: tuple[x509.ObjectIdentifier, ...] = BOTH_PURPOSES,
        signs_certificates: bool = False,
        ca: bool = False,
        node: str | None = None,
    ) -> Leaf:
        """Sign a fresh key; `uris` replaces the identity as URI SANs, dates are relative to now.

        `purposes` are the extended key usages, none to leave them out; `node` is who obtained it.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) for uri in ((identity,) if uris is None else uris)
        ]
        names += [x509.DNSName(name) for name in dns]
        usage = _key_usage(signs_certificates=signs_certificates)
        builder = (
            x509.CertificateBuilder()
            # An authority must have a name (RFC 5280 4.1.2.6).
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")] if ca else []))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + starts)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            # RFC 5280 4.2.1.6: critical, since the subject is empty.
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(self.key_identifier, critical=False)
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if node is not None:
            oid = x509.ObjectIdentifier(NODE_EXTENSION)
            builder = builder.add_extension(
                x509.UnrecognizedExtension(oid, encode_node(node)), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        return Leaf(
            identity=identity,
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM).decode() + self._chain_pem,
            key_pem=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
        )


def client_context(leaf: Leaf | None, roots_pem: str) -> ssl.SSLContext:
    """Give TLS for a client of a tunnel: ALPN h2, the roots checked, the peer's name left to the test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=roots_pem)
    context.set_alpn_protocols(["h2"])
    if leaf is not None:
        with tempfile.TemporaryDirectory() as folder:
            pem = Path(folder, "leaf.pem")
            pem.write_text(leaf.chain_pem + leaf.key_pem)
            context.load_cert_chain(pem)
    return context


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
