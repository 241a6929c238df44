"""PeerAuthentication in Istio's shape: whether the callers of a workload must prove who they are.

Every tunnel is mutual TLS; what a PeerAuthentication decides is whether calls without an identity are let
through to the policies: those of processes that belong to no workload, which a node makes under its own name,
and those that other hosts send to a workload's port in plaintext, where a node captures these.
Source: Istio, PeerAuthentication reference (security.istio.io/v1).
"""

import enum
from typing import ClassVar

import msgspec

from registry.model.authorization import PortText, WorkloadSelector
from registry.model.resource import Resource, Strict


class MtlsMode(enum.Enum):
    """STRICT: only callers with an identity. PERMISSIVE: all. UNSET: as the wider level says."""

    UNSET = "UNSET"
    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"


class MutualTls(Strict, frozen=True, kw_only=True):
    """The mode."""

    mode: MtlsMode = MtlsMode.UNSET


class PeerAuthenticationSpec(Strict, frozen=True, kw_only=True):
    """No selector: the whole namespace, or in the root namespace the whole mesh.

    `port_level_mtls` is by the workload's port and needs a selector.
    """

    selector: WorkloadSelector | None = None
    mtls: MutualTls = MutualTls()
    port_level_mtls: dict[PortText, MutualTls] = msgspec.field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """The labels it selects by; none when it is for the whole namespace."""
        return self.selector.match_labels if self.selector else {}


class PeerAuthentication(Resource, frozen=True, kw_only=True):
    """Whether callers of the selected workloads must have an identity; the narrowest level decides."""

    API_VERSIONS: ClassVar[tuple[str, ...]] = (
        "security.istio.io/v1",
        "security.istio.io/v1beta1",
        "nodemesh/v1",
    )
    KIND: ClassVar[str] = "PeerAuthentication"
    PLURAL: ClassVar[str] = "peerauthentications"

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
