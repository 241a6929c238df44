"""The signing keys in the store: found by their certificates, opened with the key-encryption key.

A key lies at ``ca/keys/<id>``; which of them issues now is said by the trust bundle, never by the key's id.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca.issuer import Signer, fingerprint, read_certificate
from registry.ca.sealing import NONCE_BYTES, SALT_BYTES, Kek, Passphrase, seal, unseal
from registry.model.enrolment import SealedKey
from registry.model.parse import parse_as, render
from registry.model.signature import ResourceSigner
from registry.store import keys
from registry.store.base import Put, Store

FOLDER = "ca/keys/"
# Where a key waits that an operator's own authority shall certify.
PENDING_ID = "pending"
# Enough to tell the keys of one mesh apart.
_ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class IssuingKey:
    """What signs leaves: the intermediate, the authorities above it, and the root's cross certificate.

    `cross` goes along where somebody may know only the root before: the API's own chain and the registry's
    signatures; not with the leaves of nodes, which learn of a new root before it signs.
    """

    signer: Signer
    chain: tuple[x509.Certificate, ...] = ()
    cross: tuple[x509.Certificate, ...] = ()

    @property
    def certificate(self) -> x509.Certificate:
        """The intermediate's certificate."""
        return self.signer.certificate

    @property
    def fingerprint(self) -> str:
        """The intermediate's fingerprint: the bundle's `issuer`."""
        return fingerprint(self.signer.certificate)

    @property
    def path(self) -> tuple[x509.Certificate, ...]:
        """What follows a leaf in its chain."""
        return (self.signer.certificate, *self.chain)

    @property
    def resource_signer(self) -> ResourceSigner:
        """What signs resources, also for those who know only the root before."""
        return ResourceSigner(self.signer.key, (*self.path, *self.cross))

    def find_root(self, roots: Sequence[x509.Certificate]) -> x509.Certificate | None:
        """Give the one of `roots` that certified the top of the path."""
        top = self.path[-1]
        return next((root for root in roots if _certified(top, by=root)), None)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A sealed key as it lies in the store."""

    key: str
    revision: int
    id: str
    sealed: SealedKey


async def read_keys(store: Store) -> dict[str, StoredKey]:
    """Read every certified key, by its certificate's fingerprint.

    Raises:
        InvalidResource: one is damaged.
        ConfigError: one's certificate is none.
    """
    found = {}
    for item in (await store.list(FOLDER)).items:
        place = keys.parse(item.key)
        if not isinstance(place, keys.SigningKeyKey) or place.id == PENDING_ID:
            continue
        sealed = parse_as(SealedKey, item.value, where=item.key)
        certificate = read_certificate(sealed.spec.certificate_pem, where=item.key)
        found[fingerprint(certificate)] = StoredKey(item.key, item.revision, place.id, sealed)
    return found


async def open_key(stored: StoredKey, *, kek: Kek) -> IssuingKey:
    """Unseal a key with what stands beside it.

    Raises:
        ConfigError: the key-encryption key is not the one it was sealed with, or the value was damaged.
    """
    spec = stored.sealed.spec
    work = partial(unseal, stored.sealed, kek=kek, key_id=stored.id)
    # A passphrase takes some tenths of a second, in which the API would stand still.
    signer = await trio.to_thread.run_sync(work) if isinstance(kek, Passphrase) else work()
    return IssuingKey(
        signer,
        tuple(read_certificate(pem, where=stored.key) for pem in spec.chain_pem),
        tuple(read_certificate(pem, where=stored.key) for pem in spec.cross_pem),
    )


def put_root(root: Signer, *, kek: Kek) -> Put:
    """Give the write that stores a root's key."""
    return _put(f"root-{fingerprint(root.certificate)[:_ID_DIGITS]}", root.key, kek, root.certificate)


def put_issuing(issuing: IssuingKey, *, kek: Kek) -> Put:
    """Give the write that stores an issuing key."""
    return _put(
        f"issuing-{issuing.fingerprint[:_ID_DIGITS]}",
        issuing.signer.key,
        kek,
        issuing.certificate,
        issuing.chain,
        issuing.cross,
    )


def put_pending(key: ec.EllipticCurvePrivateKey, *, kek: Kek) -> Put:
    """Give the write that stores a key which is yet to be certified."""
    return _put(PENDING_ID, key, kek, None)


def _put(
    key_id: str,
    key: ec.EllipticCurvePrivateKey,
    kek: Kek,
    certificate: x509.Certificate | None,
    chain: Sequence[x509.Certificate] = (),
    cross: Sequence[x509.Certificate] = (),
) -> Put:
    sealed = seal(
        key,
        kek=kek,
        key_id=key_id,
        salt=secrets.token_bytes(SALT_BYTES),
        nonce=secrets.token_bytes(NONCE_BYTES),
        certificate=certificate,
        chain=chain,
        cross=cross,
    )
    return Put(keys.render(keys.SigningKeyKey(key_id)), render(sealed))


def _certified(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
