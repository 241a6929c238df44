"""Who may reach a workload: identity where it is required, then DENY, then ALLOW, then the mesh's default.

Pure. One evaluator for the proxies, the control plane and the CLI: `authorize` answers, `explain` shows
the way to the same answer. AUDIT policies and dry runs are asked and reported, and never change it.

A request whose path has an escaped slash is asked about in every way that a workload may read it, and is let
in when all are allowed. A connection of requests is let in when any might be: each is asked about then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from registry.model.authorization import Action
from registry.model.identity import WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from registry.rules.facts import Facts, facts_of, other_readings
from registry.rules.index import RuleIndex
from registry.rules.matching import CompiledPolicy, Form, form_of
from registry.rules.peers import PeerRequirements, Requirement
from registry.rules.request import AuthRequest
from registry.rules.shelf import Match

# A reason is read by people: more names than these tell them nothing.
_MAX_NAMES: Final = 8
_OPENING: Final = Form.OPENING


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to dial. `policy` is ``namespace/name``, empty when the mesh's default decided.

    `audited` names the AUDIT policies and dry runs that matched.
    """

    policy: str
    reason: str
    audited: tuple[str, ...] = ()
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal, which is a value. `policy` is the policy to look at, empty for the mesh's settings.

    When there are ALLOW policies and none matched, it is the first of them; `reason` names all.
    """

    policy: str
    reason: str
    audited: tuple[str, ...] = ()
    rule: int | None = None


Decision = Permit | Denied


class Group:
    """Policies that are asked together, ordered by name; indexed when they are asked for the first time."""

    def __init__(self, policies: Sequence[CompiledPolicy]) -> None:
        self.policies = tuple(policies)
        self.layer7 = any(rule.layer7 for policy in policies for rule in policy.rules)
        self._indexes: dict[Form, RuleIndex] = {}

    def index(self, form: Form) -> RuleIndex:
        """Give the index of the rules in a form; without fields about HTTP all forms are one."""
        form = form if self.layer7 else Form.READ
        index = self._indexes.get(form)
        if index is None:
            index = self._indexes[form] = RuleIndex(self.policies, form)
        return index

    def first(self, request: Facts, form: Form) -> Match | None:
        """Give the first rule that matches."""
        return self.index(form).first(request) if self.policies else None

    def all(self, request: Facts, form: Form) -> tuple[str, ...]:
        """Give the names of all policies that match."""
        return self.index(form).all(request) if self.policies else ()


class Asked:
    """The policies that select a workload, ordered by name. `observed` are AUDIT policies and dry runs."""

    def __init__(self, policies: Sequence[CompiledPolicy]) -> None:
        self._all = tuple(policies)
        enforced = [policy for policy in policies if not policy.dry_run]
        self.denying = Group([policy for policy in enforced if policy.action is Action.DENY])
        self.allowing = Group([policy for policy in enforced if policy.action is Action.ALLOW])
        self.observed = Group(
            [policy for policy in policies if policy.dry_run or policy.action is Action.AUDIT]
        )
        self.unallowed = _name_all([policy.name for policy in self.allowing.policies])
        # Whether requests of one connection may be answered differently.
        self.layer7 = self.denying.layer7 or self.allowing.layer7 or self.observed.layer7

    def is_of(self, policies: Sequence[CompiledPolicy]) -> bool:
        """Whether these are exactly its policies."""
        return len(policies) == len(self._all) and all(
            one is other for one, other in zip(policies, self._all, strict=True)
        )


@dataclass(frozen=True, slots=True)
class WorkloadPolicies:
    """What holds for one workload of `trust_domain`. `closed_by` is the key that never parsed, if any."""

    asked: Asked
    peers: PeerRequirements
    default: DefaultAuthorization
    trust_domain: str
    closed_by: str | None = None

    def require_identity(self, port: int) -> bool:
        """Whether callers of the workload's `port` must have proven an identity."""
        return self.peers.of(port).required


def authorize(policies: WorkloadPolicies, request: AuthRequest) -> Decision:
    """Say whether what is asked for is allowed."""
    known = facts_of(request, trust_domain=policies.trust_domain)
    decision = decide(policies, request, known)
    for reading in other_readings(request, known):
        other = decide(policies, request, reading)
        audited = tuple(sorted({*decision.audited, *other.audited}))
        if isinstance(decision, Permit) and isinstance(other, Denied):
            decision = other
        decision = replace(decision, audited=audited)
    return decision


def decide(policies: WorkloadPolicies, request: AuthRequest, facts: Facts) -> Decision:
    """Decide about one reading of a request; the answer to a request is that of `authorize`."""
    asked, form = policies.asked, form_of(request)
    # Of a connection of requests they are asked with each.
    audited = () if form is _OPENING else asked.observed.all(facts, form)
    if policies.closed_by is not None:
        # Of <plural>/<namespace>/<name>, the policy's name.
        name = policies.closed_by.partition("/")[2]
        return Denied(name, f"{policies.closed_by} never parsed, so its namespace is closed", audited)
    if not isinstance(request.source, WorkloadIdentity):
        requirement = policies.peers.of(request.port)
        if requirement.required:
            return Denied(requirement.policy, _strict(requirement), audited)
    if (found := asked.denying.first(facts, form)) is not None:
        policy, rule = found
        return Denied(policy, f"rule {rule} of the DENY policy {policy} matches", audited, rule)
    if asked.allowing.policies:
        if (found := asked.allowing.first(facts, form)) is not None:
            policy, rule = found
            return Permit(policy, f"rule {rule} of the ALLOW policy {policy} matches", audited, rule)
        return Denied(asked.allowing.policies[0].name, asked.unallowed, audited)
    if policies.default is DefaultAuthorization.ALLOW:
        return Permit("", "the mesh allows what no policy decides", audited)
    return Denied("", "the mesh denies what no policy allows", audited)


def _strict(requirement: Requirement) -> str:
    by = f"the PeerAuthentication {requirement.policy}" if requirement.policy else "the mesh"
    return f"the caller has no identity, and {by} requires one ({requirement.path} is STRICT)"


def _name_all(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    shown = ", ".join(names[:_MAX_NAMES])
    return f"no ALLOW policy matches, of {shown}{f' and {more} more' if more > 0 else ''}"
