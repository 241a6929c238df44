"""The way to a decision: what each policy and each of its rules has to say, and why.

Pure. Asks every policy one after the other, where `authorize` looks into an index; both come to the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from registry.model.authorization import Action
from registry.model.identity import WorkloadIdentity
from registry.rules import facts
from registry.rules.authorize import Decision, Denied, WorkloadPolicies, authorize, decide
from registry.rules.facts import Facts, facts_of, other_readings
from registry.rules.matching import (
    Alternatives,
    CompiledPolicy,
    CompiledRule,
    Condition,
    Form,
    all_hold,
    form_of,
)
from registry.rules.peers import Requirement
from registry.rules.request import AuthRequest

_ABSENT: Final[Mapping[int, str]] = {
    facts.PRINCIPAL: "the caller has no identity",
    facts.NAMESPACE: "the caller has no identity",
    facts.ACCOUNT: "the caller has no identity",
    facts.SOURCE_IP: "the caller's address is not known",
    facts.REMOTE_IP: "the client's address is not known",
    facts.DESTINATION_IP: "the address that was called is not known",
    facts.SNI: "the caller named no server",
}
_UNREAD: Final = "the request's HTTP is not read"
_LATER: Final = "each request of the connection is asked about by itself"


@dataclass(frozen=True, slots=True)
class Miss:
    """A field that was in the way: what it holds, and what the request has."""

    path: str
    values: tuple[str, ...]
    found: str


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one rule says: the alternatives and conditions `because` of which it matches, or the `misses`.

    `unread` are fields about HTTP that were taken as matching, because the request's HTTP is not read.
    """

    number: int
    matched: bool
    because: tuple[str, ...] = ()
    misses: tuple[Miss, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says: the number of the first `rule` that matched, and each rule's own verdict."""

    policy: str
    action: Action
    dry_run: bool
    rule: int | None
    rules: tuple[RuleVerdict, ...]

    @property
    def matched(self) -> bool:
        """Whether the policy matched."""
        return self.rule is not None

    @property
    def why_not(self) -> tuple[str, ...]:
        """The fields in the way of every rule; ``spec.rules`` when there is no rule; none if it matched."""
        if self.matched:
            return ()
        return tuple(miss.path for rule in self.rules for miss in rule.misses) or ("spec.rules",)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and what every policy that selects the workload says, in the order they are asked.

    `identity` is what PeerAuthentication says of the port; `authenticated`: the caller has an identity.
    """

    decision: Decision
    verdicts: tuple[Verdict, ...]
    identity: Requirement
    authenticated: bool


def explain(policies: WorkloadPolicies, request: AuthRequest) -> Explanation:
    """Give the decision of `authorize` and what each policy had to say, including those not reached.

    Of the ways in which a path can be read the one is shown that is refused, if any is.
    """
    asked, form = policies.asked, form_of(request)
    known = facts_of(request, trust_domain=policies.trust_domain)
    decision = authorize(policies, request)
    if isinstance(decision, Denied):
        known = _refused(policies, request, known)
    return Explanation(
        decision=decision,
        verdicts=tuple(
            _verdict(policy, known, form)
            for group in (asked.denying, asked.allowing, asked.observed)
            for policy in group.policies
        ),
        identity=policies.peers.of(request.port),
        authenticated=isinstance(request.source, WorkloadIdentity),
    )


def _refused(policies: WorkloadPolicies, request: AuthRequest, first: Facts) -> Facts:
    """Give the first reading of a refused request that is refused."""
    for reading in (first, *other_readings(request, first)):
        if isinstance(decide(policies, request, reading), Denied):
            return reading
    return first


def _verdict(policy: CompiledPolicy, known: Facts, form: Form) -> Verdict:
    rules = tuple(_rule_verdict(number, rule, known, form) for number, rule in enumerate(policy.rules))
    first = next((rule.number for rule in rules if rule.matched), None)
    return Verdict(policy.name, policy.action, policy.dry_run, first, rules)


def _rule_verdict(number: int, rule: CompiledRule, known: Facts, form: Form) -> RuleVerdict:
    clauses = rule.clauses(form)
    if clauses is None:
        misses = [
            Miss(condition.path, condition.values, _UNREAD if form is Form.UNREAD else _LATER)
            for conditions in (*rule.read.callers, *rule.read.targets, rule.read.when)
            for condition in conditions
            if condition.layer7
        ]
        return RuleVerdict(number, False, misses=tuple(misses))
    because: list[str] = []
    misses = []
    for alternatives in (clauses.callers, clauses.targets, *(((each,),) for each in clauses.when)):
        missed = list(_misses(alternatives, known))
        if len(missed) < len(alternatives):
            because.extend(_places(alternatives, known))
        else:
            misses.extend(missed)
    if misses:
        return RuleVerdict(number, False, misses=tuple(misses))
    return RuleVerdict(number, True, tuple(because), unread=() if form is Form.READ else rule.layer7)


def _misses(alternatives: Alternatives, known: Facts) -> Iterator[Miss]:
    """Give for each alternative that does not hold the first field in its way."""
    for conditions in alternatives:
        for condition in conditions:
            if not all_hold((condition,), known):
                yield Miss(condition.path, condition.values, _found(condition, known))
                break


def _places(alternatives: Alternatives, known: Facts) -> Iterator[str]:
    """Give the fields of the first alternative that holds."""
    for conditions in alternatives:
        if all_hold(conditions, known):
            yield from (condition.path for condition in conditions)
            return


def _found(condition: Condition, known: Facts) -> str:
    if condition.subject == facts.HEADERS:
        return "the request's headers"
    if condition.subject in (facts.NAMESPACE, facts.ACCOUNT) and known.principal and not known.namespace:
        return f"{known.principal}, of another trust domain: only principals match it"
    return str(known[condition.subject]) or _ABSENT.get(condition.subject, "nothing")
