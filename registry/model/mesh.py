"""Mesh: settings that hold everywhere."""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.peer_authentication import MtlsMode
from registry.model.resource import DEFAULT_TRUST_DOMAIN, Resource, Strict

# Stricter than SPIFFE: tunnels carry it in TLS server names. Their labels have at most 63 characters and they
# themselves 253, of which an account, a namespace and ".sa." may take 131.
TRUST_DOMAIN_PATTERN = (
    r"^(?=.{1,122}\Z)[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*\Z"
)
TrustDomain = Annotated[str, Meta(pattern=TRUST_DOMAIN_PATTERN)]


class DefaultAuthorization(enum.Enum):
    """What holds for a workload that no ALLOW policy selects."""

    ALLOW = "allow"
    DENY = "deny"


class PolicySigning(enum.Enum):
    """Whether what operators write must be signed by the authority, as what comes through the API is."""

    OFF = "off"
    REQUIRED = "required"


# How long a deleted service's virtual IPs are given to no other: callers may have kept the name's answer, and
# none of them must reach another service by it.
DEFAULT_VIP_HOLD_DOWN = 3600
# Longer, and a mesh that makes and deletes services by program runs out of addresses.
MAX_VIP_HOLD_DOWN = 7 * 24 * 3600
# Longer than this is no grace but a policy that does not hold.
MAX_ENFORCEMENT_GRACE = 300


class MeshSpec(Strict, frozen=True, kw_only=True):
    """`vip_ranges`: where virtual IPs are allocated, one IPv4 and one IPv6 network in CIDR form.

    `vip_hold_down`: seconds that the virtual IPs of a deleted service are given to no other.
    `mtls_mode` holds where no PeerAuthentication says otherwise; it cannot be UNSET.
    `policy_signing`: while required, an edit past the API, as with etcdctl, is a rejected edit.
    `enforcement_grace`: seconds that an open connection may go on after a change of policy has denied it.
    """

    trust_domain: TrustDomain = DEFAULT_TRUST_DOMAIN
    default_authorization: DefaultAuthorization = DefaultAuthorization.ALLOW
    mtls_mode: MtlsMode = MtlsMode.STRICT
    # 240.0.0.0/4 is reserved and unrouted, as Istio and Consul use it; the second is a unique local prefix.
    vip_ranges: tuple[str, ...] = ("240.240.0.0/16", "fd6d:6573:6800::/64")
    vip_hold_down: Annotated[int, Meta(ge=0, le=MAX_VIP_HOLD_DOWN)] = DEFAULT_VIP_HOLD_DOWN
    policy_signing: PolicySigning = PolicySigning.OFF
    enforcement_grace: Annotated[int, Meta(ge=0, le=MAX_ENFORCEMENT_GRACE)] = 0


class Mesh(Resource, frozen=True, kw_only=True):
    """The single resource at key ``mesh``; named ``mesh`` in the root namespace."""

    KIND: ClassVar[str] = "Mesh"
    PLURAL: ClassVar[str] = "mesh"

    spec: MeshSpec = MeshSpec()
