"""The certificate authority: a signing key unsealed from the store, and what it signs.

The key's place is ``ca/keys/<id>``, the trusted roots' is ``ca/bundle``. Both are made once, when the mesh
is founded; `Authority.load` reads them at each start of a replica. The open private key is in memory only.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer
from registry.ca.sealing import NONCE_BYTES, SALT_BYTES, Kek, seal, unseal
from registry.clock import Clock
from registry.errors import ConfigError
from registry.model.enrolment import SealedKey, TrustBundle, TrustBundleSpec
from registry.model.identity import Identity
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
from registry.store.base import KeyIs, Put, Store

ROOT_KEY = "root"

_NOT_FOUNDED = "this etcd holds no mesh yet; run `nodemesh-registry init` first"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate chain in PEM, leaf first, and when it ends."""

    chain_pem: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Trust:
    """The roots trusted now, several during a rotation."""

    trust_domain: str
    roots: tuple[x509.Certificate, ...]

    @property
    def roots_pem(self) -> tuple[str, ...]:
        """The roots as nodes get them."""
        return tuple(issuer.to_pem(root) for root in self.roots)


@dataclass(frozen=True, slots=True)
class Founding:
    """A new root, and the transaction that makes it the root of a mesh where there is none yet."""

    root_pem: str
    fingerprint: str
    conditions: tuple[KeyIs, ...]
    writes: tuple[Put, ...]


def make_founding(*, trust_domain: str, kek: Kek, now: datetime) -> Founding:
    """Make a root for a new mesh, its key sealed, and its trust bundle."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = issuer.make_root(key, trust_domain=trust_domain, serial=x509.random_serial_number(), now=now)
    sealed = seal(
        root,
        kek=kek,
        key_id=ROOT_KEY,
        salt=secrets.token_bytes(SALT_BYTES),
        nonce=secrets.token_bytes(NONCE_BYTES),
    )
    bundle = TrustBundle(
        api_version=NODEMESH,
        kind=TrustBundle.KIND,
        metadata=Metadata(name="bundle", namespace=ROOT_NAMESPACE),
        spec=TrustBundleSpec(trust_domain=trust_domain, roots_pem=(issuer.to_pem(root.certificate),)),
    )
    writes = (
        Put(keys.render(keys.SigningKeyKey(ROOT_KEY)), render(sealed)),
        Put(keys.render(keys.BundleKey()), render(bundle)),
    )
    return Founding(
        root_pem=issuer.to_pem(root.certificate),
        fingerprint=issuer.fingerprint(root.certificate),
        conditions=tuple(KeyIs(write.key, 0) for write in writes),
        writes=writes,
    )


async def read_bundle(store: Store) -> TrustBundle:
    """Read the trust bundle as it stands.

    Raises:
        ConfigError: no mesh was founded in this store.
    """
    key = keys.render(keys.BundleKey())
    if (found := await store.get(key)) is None:
        raise ConfigError(_NOT_FOUNDED)
    return parse_as(TrustBundle, found.value, where=key)


async def read_trust(store: Store) -> Trust:
    """Read the roots trusted now.

    Raises:
        ConfigError: no mesh was founded in this store, or the bundle is damaged.
    """
    spec = (await read_bundle(store)).spec
    roots = tuple(issuer.read_certificate(pem, where="the trust bundle") for pem in spec.roots_pem)
    return Trust(spec.trust_domain, roots)


class Authority:
    """Signs with one key. Synchronous: signing takes microseconds and needs nothing but the key."""

    def __init__(
        self,
        signer: issuer.Signer,
        *,
        trust_domain: str,
        clock: Clock,
        leaf_lifetime: timedelta = issuer.LEAF_LIFETIME,
    ) -> None:
        self._signer = signer
        self._clock = clock
        self._leaf_lifetime = leaf_lifetime
        self.trust_domain = trust_domain

    @classmethod
    async def load(
        cls, store: Store, *, kek: Kek, clock: Clock, leaf_lifetime: timedelta = issuer.LEAF_LIFETIME
    ) -> Self:
        """Unseal the signing key from the store.

        Raises:
            ConfigError: no mesh was founded here, the key-encryption key is the wrong one, or the
                signing key's certificate is not among the trusted roots.
        """
        trust = await read_trust(store)
        key = keys.render(keys.SigningKeyKey(ROOT_KEY))
        if (found := await store.get(key)) is None:
            raise ConfigError(_NOT_FOUNDED)
        signer = unseal(parse_as(SealedKey, found.value, where=key), kek=kek, key_id=ROOT_KEY)
        if signer.certificate not in trust.roots:
            raise ConfigError(f"the certificate of {key} is not in the trust bundle: no peer would accept it")
        return cls(signer, trust_domain=trust.trust_domain, clock=clock, leaf_lifetime=leaf_lifetime)

    @property
    def fingerprint(self) -> str:
        """What join tokens pin: the hexadecimal SHA-256 of the root's DER."""
        return issuer.fingerprint(self._signer.certificate)

    def sign(self, key: ec.EllipticCurvePublicKey, identity: Identity) -> Issued:
        """Certify an identity; whether its holder may have it was decided by the caller.

        Raises:
            ConfigError: the root has expired.
        """
        certificate = issuer.issue_leaf(
            self._signer,
            key,
            identity,
            serial=x509.random_serial_number(),
            now=self._clock(),
            lifetime=self._leaf_lifetime,
        )
        return Issued(issuer.to_pem(certificate), certificate.not_valid_after_utc)

    def sign_server(self, key: ec.EllipticCurvePublicKey, names: Iterable[str]) -> Issued:
        """Certify the registry's own API server.

        Raises:
            ConfigError: a name is no DNS name or IP address, or the root has expired.
        """
        certificate = issuer.issue_server(
            self._signer, key, names, serial=x509.random_serial_number(), now=self._clock()
        )
        return Issued(issuer.to_pem(certificate), certificate.not_valid_after_utc)
