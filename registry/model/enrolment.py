"""Enrolment and JoinToken: what a node may be, and the right to become one."""

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from registry.model.mesh import TrustDomain
from registry.model.resource import Name, Resource, Strict

# About 250 bytes each, so at most 250 KiB: well below etcd's 1.5 MiB, and small enough to be sent to every
# node with each change. Nodes and identities leave the list when their certificates are past their life.
MAX_REVOCATIONS: Final = 1000
MAX_REASON: Final = 200
# A few kilobytes of roots each; meshes that trust each other are few.
MAX_FEDERATED: Final = 32

# Seconds and Z, as `registry.clock.format_time` writes; whether the day exists is found when it is read.
Timestamp = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
        r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z\Z"
    ),
]
# Hexadecimal SHA-256 of a certificate's DER.
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class EnrolmentSpec(Strict, frozen=True, kw_only=True):
    """`identities` are full SPIFFE IDs the node may hold; `enrolled_at` is RFC 3339 in UTC.

    `pending` while an administrator has yet to approve it: the node is not enrolled until then.
    `joining_key` is the fingerprint of the public key that waits, and may fetch its certificate once.
    """

    node: Name
    identities: tuple[str, ...]
    enrolled_at: str
    pending: bool = False
    joining_key: Fingerprint | Literal[""] = ""


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
    require_approval: bool = False


class JoinToken(Resource, frozen=True, kw_only=True):
    """The right to enrol a node, `uses_left` times."""

    KIND: ClassVar[str] = "JoinToken"
    PLURAL: ClassVar[str] = "tokens"

    spec: JoinTokenSpec


class Revocation(Strict, frozen=True, kw_only=True):
    """Certificates that are refused before their time.

      `value` is a node's name, a full SPIFFE ID, a serial in lower-case hex, or for a grant a node's name
    and the SPIFFE ID it may no longer hold, with a space between. All but a serial are meant as certified
    at or before `revoked_at`, so that what is certified afterwards holds; a serial is meant for good.
    After `expires_at` every certificate meant is past its life; empty when that is not known. Times are
    RFC 3339 in UTC. What a revocation covers is decided by `registry.model.revocation` alone.
    """

    kind: Literal["node", "identity", "serial", "grant"]
    value: Annotated[str, Meta(min_length=1, max_length=2048)]
    revoked_at: Timestamp
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""
    expires_at: Timestamp | Literal[""] = ""


class FederatedDomain(Strict, frozen=True, kw_only=True):
    """Another mesh whose identities are recognised, by its own roots and no others."""

    trust_domain: TrustDomain
    roots_pem: tuple[str, ...]


class TrustBundleSpec(Strict, frozen=True, kw_only=True):
    """`roots_pem`: the root certificates trusted now, several during a rotation.

    `issuer` is the fingerprint (hex SHA-256 of the DER) of the intermediate that issues now; a node whose
    certificates come from another renews them. Empty in a mesh that was founded without an intermediate.
    `generation` rises with every change, so that no older bundle can be put in place of a newer one; 0 where
    none has been written since meshes have it.
    """

    trust_domain: str
    roots_pem: tuple[str, ...]
    issuer: Fingerprint | Literal[""] = ""
    revocations: Annotated[tuple[Revocation, ...], Meta(max_length=MAX_REVOCATIONS)] = ()
    federated: Annotated[tuple[FederatedDomain, ...], Meta(max_length=MAX_FEDERATED)] = ()
    generation: Annotated[int, Meta(ge=0)] = 0


class TrustBundle(Resource, frozen=True, kw_only=True):
    """The roots every peer must chain to; at ``ca/bundle``."""

    KIND: ClassVar[str] = "TrustBundle"
    PLURAL: ClassVar[str] = "trustbundles"

    spec: TrustBundleSpec


class SealedKeySpec(Strict, frozen=True, kw_only=True):
    """A signing key encrypted with a key that is not in etcd, and its certificate. Base64 and PEM.

    `certificate_pem` is empty while an external authority has yet to certify the key. `chain_pem` are the
    authorities between the certificate and its root, which holders of its leaves send along; `cross_pem` is
    the root as certified by the one before it, for those who know only that one.
    """

    algorithm: str
    salt: str
    nonce: str
    ciphertext: str
    certificate_pem: str = ""
    chain_pem: tuple[str, ...] = ()
    cross_pem: tuple[str, ...] = ()


class SealedKey(Resource, frozen=True, kw_only=True):
    """A sealed signing key; at ``ca/keys/<id>``."""

    KIND: ClassVar[str] = "SealedKey"
    PLURAL: ClassVar[str] = "sealedkeys"

    spec: SealedKeySpec
