"""AuthorizationPolicy in Istio's shape: who may reach which workload, at which port, with what request.

Everything of Istio's is there but request tokens (`requestPrincipals`, `request.auth.*`), CUSTOM and
gateways, which are rejected by name, never ignored: an ignored condition would open a door.
Source: Istio, Authorization Policy and Conditions references (security.istio.io/v1).
"""

import enum
import re
from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from registry.model.resource import Labels, Name, Resource, Strict

# Istio writes ports as strings.
PORT_PATTERN = r"^([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])\Z"
PortText = Annotated[str, Meta(pattern=PORT_PATTERN)]
# Exact, ``prefix*``, ``*suffix`` or ``*``, as in Istio.
Pattern = Annotated[str, Meta(min_length=1)]
# A list written out but empty would read as "anyone" or "any port": refused, as Istio refuses it.
Patterns = Annotated[tuple[Pattern, ...], Meta(min_length=1)]
Ports = Annotated[tuple[PortText, ...], Meta(min_length=1)]

# Istio's way to say `spec.dryRun`.
DRY_RUN_ANNOTATION: Final = "istio.io/dry-run"

# RFC 9110 section 5.6.2: a header's name is a token.
_HEADER_KEY: Final = re.compile(r"request\.headers\[([!#$%&'*+.^_`|~0-9A-Za-z-]+)\]\Z")


class Attribute(enum.Enum):
    """What a condition of `when` may be about, besides ``request.headers[<name>]``."""

    SOURCE_IP = "source.ip"
    REMOTE_IP = "remote.ip"
    SOURCE_NAMESPACE = "source.namespace"
    SOURCE_PRINCIPAL = "source.principal"
    SOURCE_SERVICE_ACCOUNT = "source.serviceAccount"
    DESTINATION_IP = "destination.ip"
    DESTINATION_PORT = "destination.port"
    CONNECTION_SNI = "connection.sni"


_ATTRIBUTES: Final = {attribute.value: attribute for attribute in Attribute}


class Action(enum.Enum):
    """What a matching rule does. Istio's CUSTOM is not supported."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"


class Source(Strict, frozen=True, kw_only=True):
    """All fields given must match; within a field any entry may.

    Principals have no ``spiffe://``; they alone match callers of other trust domains. A service account is
    ``<namespace>/<account>``, or an account of the policy's own namespace. `ip_blocks` are about the calling
    host's address, `remote_ip_blocks` about that of the original client.
    """

    principals: Patterns = ()
    not_principals: Patterns = ()
    namespaces: Patterns = ()
    not_namespaces: Patterns = ()
    service_accounts: Patterns = ()
    not_service_accounts: Patterns = ()
    ip_blocks: Patterns = ()
    not_ip_blocks: Patterns = ()
    remote_ip_blocks: Patterns = ()
    not_remote_ip_blocks: Patterns = ()


class Operation(Strict, frozen=True, kw_only=True):
    """The workload's port, not the service's; hosts, methods and paths are of HTTP requests."""

    hosts: Patterns = ()
    not_hosts: Patterns = ()
    ports: Ports = ()
    not_ports: Ports = ()
    methods: Patterns = ()
    not_methods: Patterns = ()
    paths: Patterns = ()
    not_paths: Patterns = ()


class From(Strict, frozen=True, kw_only=True):
    """One alternative of who calls."""

    source: Source


class To(Strict, frozen=True, kw_only=True):
    """One alternative of what is called."""

    operation: Operation


class Condition(Strict, frozen=True, kw_only=True):
    """One more thing that must hold: any of `values`, if there are any, and none of `not_values`."""

    key: str
    values: Patterns = ()
    not_values: Patterns = ()

    @property
    def attribute(self) -> Attribute | None:
        """What it is about; None for a header, and for a key that is none of ours."""
        return _ATTRIBUTES.get(self.key)

    @property
    def header(self) -> str | None:
        """The lower-case name of the header it is about, if it is about one."""
        found = _HEADER_KEY.match(self.key)
        return found[1].lower() if found else None


class Rule(Strict, frozen=True, kw_only=True):
    """Matches when any `from`, any `to` and every `when` match; an absent list matches everything."""

    from_: Annotated[tuple[From, ...], Meta(min_length=1)] = msgspec.field(default=(), name="from")
    to: Annotated[tuple[To, ...], Meta(min_length=1)] = ()
    when: Annotated[tuple[Condition, ...], Meta(min_length=1)] = ()


class WorkloadSelector(Strict, frozen=True, kw_only=True):
    """Selects workloads that carry all these labels."""

    match_labels: Labels = msgspec.field(default_factory=dict)


class TargetKind(enum.Enum):
    """What a policy may be attached to."""

    SERVICE = "Service"


class TargetRef(Strict, frozen=True, kw_only=True):
    """A Service of the policy's own namespace: the policy applies to the workloads behind it."""

    kind: TargetKind
    name: Name
    group: str = ""
    namespace: Name | None = None


class AuthorizationPolicySpec(Strict, frozen=True, kw_only=True):
    """Neither selector nor targets: every workload of the namespace.

    No rules: nothing matches, so ALLOW denies all.
    """

    selector: WorkloadSelector | None = None
    target_refs: Annotated[tuple[TargetRef, ...], Meta(min_length=1)] = ()
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

    @property
    def dry_run(self) -> bool:
        """Whether it only watches: by `spec.dryRun` or by Istio's annotation."""
        return self.spec.dry_run or self.metadata.annotations.get(DRY_RUN_ANNOTATION) == "true"

    @property
    def targets(self) -> frozenset[str]:
        """The services it is attached to, as ``namespace/name``."""
        return frozenset(f"{self.metadata.namespace}/{target.name}" for target in self.spec.target_refs)
