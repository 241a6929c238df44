"""The certificate authority: the issuing key unsealed from the store, and what it signs.

The trust bundle names the intermediate that issues; `Authority.refresh` follows it, so that every replica
changes over with the bundle and not when it happens to start. The open private key is in memory only.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer
from registry.ca.adoption import adopt
from registry.ca.bundle import NOT_FOUNDED, Trust, put_bundle, read_trust
from registry.ca.keyring import IssuingKey, StoredKey, open_key, put_issuing, put_root, read_keys
from registry.ca.sealing import Kek
from registry.clock import Clock
from registry.errors import ConfigError
from registry.model.enrolment import TrustBundleSpec
from registry.model.identity import Identity
from registry.store.base import KeyIs, Put, Store, Write

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate chain in PEM, leaf first, without the root; and when the leaf ends."""

    chain_pem: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Founding:
    """A new mesh's root, and the transaction that makes it that of a mesh where there is none yet."""

    root_pem: str
    fingerprint: str
    issuing: IssuingKey
    conditions: tuple[KeyIs, ...]
    writes: tuple[Write, ...]

    def sign(self, write: Put) -> Put:
        """Sign a write with the new mesh's issuing key."""
        return replace(write, value=self.issuing.resource_signer.sign(write.key, write.value))


def make_root(*, trust_domain: str, now: datetime) -> issuer.Signer:
    """Make a root with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return issuer.make_root(key, trust_domain=trust_domain, serial=x509.random_serial_number(), now=now)


def make_issuing(
    root: issuer.Signer, *, trust_domain: str, now: datetime, cross: tuple[x509.Certificate, ...] = ()
) -> IssuingKey:
    """Make an intermediate with a new key under a root.

    Raises:
        ConfigError: the root has expired.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    signer = issuer.make_intermediate(root, key, trust_domain=trust_domain, serial=serial, now=now)
    return IssuingKey(signer, cross=cross)


def make_founding(*, trust_domain: str, kek: Kek, now: datetime) -> Founding:
    """Make a root and an intermediate for a new mesh, their keys sealed, and its trust bundle."""
    root = make_root(trust_domain=trust_domain, now=now)
    issuing = make_issuing(root, trust_domain=trust_domain, now=now)
    founding = found_with(root.certificate, issuing, trust_domain=trust_domain, kek=kek, now=now)
    key = put_root(root, kek=kek)
    return replace(
        founding,
        conditions=(*founding.conditions, KeyIs(key.key, 0)),
        writes=(*founding.writes, key),
    )


def found_with(
    root: x509.Certificate, issuing: IssuingKey, *, trust_domain: str, kek: Kek, now: datetime
) -> Founding:
    """Found a mesh on a root whose key is elsewhere, and an intermediate that it certified."""
    spec = TrustBundleSpec(
        trust_domain=trust_domain, roots_pem=(issuer.to_pem(root),), issuer=issuing.fingerprint
    )
    writes = (put_bundle(spec, signed_by=issuing, now=now), put_issuing(issuing, kek=kek))
    conditions = tuple(KeyIs(write.key, 0) for write in writes)
    return Founding(issuer.to_pem(root), issuer.fingerprint(root), issuing, conditions, writes)


