"""The trust bundle, ``ca/bundle``: what is trusted now, and the one place where it is written."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import msgspec
from cryptography import x509

from registry.ca import issuer
from registry.ca.keyring import IssuingKey
from registry.errors import ConfigError
from registry.model.enrolment import TrustBundle, TrustBundleSpec
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.model.revocation import RevocationList
from registry.model.signature import BadSignature, Unsigned, verify
from registry.model.trust import check_bundle
from registry.store import keys
from registry.store.base import KeyIs, KeyValue, Put, Store
from registry.store.signed import unsigned

KEY = keys.render(keys.BundleKey())
NOT_FOUNDED = "this etcd holds no mesh yet; run `nodemesh-registry init` first"


@dataclass(frozen=True)
class Trust:
    """The bundle as it stood at `revision`, read.

    `signer` is the certificate that signed it, None if nothing did; whether it may is `Authority`'s to judge,
    which holds the keys.
    """

    spec: TrustBundleSpec
    roots: tuple[x509.Certificate, ...]
    revision: int
    signer: x509.Certificate | None

    @property
    def trust_domain(self) -> str:
        """The mesh's."""
        return self.spec.trust_domain

    @property
    def roots_pem(self) -> tuple[str, ...]:
        """The roots as nodes get them."""
        return tuple(issuer.to_pem(root) for root in self.roots)

    @property
    def unchanged(self) -> KeyIs:
        """The condition that it still stands."""
        return KeyIs(KEY, self.revision)

    @cached_property
    def revocations(self) -> RevocationList:
        """The revocations, indexed."""
        return RevocationList(self.spec.revocations)


async def read_bundle(store: Store) -> TrustBundle:
    """Read the trust bundle as it stands.

    Raises:
        ConfigError: no mesh was founded in this store.
    """
    return unsigned(parse_as(TrustBundle, (await _read(store)).value, where=KEY))


async def read_trust(store: Store) -> Trust:
    """Read what is trusted now.

    Raises:
        ConfigError: no mesh was founded in this store, or the bundle is damaged.
    """
    found = await _read(store)
    bundle = parse_as(TrustBundle, found.value, where=KEY)
    try:
        signer = verify(KEY, found.value)[0]
    except Unsigned:
        signer = None
    except BadSignature as error:
        raise ConfigError(f"{KEY} {error}; put back what the registry wrote") from error
    roots = tuple(issuer.read_certificate(pem, where="the trust bundle") for pem in bundle.spec.roots_pem)
    return Trust(bundle.spec, roots, found.revision, signer)


async def _read(store: Store) -> KeyValue:
    if (found := await store.get(KEY)) is None:
        raise ConfigError(NOT_FOUNDED)
    return found


def put_bundle(spec: TrustBundleSpec, *, signed_by: IssuingKey, now: datetime) -> Put:
    """Give the write of the bundle, of the next generation. Every write of it is made here.

    Args:
        spec: made from what stands, on the condition that it still does.
        signed_by: the key that its readers know when they read it: the one that issues, which during a
            rotation is the old one until all of them trust the new root.
        now: the wall clock. A generation is the time in seconds, or one more than the one before: so one
            that is written after etcd was put back from a backup is newer than those that went.

    Raises:
        InvalidResource: no node would take it.
    """
    check_bundle(spec, where="trust bundle")
    generation = max(spec.generation + 1, int(now.timestamp()))
    spec = msgspec.structs.replace(spec, generation=generation)
    bundle = TrustBundle(
        api_version=NODEMESH,
        kind=TrustBundle.KIND,
        metadata=Metadata(name="bundle", namespace=ROOT_NAMESPACE),
        spec=spec,
    )
    return Put(KEY, signed_by.resource_signer.sign(KEY, render(bundle)))
