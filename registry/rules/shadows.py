"""Rules that change nothing, because others match all that they match. Pure; part of `lint`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from registry.model.authorization import Action, AuthorizationPolicy
from registry.rules import facts
from registry.rules.covering import contradiction, covers, demands_of, selects_all_of
from registry.rules.findings import Check, Finding, Severity
from registry.rules.matching import Clauses, Condition, compile_policy

# A second or two; where more rules may shadow each other a person cannot mend them all at once.
MAX_PAIRS: Final = 50_000
_ANCHORS: Final = (facts.PRINCIPAL, facts.ACCOUNT, facts.NAMESPACE)


@dataclass(frozen=True, slots=True)
class _Rule:
    policy: AuthorizationPolicy
    number: int
    clauses: Clauses

    @property
    def path(self) -> str:
        return f"spec.rules[{self.number}]"

    @property
    def order(self) -> tuple[str, int]:
        return self.policy.name, self.number


def find_shadows(policies: Sequence[AuthorizationPolicy], *, trust_domain: str) -> Iterator[Finding]:
    """Find rules that others make superfluous or unreachable, and rules that contradict themselves."""
    rules = [
        _Rule(policy, number, rule.read)
        for policy in policies
        if not policy.dry_run
        for number, rule in enumerate(compile_policy(policy).rules)
    ]
    for rule in rules:
        yield from _contradictions(rule, trust_domain)
    wider = _Wider(rules, trust_domain)
    pairs = 0
    for rule in rules:
        if rule.policy.spec.action is Action.AUDIT:
            continue
        for other in wider.than(rule):
            pairs += 1
            if pairs > MAX_PAIRS:
                yield _given_up(rule)
                return
            if (found := _shadow(rule, other, trust_domain)) is not None:
                yield found
                break


def _contradictions(rule: _Rule, trust_domain: str) -> Iterator[Finding]:
    for conditions in (*rule.clauses.callers, *rule.clauses.targets):
        found = contradiction((*conditions, *rule.clauses.when), trust_domain=trust_domain)
        if found is not None:
            yield _finding(
                rule,
                Severity.WARNING,
                Check.UNREACHABLE,
                "contradicts another field beside it, so nothing can match both",
                "remove one of them",
                path=found.path,
            )


def _shadow(rule: _Rule, other: _Rule, trust_domain: str) -> Finding | None:
    """Say that `other` makes `rule` superfluous, if it does."""
    action, over = rule.policy.spec.action, other.policy.spec.action
    if over is Action.AUDIT or (action is Action.DENY and over is Action.ALLOW) or rule is other:
        return None
    if not selects_all_of(other.policy, rule.policy):
        return None
    if not covers(other.clauses, rule.clauses, trust_domain=trust_domain):
        return None
    place = f"{other.path} of {other.policy.name}"
    if action is not over:
        return _finding(
            rule,
            Severity.WARNING,
            Check.UNREACHABLE,
            f"allows nothing: the DENY rule {place} refuses all that it matches",
            "remove it, or narrow the DENY rule",
        )
    same = selects_all_of(rule.policy, other.policy) and covers(
        rule.clauses, other.clauses, trust_domain=trust_domain
    )
    if same and rule.order < other.order:
        # The later one is reported.
        return None
    return _finding(
        rule,
        Severity.INFO,
        Check.SHADOWED,
        f"changes nothing: {place} matches all that it matches",
        "remove it, or narrow the other rule",
    )


def _finding(
    rule: _Rule, severity: Severity, check: Check, message: str, mend: str, *, path: str = ""
) -> Finding:
    return Finding(
        severity, check, AuthorizationPolicy.KIND, rule.policy.name, path or rule.path, message, mend
    )


def _given_up(rule: _Rule) -> Finding:
    return _finding(
        rule,
        Severity.INFO,
        Check.SHADOWED,
        f"whether others shadow it was not looked into, nor for those after it: more than {MAX_PAIRS} pairs",
        "lint one namespace at a time",
    )


class _Wider:
    """Which rules may cover a given one: those that name a caller that it names, or that name none."""

    def __init__(self, rules: Sequence[_Rule], trust_domain: str) -> None:
        self._trust_domain = trust_domain
        self._by_caller: dict[tuple[int, str], list[_Rule]] = defaultdict(list)
        self._others: list[_Rule] = []
        for rule in rules:
            places: list[tuple[int, str]] | None = []
            for conditions in rule.clauses.callers or ((),):
                named = _named((*conditions, *rule.clauses.when))
                if named is None:
                    places = None
                    break
                places = [*(places or ()), *named]
            if places is None:
                self._others.append(rule)
            else:
                for place in dict.fromkeys(places):
                    self._by_caller[place].append(rule)

    def than(self, rule: _Rule) -> Iterator[_Rule]:
        first = (rule.clauses.callers or ((),))[0]
        demands = demands_of((*first, *rule.clauses.when), trust_domain=self._trust_domain)
        for subject, wanted, values in demands:
            if wanted and subject in _ANCHORS and values:
                yield from self._by_caller.get((subject, values[0]), ())
        yield from self._others


def _named(conditions: Sequence[Condition]) -> list[tuple[int, str]] | None:
    """Give the callers that conditions name one by one; None when they name none so."""
    for subject, wanted, _, values in (each[1:5] for each in conditions):
        if wanted and subject in _ANCHORS and values and not any("*" in value for value in values):
            return [(subject, value) for value in values]
    return None
