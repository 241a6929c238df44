"""The registry's answers about authorization as typed values."""

from registry.cli.answers import Answer


class MissView(Answer, frozen=True, kw_only=True):
    """A field in the way: what it wants, and what the call has."""

    path: str
    values: tuple[str, ...] = ()
    found: str = ""


class RuleView(Answer, frozen=True, kw_only=True):
    """What one rule says, and why."""

    number: int
    matched: bool
    because: tuple[str, ...] = ()
    misses: tuple[MissView, ...] = ()
    unread: tuple[str, ...] = ()


class PolicyView(Answer, frozen=True, kw_only=True):
    """What one policy says: the first `rule` that matches, and each rule's own word."""

    policy: str
    action: str
    matched: bool
    dry_run: bool = False
    rule: int | None = None
    rules: tuple[RuleView, ...] = ()


class IdentityView(Answer, frozen=True, kw_only=True):
    """Whether the caller must have an identity, and has one."""

    required: bool
    authenticated: bool
    policy: str = ""
    path: str = ""


class VerdictView(Answer, frozen=True, kw_only=True):
    """The answer for one workload of one node; no `policy` means that the mesh's settings decided."""

    node: str
    workload: str
    port: int
    outcome: str
    identity: IdentityView
    policy: str = ""
    rule: int | None = None
    reason: str = ""
    audited: tuple[str, ...] = ()
    policies: tuple[PolicyView, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def denied(self) -> bool:
        """Whether the call is refused; whatever is no clear permit is."""
        return self.outcome != "permitted"


class CheckView(Answer, frozen=True, kw_only=True):
    """The answer for each workload behind what was named."""

    revision: int
    source: str = ""
    service: str = ""
    workloads: tuple[VerdictView, ...] = ()


class RequestView(Answer, frozen=True, kw_only=True):
    """A request that was decided upon."""

    method: str
    host: str
    path: str


class DecisionView(Answer, frozen=True, kw_only=True):
    """A recorded decision; `ids` are the latest of its sort."""

    node: str
    outcome: str
    reason: str
    port: int
    count: int
    first_seen: str
    last_seen: str
    policy: str = ""
    source: str = ""
    source_ip: str = ""
    remote_ip: str = ""
    destination_ip: str = ""
    sni: str = ""
    destination: str = ""
    ids: tuple[str, ...] = ()
    request: RequestView | None = None


class ExplainedView(Answer, frozen=True, kw_only=True):
    """A recorded decision and what the present policies say; `why_not` when they cannot be asked."""

    decision: DecisionView
    now: VerdictView | None = None
    differs: bool = False
    why_not: str = ""


class ExplainView(Answer, frozen=True, kw_only=True):
    """Every node's record of a decision."""

    revision: int
    items: tuple[ExplainedView, ...] = ()


class SideView(Answer, frozen=True, kw_only=True):
    """An outcome and who decides it."""

    outcome: str
    policy: str = ""
    reason: str = ""


class ChangeView(Answer, frozen=True, kw_only=True):
    """Recorded calls that would be answered otherwise."""

    node: str
    source: str
    destination: str
    port: int
    count: int
    last_seen: str
    before: SideView
    after: SideView
    source_ip: str = ""


class FindingView(Answer, frozen=True, kw_only=True):
    """Something about a policy that is most likely not meant."""

    severity: str
    check: str
    kind: str
    policy: str
    path: str
    message: str
    mend: str = ""


class LintView(Answer, frozen=True, kw_only=True):
    """What was found, the gravest first."""

    revision: int
    findings: tuple[FindingView, ...] = ()


class DiffView(Answer, frozen=True, kw_only=True):
    """What would change for the recorded calls."""

    revision: int
    replayed: int
    skipped: int = 0
    changes: tuple[ChangeView, ...] = ()
