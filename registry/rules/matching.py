"""Policies made ready to be asked on every new connection: patterns become sets and prefixes.

Pure. Semantics are Istio's: within a field any entry may match, all fields of an alternative must,
any alternative of `from` and any of `to` must, any rule may. A caller without an identity has the
empty principal and namespace: no positive pattern matches it, ``*`` included, so every ``not…`` field does.
Source: Istio, Authorization Policy reference; ztunnel evaluates it the same way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from registry.model.authorization import Action, AuthorizationPolicy, Operation, Rule, Source
from registry.model.identity import Identity, WorkloadIdentity

# What is asked about: the caller's principal and namespace ("" for none) and the workload's port.
Request = tuple[str, str, int]
_PRINCIPAL: Final = 0
_NAMESPACE: Final = 1
_PORT: Final = 2


def request_of(source: Identity | None, port: int) -> Request:
    """Say who calls which port in the terms of the policies; nodes are in no namespace."""
    if source is None:
        return "", "", port
    namespace = source.namespace if isinstance(source, WorkloadIdentity) else ""
    return source.principal, namespace, port


Contains = Callable[[Any], bool]


class Condition(NamedTuple):
    """One field of a policy: holds when `contains` says `wanted` of the request's part `subject`."""

    path: str
    subject: int
    wanted: bool
    contains: Contains


Alternatives = tuple[tuple[Condition, ...], ...]


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy and its rules, each as the alternatives of `from` and of `to`."""

    name: str
    action: Action
    dry_run: bool
    rules: tuple[tuple[Alternatives, Alternatives], ...]

    def match(self, request: Request, failing: list[str] | None = None) -> int | None:
        """Give the number of the first rule that matches; None when none does.

        The fields that did not match are added to `failing`, unless that is None, which is faster.
        """
        for number, (callers, targets) in enumerate(self.rules):
            if _any_holds(callers, request, failing) and _any_holds(targets, request, failing):
                return number
        return None


def compile_policy(policy: AuthorizationPolicy) -> CompiledPolicy:
    """Make a policy ready to be asked."""
    return CompiledPolicy(
        name=policy.name,
        action=policy.spec.action,
        dry_run=policy.spec.dry_run,
        rules=tuple(_compile_rule(rule, f"spec.rules[{i}]") for i, rule in enumerate(policy.spec.rules)),
    )


def _any_holds(alternatives: Alternatives, request: Request, failing: list[str] | None) -> bool:
    """Whether an alternative holds in all its conditions, or there is none to hold."""
    before = 0 if failing is None else len(failing)
    for conditions in alternatives:
        for path, subject, wanted, contains in conditions:
            if contains(request[subject]) is not wanted:
                if failing is not None:
                    failing.append(path)
                break
        else:
            if failing is not None:
                # Another alternative holds: what failed until here was not in the way.
                del failing[before:]
            return True
    return not alternatives


def _compile_rule(rule: Rule, path: str) -> tuple[Alternatives, Alternatives]:
    callers = tuple(
        _source_conditions(alternative.source, f"{path}.from[{i}].source")
        for i, alternative in enumerate(rule.from_)
    )
    targets = tuple(
        _operation_conditions(alternative.operation, f"{path}.to[{i}].operation")
        for i, alternative in enumerate(rule.to)
    )
    return callers, targets


def _source_conditions(source: Source, path: str) -> tuple[Condition, ...]:
    return _given(
        path,
        ("principals", _PRINCIPAL, True, _matcher(source.principals)),
        ("notPrincipals", _PRINCIPAL, False, _matcher(source.not_principals)),
        ("namespaces", _NAMESPACE, True, _matcher(source.namespaces)),
        ("notNamespaces", _NAMESPACE, False, _matcher(source.not_namespaces)),
    )


def _operation_conditions(operation: Operation, path: str) -> tuple[Condition, ...]:
    return _given(
        path,
        ("ports", _PORT, True, _one_of(operation.ports)),
        ("notPorts", _PORT, False, _one_of(operation.not_ports)),
    )


def _given(path: str, *fields: tuple[str, int, bool, Contains | None]) -> tuple[Condition, ...]:
    """Keep the fields that the policy has. None at all matches nobody, as in Istio; the parser refuses it."""
    conditions = tuple(
        Condition(f"{path}.{name}", subject, wanted, contains)
        for name, subject, wanted, contains in fields
        if contains is not None
    )
    return conditions or (Condition(path, _PRINCIPAL, True, frozenset[str]().__contains__),)


def _one_of(ports: Sequence[str]) -> Contains | None:
    return frozenset(map(int, ports)).__contains__ if ports else None


def _matcher(patterns: Sequence[str]) -> Contains | None:
    """Make one test of all the patterns of a field; the empty text, for an absent identity, passes none."""
    if not patterns:
        return None
    if "*" in patterns:
        return bool
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    prefixes = tuple(pattern.removesuffix("*") for pattern in patterns if pattern.endswith("*"))
    suffixes = tuple(pattern.removeprefix("*") for pattern in patterns if pattern.startswith("*"))
    if not prefixes and not suffixes:
        return exact.__contains__

    def matches(text: str) -> bool:
        return text in exact or text.startswith(prefixes) or text.endswith(suffixes)

    return matches
