"""AuthorizationPolicy in Istio's shape: who may reach which workload on which port.

Supported in `from`: principals, namespaces and their ``not…`` twins; in `to`: ports, notPorts.
Anything else Istio has is rejected by name, never ignored: an ignored condition would open a door.
Source: Istio, Authorization Policy reference (security.istio.io/v1).
"""

import enum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from registry.model.resource import Labels, Resource, Strict

# Istio writes ports as strings.
PORT_PATTERN = r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])\Z"
PortText = Annotated[str, Meta(pattern=PORT_PATTERN)]
# Exact, ``prefix*``, ``*suffix`` or ``*``, as in Istio.
Pattern = Annotated[str, Meta(min_length=1)]
# A list written out but empty would read as "anyone" or "any port": refused, as Istio refuses it.
Patterns = Annotated[tuple[Pattern, ...], Meta(min_length=1)]
Ports = Annotated[tuple[PortText, ...], Meta(min_length=1)]


class Action(enum.Enum):
    """What a matching rule does. Istio's CUSTOM is not supported."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"


class Source(Strict, frozen=True, kw_only=True):
    """All fields given must match; within a field any entry may. Principals have no ``spiffe://``."""

    principals: Patterns = ()
    not_principals: Patterns = ()
    namespaces: Patterns = ()
    not_namespaces: Patterns = ()


class Operation(Strict, frozen=True, kw_only=True):
    """The workload's port, not the service's."""

    ports: Ports = ()
    not_ports: Ports = ()


class From(Strict, frozen=True, kw_only=True):
    """One alternative of who calls."""

    source: Source


class To(Strict, frozen=True, kw_only=True):
    """One alternative of what is called."""

    operation: Operation


class Rule(Strict, frozen=True, kw_only=True):
    """Matches when any `from` and any `to` match; an absent list matches everything."""

    from_: Annotated[tuple[From, ...], Meta(min_length=1)] = msgspec.field(default=(), name="from")
    to: Annotated[tuple[To, ...], Meta(min_length=1)] = ()


class WorkloadSelector(Strict, frozen=True, kw_only=True):
    """Selects workloads that carry all these labels."""

    match_labels: Labels = msgspec.field(default_factory=dict)


class AuthorizationPolicySpec(Strict, frozen=True, kw_only=True):
    """No selector: every workload of the namespace. No rules: nothing matches (so ALLOW denies all)."""

    selector: WorkloadSelector | None = None
    action: Action = Action.ALLOW
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False


class AuthorizationPolicy(Resource, frozen=True, kw_only=True):
    """Who may reach the selected workloads; in the root namespace it selects in every namespace."""

    API_VERSIONS: ClassVar[tuple[str, ...]] = (
        "security.istio.io/v1",
        "security.istio.io/v1beta1",
        "nodemesh/v1",
    )
    KIND: ClassVar[str] = "AuthorizationPolicy"
    PLURAL: ClassVar[str] = "authorizationpolicies"

    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