class Authority:
    """Signs with the key that issues now. Signing itself is synchronous and takes microseconds."""

    def __init__(
        self,
        issuing: IssuingKey,
        root: x509.Certificate,
        *,
        store: Store,
        kek: Kek,
        trust_domain: str,
        clock: Clock,
        leaf_lifetime: timedelta = issuer.LEAF_LIFETIME,
    ) -> None:
        self._issuing = issuing
        self._root = root
        self._store = store
        self._clock = clock
        self.kek = kek
        self.trust_domain = trust_domain
        self.leaf_lifetime = leaf_lifetime

    @classmethod
    async def load(
        cls, store: Store, *, kek: Kek, clock: Clock, leaf_lifetime: timedelta = issuer.LEAF_LIFETIME
    ) -> Self:
        """Unseal the issuing key from the store; a mesh without an intermediate gets one here.

        Raises:
            ConfigError: no mesh was founded here, the key-encryption key is the wrong one, or no peer would
                believe the key that issues.
        """
        trust = await read_trust(store)
        while not trust.spec.issuer:
            # Of several replicas one makes it, and the others read it.
            await _add_intermediate(store, trust, kek=kek, now=clock())
            trust = await read_trust(store)
        issuing, root = await _open_issuing(store, trust, kek)
        await _check_signed(store, trust, issuing, kek=kek)
        return cls(
            issuing,
            root,
            store=store,
            kek=kek,
            trust_domain=trust.trust_domain,
            clock=clock,
            leaf_lifetime=leaf_lifetime,
        )

    @property
    def issuing(self) -> IssuingKey:
        """The key that issues, and what goes with it."""
        return self._issuing

    @property
    def root(self) -> x509.Certificate:
        """The root above the key that issues."""
        return self._root

    @property
    def fingerprint(self) -> str:
        """What join tokens pin: the hexadecimal SHA-256 of the root's DER."""
        return issuer.fingerprint(self._root)

    async def refresh(self) -> Trust:
        """Read what is trusted, and change over to the key that issues now, if another does.

        Raises:
            ConfigError: as `load`; the key before stays in use.
        """
        trust = await read_trust(self._store)
        await _check_signed(self._store, trust, self._issuing, kek=self.kek)
        if trust.spec.issuer != self._issuing.fingerprint:
            self._issuing, self._root = await _open_issuing(self._store, trust, self.kek)
            _log.info("issuing key changed", issuer=self._issuing.fingerprint)
        return trust

    def sign(self, key: ec.EllipticCurvePublicKey, identity: Identity, *, node: str) -> Issued:
        """Certify an identity for `node`; whether it may have it was decided by the caller.

        Raises:
            ConfigError: the issuing certificate has expired.
        """
        certificate = issuer.issue_leaf(
            self._issuing.signer,
            key,
            identity,
            node=node,
            serial=x509.random_serial_number(),
            now=self._clock(),
            lifetime=self.leaf_lifetime,
        )
        return self._issued(certificate)

    def sign_etcd_client(self, key: ec.EllipticCurvePublicKey, user: str) -> Issued:
        """Certify an etcd user; whether the holder of `key` is that was decided by the caller.

        Raises:
            ConfigError: the issuing certificate has expired.
        """
        certificate = issuer.issue_etcd_client(
            self._issuing.signer,
            key,
            user,
            serial=x509.random_serial_number(),
            now=self._clock(),
            lifetime=self.leaf_lifetime,
        )
        return self._issued(certificate)

    def sign_resource(self, place: str, value: bytes) -> bytes:
        """Sign canonical JSON for the key `place`; whether it should be was decided by the caller."""
        return self._issuing.resource_signer.sign(place, value)

    def sign_server(self, key: ec.EllipticCurvePublicKey, names: Iterable[str]) -> Issued:
        """Certify the registry's own API server, also for those who know only the root before.

        Raises:
            ConfigError: a name is no DNS name or IP address, or the issuing certificate has expired.
        """
        certificate = issuer.issue_server(
            self._issuing.signer, key, names, serial=x509.random_serial_number(), now=self._clock()
        )
        return self._issued(certificate, *self._issuing.cross)

    def _issued(self, certificate: x509.Certificate, *more: x509.Certificate) -> Issued:
        chain = (certificate, *self._issuing.path, *more)
        return Issued("".join(map(issuer.to_pem, chain)), certificate.not_valid_after_utc)


async def _check_signed(store: Store, trust: Trust, issuing: IssuingKey, *, kek: Kek) -> None:
    """Demand that the bundle was signed with a key that is sealed in this mesh's store.

    Whoever can write to etcd could otherwise have nodes of a root of their own certified.

    Raises:
        ConfigError: it was not.
    """
    if trust.signer is not None:
        if trust.signer.public_key() == issuing.certificate.public_key():
            return
        stored = (await read_keys(store)).get(issuer.fingerprint(trust.signer))
        if stored is not None:
            # The one from before or after a rotation; that it can be unsealed proves it to be ours.
            await open_key(stored, kek=kek)
            return
    raise ConfigError(
        "the trust bundle is not signed by this mesh's authority: it was written past the registry; put back "
        "the last one, from a backup of etcd"
    )


async def _add_intermediate(store: Store, trust: Trust, *, kek: Kek, now: datetime) -> None:
    """Make the intermediate of a mesh whose root issued by itself, unless the bundle has changed."""
    stored = await read_keys(store)
    if len(stored) != 1 or len(trust.roots) != 1:
        # That mesh has one key and one root; anything else is an attempt to have another bundle signed.
        raise ConfigError(
            "the trust bundle names no issuing certificate, although there is one: it was written past the "
            "registry; put back the last one, from a backup of etcd"
        )
    root = await open_root(stored, trust, kek=kek)
    issuing = make_issuing(root, trust_domain=trust.trust_domain, now=now)
    spec = msgspec.structs.replace(trust.spec, issuer=issuing.fingerprint)
    key = put_issuing(issuing, kek=kek)
    # Before the bundle: from then on nothing unsigned counts.
    await adopt(store, issuing.resource_signer)
    bundle = put_bundle(spec, signed_by=issuing, now=now)
    await store.commit([trust.unchanged, KeyIs(key.key, 0)], [key, bundle])


async def open_root(stored: dict[str, StoredKey], trust: Trust, *, kek: Kek) -> issuer.Signer:
    """Unseal the key of the newest trusted root.

    Raises:
        ConfigError: it is not in the store, or cannot be unsealed.
    """
    for root in reversed(trust.roots):
        if (found := stored.get(issuer.fingerprint(root))) is not None:
            return (await open_key(found, kek=kek)).signer
    if stored:
        raise ConfigError(
            "no root's key is in etcd: the root is an external authority's, or the root key's certificate is "
            "not in the trust bundle"
        )
    raise ConfigError(NOT_FOUNDED)


async def _open_issuing(store: Store, trust: Trust, kek: Kek) -> tuple[IssuingKey, x509.Certificate]:
    if (found := (await read_keys(store)).get(trust.spec.issuer)) is None:
        raise ConfigError(
            f"the trust bundle names the issuing certificate {trust.spec.issuer[:16]}…, "
            "but its key is not in etcd"
        )
    issuing = await open_key(found, kek=kek)
    root = issuing.find_root(trust.roots)
    if root is None:
        raise ConfigError(
            f"the certificate of {found.key} is not of a root in the trust bundle: no peer would accept it"
        )
    return issuing, root
