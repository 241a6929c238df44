"""What is asked of and answered by ``/v1/authz``: the evaluator's values in JSON. Pure."""

import msgspec

from registry.api.authz_view import MeshView, Recorded, Target
from registry.api.bodies import Answer, Asked
from registry.model.decision import Outcome, RecordedRequest
from registry.rules import AuthRequest, Decision, Explanation, Permit, Verdict, explain


class CheckAsked(Asked, frozen=True, kw_only=True):
    """May `from_` call `to`?

    `from_` is ``namespace/account``, a SPIFFE ID or empty for a caller without an identity, `to`
    ``namespace/name:port`` of a service or a workload. With any of method, path, host and headers the
    question is about an HTTP request.
    """

    from_: str = msgspec.field(name="from")
    to: str
    method: str | None = None
    path: str | None = None
    host: str | None = None
    headers: dict[str, str] = {}
    source_ip: str | None = None
    candidates: tuple[dict[str, object], ...] = ()


class CandidatesAsked(Asked, frozen=True, kw_only=True):
    """Resources that take the place of the stored ones of their names."""

    candidates: tuple[dict[str, object], ...] = ()


class MissAnswer(Answer, frozen=True, kw_only=True):
    """A field in the way: what it wants, and what the call has."""

    path: str
    values: tuple[str, ...]
    found: str


class RuleAnswer(Answer, frozen=True, kw_only=True):
    """What one rule says: the fields `because` of which it matches, or the `misses`.

    `unread` are fields about HTTP that count as matching, because no HTTP is read.
    """

    number: int
    matched: bool
    because: tuple[str, ...]
    misses: tuple[MissAnswer, ...]
    unread: tuple[str, ...]


class PolicyAnswer(Answer, frozen=True, kw_only=True):
    """What one policy says: the number of the first `rule` that matches, and each rule's own word."""

    policy: str
    action: str
    dry_run: bool
    matched: bool
    rule: int | None
    rules: tuple[RuleAnswer, ...]


class IdentityAnswer(Answer, frozen=True, kw_only=True):
    """Whether the caller must have an identity, by which policy's field (no policy: the mesh's settings)."""

    required: bool
    authenticated: bool
    policy: str
    path: str


class VerdictAnswer(Answer, frozen=True, kw_only=True):
    """The answer for one workload.

    `policy` and `rule` decided; `policy` is empty when the mesh's defaults did. `policies` are all that
    select the workload, in the order they are asked. `remarks` say what to know besides.
    """

    node: str
    workload: str
    port: int
    outcome: str
    policy: str
    rule: int | None
    reason: str
    audited: tuple[str, ...]
    identity: IdentityAnswer
    policies: tuple[PolicyAnswer, ...]
    remarks: tuple[str, ...]


class CheckAnswer(Answer, frozen=True, kw_only=True):
    """The answer for each workload behind what was named; `service` is empty when that is a workload."""

    revision: int
    source: str
    service: str
    workloads: tuple[VerdictAnswer, ...]


class DecisionAnswer(Answer, frozen=True, kw_only=True):
    """A recorded decision of a node."""

    node: str
    outcome: str
    reason: str
    policy: str
    source: str
    source_ip: str
    remote_ip: str
    destination_ip: str
    sni: str
    destination: str
    port: int
    count: int
    first_seen: str
    last_seen: str
    ids: tuple[str, ...]
    request: RecordedRequest | None = None


class ExplainedAnswer(Answer, frozen=True, kw_only=True):
    """A recorded decision, and the answer under the present policies.

    `now` is null when it cannot be asked again, and `why_not` says why. `differs`: the outcome is another.
    """

    decision: DecisionAnswer
    now: VerdictAnswer | None
    differs: bool
    why_not: str


class ExplainAnswer(Answer, frozen=True, kw_only=True):
    """Every node's record of a decision: one, unless a node claims another's."""

    revision: int
    items: tuple[ExplainedAnswer, ...]


class SideAnswer(Answer, frozen=True, kw_only=True):
    """An outcome and the policy that decides it."""

    outcome: str
    policy: str
    reason: str


class ChangeAnswer(Answer, frozen=True, kw_only=True):
    """Calls that would be answered otherwise; `count` is how many of them were recorded."""

    node: str
    source: str
    source_ip: str
    destination: str
    port: int
    count: int
    last_seen: str
    before: SideAnswer
    after: SideAnswer


class DiffAnswer(Answer, frozen=True, kw_only=True):
    """What would change. `replayed` sorts of calls were asked again; `skipped` cannot be any more."""

    revision: int
    replayed: int
    skipped: int
    changes: tuple[ChangeAnswer, ...]


def outcome_of(decision: Decision) -> Outcome:
    """Say what a decision is."""
    return Outcome.PERMITTED if isinstance(decision, Permit) else Outcome.DENIED


def ask(view: MeshView, target: Target, request: AuthRequest) -> tuple[Explanation, tuple[str, ...]]:
    """Ask the rules that guard a workload; gives their answer and remarks on it."""
    policies, remarks = view.policies(target)
    return explain(policies, request), remarks


def verdict(
    view: MeshView, target: Target, request: AuthRequest, *, remarks: tuple[str, ...] = ()
) -> VerdictAnswer:
    """Give the answer for one workload."""
    explanation, more = ask(view, target, request)
    decision = explanation.decision
    return VerdictAnswer(
        node=target.node.name,
        workload=target.workload.name,
        port=target.port,
        outcome=outcome_of(decision).value,
        policy=decision.policy,
        rule=decision.rule,
        reason=decision.reason,
        audited=decision.audited,
        identity=IdentityAnswer(
            required=explanation.identity.required,
            authenticated=explanation.authenticated,
            policy=explanation.identity.policy,
            path=explanation.identity.path,
        ),
        policies=tuple(_policy(each) for each in explanation.verdicts),
        remarks=(*remarks, *more),
    )


def describe(recorded: Recorded) -> DecisionAnswer:
    """Give a recorded decision."""
    record = recorded.record
    return DecisionAnswer(
        node=recorded.node,
        outcome=record.outcome.value,
        reason=record.reason,
        policy=record.policy,
        source=record.source,
        source_ip=record.source_ip,
        remote_ip=record.remote_ip,
        destination_ip=record.destination_ip,
        sni=record.sni,
        destination=record.destination,
        port=record.port,
        count=record.count,
        first_seen=record.first_seen,
        last_seen=record.last_seen,
        ids=record.ids,
        request=record.request,
    )


def side(decision: Decision) -> SideAnswer:
    """Give one side of a change."""
    return SideAnswer(outcome=outcome_of(decision).value, policy=decision.policy, reason=decision.reason)


def _policy(said: Verdict) -> PolicyAnswer:
    return PolicyAnswer(
        policy=said.policy,
        action=said.action.value,
        dry_run=said.dry_run,
        matched=said.matched,
        rule=said.rule,
        rules=tuple(
            RuleAnswer(
                number=rule.number,
                matched=rule.matched,
                because=rule.because,
                misses=tuple(
                    MissAnswer(path=miss.path, values=miss.values, found=miss.found) for miss in rule.misses
                ),
                unread=rule.unread,
            )
            for rule in said.rules
        ),
    )
