"""The node's keys and certificates: made here, kept below state_dir/credentials, given to workers alone.

Keys are ECDSA P-256. One PEM file (key, then chain) per identity, so that the two can never disagree.
How certificates are asked for is `enrolment`, when is `renewal`.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node_proxy.agent.files import private_directory, write_private
from node_proxy.agent.trust import Trust
from node_proxy.certificate import MALFORMED, facts_of, read_roots
from node_proxy.control import Credential, CredentialsUpdate
from node_proxy.errors import ConfigError, EnrolmentError
from registry.model.identity import Identity, InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.revocation import CertificateFacts


class Enrolment(Trust, frozen=True, kw_only=True):
    """What joining gave: who this node is, and whom it trusts, the latter as last heard."""

    node: str
    identity: str
    trust_domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A certificate chain (leaf first) with its private key, both PEM; `chain` is the same chain, read."""

    identity: Identity
    chain_pem: str
    key_pem: str
    chain: tuple[x509.Certificate, ...]

    @property
    def not_before(self) -> datetime:
        """When the leaf's life begins."""
        return self.chain[0].not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When the leaf's life ends."""
        return self.chain[0].not_valid_after_utc

    @property
    def facts(self) -> CertificateFacts:
        """What revocations look at."""
        return facts_of(self.chain, self.identity, trust_domain=self.identity.trust_domain)

    def valid_at(self, now: datetime) -> bool:
        """Whether the certificate's life includes `now`."""
        return self.not_before <= now < self.not_after


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a private key."""
    return ec.generate_private_key(ec.SECP256R1())


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """Make a CSR in PEM; the registry takes only the public key from it and chooses the names itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def hold(chain_pem: str, key: ec.EllipticCurvePrivateKey) -> Held:
    """Join a chain to its key, after checking that they belong together.

    Raises:
        EnrolmentError: the chain is malformed, names no identity, or is for another key.
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(chain_pem.encode()))
        leaf = chain[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = parse_identity(uri)
        facts_of(chain, identity, trust_domain=identity.trust_domain)
    except (*MALFORMED, x509.ExtensionNotFound, UnsupportedAlgorithm) as error:
        reason = (
            str(error) if isinstance(error, InvalidIdentity) else "no certificate with one SPIFFE ID in it"
        )
        raise EnrolmentError(f"unusable certificate: {reason}") from error
    if leaf.public_key() != key.public_key():
        raise EnrolmentError(f"the certificate for {identity} is for another key than the one asked for")
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Held(
        identity=identity,
        chain_pem=chain_pem,
        key_pem=key_pem.decode(),
        chain=chain,
    )


class Keyring:
    """The credentials on disk. All calls block on the disk: await them in a thread where that matters."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "credentials"

    def prepare(self) -> None:
        """Make sure that credentials can be kept, before a one-time token is spent.

        Raises:
            ConfigError: the directory cannot be made or written.
        """
        if not os.access(private_directory(self._directory), os.W_OK | os.X_OK):
            raise ConfigError(f"{self._directory}: cannot be written; run as its owner")

    def save_enrolment(self, enrolment: Enrolment) -> None:
        """Keep what joining gave, and whom the node trusts now.

        Raises:
            OSError, ConfigError: it cannot be written.
        """
        private_directory(self._directory)
        write_private(self._directory / "enrolment.json", msgspec.json.encode(enrolment))

    def enrolment(self) -> Enrolment:
        """Read what joining gave.

        Raises:
            ConfigError: this node has not joined, or the file is damaged.
        """
        path = self._directory / "enrolment.json"
        mend = "run `nodemesh-proxy join --registry URL --token T` on this host"
        try:
            enrolment = msgspec.json.decode(path.read_bytes(), type=Enrolment)
            read_roots(enrolment.roots)
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: this node has not joined a mesh; {mend}") from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}; run as its owner") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise ConfigError(f"{path}: is damaged ({error}); {mend}") from error
        return enrolment

    def save(self, held: Held) -> None:
        """Keep a certificate and its key.

        Raises:
            OSError, ConfigError: it cannot be written; the older one stands.
        """
        private_directory(self._directory)
        write_private(self._path(held.identity), (held.key_pem + held.chain_pem).encode())

    def load(self, identity: Identity) -> Held | None:
        """Read the certificate for `identity`; None if there is none.

        Raises:
            EnrolmentError: the file is there and of no use.
        """
        path = self._path(identity)
        try:
            text = path.read_text(encoding="ascii")
            key = serialization.load_pem_private_key(text.encode(), password=None)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EnrolmentError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise EnrolmentError(f"{path}: is damaged; a new certificate is needed") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnrolmentError(f"{path}: holds another kind of key; a new certificate is needed")
        _, begin, rest = text.partition("-----BEGIN CERTIFICATE-----")
        held = hold(begin + rest, key)
        if held.identity != identity:
            raise EnrolmentError(f"{path}: is for {held.identity}; a new certificate is needed")
        return held

    def _path(self, identity: Identity) -> Path:
        if isinstance(identity, WorkloadIdentity):
            return self._directory / f"workload.{identity.namespace}.{identity.account}.pem"
        return self._directory / "node.pem"


def credentials_update(
    held: tuple[Held, ...], *, enrolment: Enrolment, default: WorkloadIdentity | None, generation: int = 0
) -> CredentialsUpdate:
    """Write the credentials as workers get them; without a default workload the node itself answers."""
    identities = {str(each.identity) for each in held}
    chosen = str(default) if str(default) in identities else enrolment.identity
    return CredentialsUpdate(
        credentials=tuple(
            Credential(
                identity=str(each.identity),
                server_name=_server_name(each.identity),
                chain_pem=each.chain_pem,
                key_pem=each.key_pem,
            )
            for each in held
        ),
        default_identity=chosen,
        roots_pem="".join(enrolment.roots),
        federated=enrolment.federated,
        revocations=enrolment.revocations,
        generation=generation,
    )


def _server_name(identity: Identity) -> str:
    if isinstance(identity, WorkloadIdentity):
        return identity.server_name
    return f"{identity.name}.node.{identity.trust_domain}"
