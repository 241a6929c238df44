"""A certificate authority of the tests' own, so that they do not lean on the one under test.

Its leaves are what a peer of any make would present: ECDSA P-256, one URI SAN with a SPIFFE ID.
"""

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
from registry.model.identity import WorkloadIdentity

TRUST_DOMAIN = "nodemesh.local"
HOUR = timedelta(hours=1)


def spiffe(account: str, *, namespace: str = "default", trust_domain: str = TRUST_DOMAIN) -> str:
    """Give the SPIFFE ID of a workload's account."""
    return str(WorkloadIdentity(trust_domain, namespace, account))


def server_name(identity: str) -> str:
    """Give the TLS server name by which a tunnel asks for `identity`."""
    trust_domain, _, namespace, _, account = identity.removeprefix("spiffe://").split("/")
    return WorkloadIdentity(trust_domain, namespace, account).server_name


@dataclass(frozen=True)
class Leaf:
    """A certificate, leaf first, and its key, in PEM."""

    identity: str
    chain_pem: str
    key_pem: str

    def credential(self) -> Credential:
        """Give it in the form in which a worker takes it."""
        return Credential(
            identity=self.identity,
            server_name=server_name(self.identity),
            chain_pem=self.chain_pem,
            key_pem=self.key_pem,
        )


class Authority:
    """A root that signs leaves with whatever names and dates a test asks for."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public = self._key.public_key()
        now = datetime.now(UTC)
        root = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + 24 * HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.root_pem = root.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        identity: str,
        *,
        uris: tuple[str, ...] | None = None,
        dns: tuple[str, ...] = (),
        starts: timedelta = -HOUR,
        ends: timedelta = 12 * HOUR,
    ) -> Leaf:
        """Sign a fresh key; `uris` replaces the identity as URI SANs, dates are relative to now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri) for uri in ((identity,) if uris is None else uris)
        ]
        names += [x509.DNSName(name) for name in dns]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + starts)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            # RFC 5280 4.2.1.6: critical, since the subject is empty.
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return Leaf(
            identity=identity,
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
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
