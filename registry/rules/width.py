"""ALLOW rules that let in more than people mostly mean. Pure; part of `lint`."""

from collections.abc import Iterator, Sequence
from typing import Final

from registry.model.authorization import Action, AuthorizationPolicy
from registry.rules import facts
from registry.rules.findings import Check, Finding, Severity
from registry.rules.matching import CompiledRule, Condition, compile_policy

_CALLERS: Final = (facts.PRINCIPAL, facts.ACCOUNT, facts.NAMESPACE, facts.SOURCE_IP, facts.REMOTE_IP)
_MEND: Final = "name the callers, under from.source.principals, serviceAccounts or namespaces"


def find_too_wide(policy: AuthorizationPolicy) -> Iterator[Finding]:
    """Find rules of an ALLOW policy that name no caller."""
    if policy.spec.action is not Action.ALLOW:
        return
    for number, rule in enumerate(compile_policy(policy).rules):
        yield from _rule(policy, f"spec.rules[{number}]", rule)


def _rule(policy: AuthorizationPolicy, path: str, rule: CompiledRule) -> Iterator[Finding]:
    clauses = rule.read
    if _narrowing(clauses.when):
        return
    if not clauses.callers:
        narrowed = bool(clauses.targets or clauses.when)
        what = "what the rule is about" if narrowed else "everything"
        severity = Severity.INFO if narrowed else Severity.WARNING
        yield _finding(policy, severity, path, f"allows {what} to every caller, with or without an identity")
    for number, conditions in enumerate(clauses.callers):
        if _narrowing(conditions):
            continue
        place = f"{path}.from[{number}].source"
        present = next((each for each in conditions if each.wanted and "*" in each.values), None)
        if present is not None:
            # Callers of other meshes have a principal and neither of the rest.
            whose = "" if present.subject == facts.PRINCIPAL else " of this mesh"
            message = f"allows every caller that has an identity{whose}"
            yield _finding(policy, Severity.WARNING, present.path, message)
        elif not any(each.wanted for each in conditions):
            yield _finding(
                policy,
                Severity.WARNING,
                place,
                "allows every caller but those it excludes, also callers without an identity",
            )


def _narrowing(conditions: Sequence[Condition]) -> bool:
    """Whether conditions name callers otherwise than by ``*``."""
    return any(each.wanted and each.subject in _CALLERS and "*" not in each.values for each in conditions)


def _finding(policy: AuthorizationPolicy, severity: Severity, path: str, message: str) -> Finding:
    return Finding(severity, Check.TOO_WIDE, policy.KIND, policy.name, path, message, _MEND)
