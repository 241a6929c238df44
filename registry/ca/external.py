"""An external root: the operator's own authority certifies our intermediate, and its key is never here.

Pure but for `Pending`. The key is made here and waits, sealed, at ``ca/keys/pending`` until the certificate
that fits it is brought. What is brought is tried before it is used: a leaf made by it must verify.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer, verifying
from registry.ca.keyring import PENDING_ID, IssuingKey, put_pending
from registry.ca.sealing import Kek, unseal_key
from registry.errors import ConfigError, InvalidResource, Unauthenticated
from registry.model.enrolment import SealedKey
from registry.model.identity import NodeIdentity
from registry.model.parse import parse_as
from registry.model.trust import check_root
from registry.store import keys
from registry.store.base import KeyIs, Store

KEY = keys.render(keys.SigningKeyKey(PENDING_ID))
# A shorter one would need the next before the first is settled.
MIN_LIFETIME = timedelta(days=7)


NO_PENDING = "no key waits to be certified; run `nodemesh-registry ca csr` and have its request certified"


@dataclass(frozen=True, slots=True)
class External:
    """What an operator's authority gave: its root, and the intermediate with what certified it, in PEM."""

    root_pem: str
    chain_pem: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A key that waits to be certified."""

    key: ec.EllipticCurvePrivateKey
    revision: int

    @property
    def unchanged(self) -> KeyIs:
        """The condition that it still waits."""
        return KeyIs(KEY, self.revision)


async def find_pending(store: Store, *, kek: Kek) -> Pending | None:
    """Open the key that waits to be certified; None if none does.

    Raises:
        ConfigError: the key-encryption key is not the one it was sealed with, or it is damaged.
    """
    if (item := await store.get(KEY)) is None:
        return None
    sealed = parse_as(SealedKey, item.value, where=KEY)
    return Pending(unseal_key(sealed, kek=kek, key_id=PENDING_ID), item.revision)


async def take_pending(store: Store, *, kek: Kek) -> Pending:
    """Open the key that waits to be certified, or make it.

    Raises:
        ConfigError: as `find_pending`.
    """
    while (found := await find_pending(store, kek=kek)) is None:
        write = put_pending(ec.generate_private_key(ec.SECP256R1()), kek=kek)
        await store.commit([KeyIs(KEY, 0)], [write])
    return found


def accept(
    key: ec.EllipticCurvePrivateKey, *, root_pem: str, chain_pem: str, trust_domain: str, now: datetime
) -> tuple[x509.Certificate, IssuingKey]:
    """Take what an operator's authority certified: its root, and our intermediate with what is above it.

    Certificates of the chain that are self-issued are the root as certified by the one before it, for those
    who know only that one.

    Raises:
        ConfigError: says which check failed, and what to ask the authority for.
    """
    root = _load(root_pem, "the root file")
    if len(root) != 1:
        raise ConfigError(f"the root file holds {len(root)} certificates; it must hold the root alone")
    chain = _load(chain_pem, "the intermediate file")
    if chain[0].public_key() != key.public_key():
        raise ConfigError(
            "the first certificate of the intermediate file is not for the key that waits here; have the "
            "request certified that `nodemesh-registry ca csr` prints"
        )
    try:
        for certificate in (*root, *chain):
            verifying.check_authority(certificate, what=certificate.subject.rfc4514_string(), now=now)
        check_root(root[0], where="certificate", path="the root file")
    except InvalidResource as error:
        raise ConfigError(error.describe()) from error
    _check_trust_domain(chain[0], trust_domain)
    if chain[0].not_valid_after_utc < now + MIN_LIFETIME:
        raise ConfigError(
            f"the intermediate ends at {chain[0].not_valid_after_utc.isoformat()}, in less than "
            f"{MIN_LIFETIME.days} days; ask for a year"
        )
    cross = tuple(each for each in chain[1:] if each.subject == root[0].subject and each != root[0])
    above = tuple(each for each in chain[1:] if each.subject != root[0].subject)
    issuing = IssuingKey(issuer.Signer(chain[0], key), above, cross)
    _try_out(issuing, root[0], trust_domain=trust_domain, now=now)
    return root[0], issuing


def _load(pem: str, what: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise ConfigError(f"{what} holds no certificates in PEM: {error}") from error


def _check_trust_domain(intermediate: x509.Certificate, trust_domain: str) -> None:
    try:
        names = intermediate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if uris and uris != [f"spiffe://{trust_domain}"]:
        raise ConfigError(f"the intermediate is for {', '.join(uris)}, not for spiffe://{trust_domain}")


def _try_out(issuing: IssuingKey, root: x509.Certificate, *, trust_domain: str, now: datetime) -> None:
    """Verify a leaf made by it as peers will: path lengths, usages, constraints and all."""
    if issuing.find_root([root]) is None:
        raise ConfigError(
            "the certificates of the intermediate file do not lead to the root; write the intermediate "
            "first, then what certified it, each certified by the next, without the root"
        )
    if len(issuing.path) > verifying.MAX_CHAIN - 2:
        raise ConfigError("more than one authority stands between the intermediate and the root")
    identity = NodeIdentity(trust_domain, "probe")
    leaf = issuer.issue_leaf(
        issuing.signer,
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        identity,
        node="probe",
        serial=x509.random_serial_number(),
        now=now,
    )
    try:
        verifying.verify_chain((leaf, *issuing.path), roots=[root], trust_domain=trust_domain, now=now)
    except Unauthenticated as error:
        raise ConfigError(f"peers would not believe what this intermediate certifies: {error}") from error
