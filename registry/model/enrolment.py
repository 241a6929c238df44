"""Enrolment and JoinToken: what a node may be, and the right to become one."""

from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.resource import Name, Resource, Strict


class EnrolmentSpec(Strict, frozen=True, kw_only=True):
    """`identities` are full SPIFFE IDs the node may hold; `enrolled_at` is RFC 3339 in UTC."""

    node: Name
    identities: tuple[str, ...]
    enrolled_at: str


class Enrolment(Resource, frozen=True, kw_only=True):
    """Which identities a node may hold; written by the registry alone."""

    KIND: ClassVar[str] = "Enrolment"
    PLURAL: ClassVar[str] = "enrolments"

    spec: EnrolmentSpec


class JoinTokenSpec(Strict, frozen=True, kw_only=True):
    """`secret_sha256` is hex; `node_pattern` is a shell pattern; the key's lease enforces the TTL."""

    secret_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    node_pattern: str
    identities: tuple[str, ...]
    uses_left: Annotated[int, Meta(ge=0)]
    expires_at: str


class JoinToken(Resource, frozen=True, kw_only=True):
    """The right to enrol a node, `uses_left` times."""

    KIND: ClassVar[str] = "JoinToken"
    PLURAL: ClassVar[str] = "tokens"

    spec: JoinTokenSpec


class TrustBundleSpec(Strict, frozen=True, kw_only=True):
    """`roots_pem`: the root certificates trusted now, several during a rotation."""

    trust_domain: str
    roots_pem: tuple[str, ...]


class TrustBundle(Resource, frozen=True, kw_only=True):
    """The roots every peer must chain to; at ``ca/bundle``."""

    KIND: ClassVar[str] = "TrustBundle"
    PLURAL: ClassVar[str] = "trustbundles"

    spec: TrustBundleSpec


class SealedKeySpec(Strict, frozen=True, kw_only=True):
    """A signing key encrypted with a key that is not in etcd, and its certificate. Base64 and PEM."""

    algorithm: str
    salt: str
    nonce: str
    ciphertext: str
    certificate_pem: str


class SealedKey(Resource, frozen=True, kw_only=True):
    """A sealed signing key; at ``ca/keys/<id>``."""

    KIND: ClassVar[str] = "SealedKey"
    PLURAL: ClassVar[str] = "sealedkeys"

    spec: SealedKeySpec
