"""Whether one rule matches all that another matches: what shadows what.

Pure and careful: an answer of True can be relied upon; False may also mean that it is not easily seen.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from registry.model.authorization import AuthorizationPolicy
from registry.model.resource import ROOT_NAMESPACE
from registry.rules import facts
from registry.rules.matching import Alternatives, Clauses, Condition
from registry.rules.patterns import read_network

NETWORKS: Final = (facts.SOURCE_IP, facts.REMOTE_IP, facts.DESTINATION_IP)
_NAMES: Final = (facts.PRINCIPAL, facts.ACCOUNT, facts.NAMESPACE)

# What a rule is known to demand, or to exclude, of one fact.
Demand = tuple[int, bool, tuple[str, ...]]


def demands_of(conditions: Sequence[Condition], *, trust_domain: str) -> list[Demand]:
    """Give what conditions demand, and what follows: a principal of ours has an account and a namespace."""
    demands: list[Demand] = []
    for condition in conditions:
        demands.append((condition.subject, condition.wanted, condition.values))
        if condition.wanted and condition.subject in _NAMES:
            demands.extend(_implied(condition.subject, condition.values, trust_domain))
    return demands


def covers(wide: Clauses, narrow: Clauses, *, trust_domain: str) -> bool:
    """Whether `wide` surely matches whatever `narrow` matches, in the mesh `trust_domain`."""

    def demands(alternatives: Alternatives) -> list[list[Demand]]:
        return [
            demands_of((*each, *narrow.when), trust_domain=trust_domain) for each in alternatives or ((),)
        ]

    callers, targets = demands(narrow.callers), demands(narrow.targets)
    return (
        _all_cover(wide.callers, callers)
        and _all_cover(wide.targets, targets)
        and all(
            any(
                all(_follows(condition, each) for each in alternatives) for alternatives in (callers, targets)
            )
            for condition in wide.when
        )
    )


def selects_all_of(wide: AuthorizationPolicy, narrow: AuthorizationPolicy) -> bool:
    """Whether `wide` surely selects every workload that `narrow` selects."""
    if wide.metadata.namespace not in (narrow.metadata.namespace, ROOT_NAMESPACE):
        return False
    if wide.spec.target_refs:
        return bool(narrow.spec.target_refs) and wide.targets >= narrow.targets
    labels = wide.spec.selector.match_labels if wide.spec.selector else {}
    if not labels:
        return True
    selected = narrow.spec.selector.match_labels if narrow.spec.selector else {}
    return labels.items() <= selected.items()


def contradiction(conditions: Sequence[Condition], *, trust_domain: str) -> Condition | None:
    """Give the condition that cannot hold together with the others, if one surely cannot."""
    demands = demands_of(conditions, trust_domain=trust_domain)
    for condition in conditions:
        for subject, wanted, values in demands:
            if subject != condition.subject or not wanted or values is condition.values:
                continue
            if condition.wanted:
                excluded = _plain(subject, values) and not any(
                    map(condition.contains, _facts(subject, values))
                )
            else:
                excluded = bool(values) and all(
                    any(value_covers(subject, out, value) for out in condition.values) for value in values
                )
            if excluded:
                return condition
    return None


def value_covers(subject: int, wide: str, narrow: str) -> bool:
    """Whether whatever `narrow` stands for `wide` stands for too."""
    if wide == narrow:
        return True
    if subject in NETWORKS:
        (of, outer, kept), (version, inner, prefix) = read_network(wide), read_network(narrow)
        return of == version and outer >= inner and prefix >> (outer - inner) == kept
    if subject == facts.HOST:
        wide, narrow = wide.lower(), narrow.lower()
    if "{" in wide or "{" in narrow:
        return wide == "*"
    if wide.endswith("*"):
        return narrow.startswith(wide.removesuffix("*")) and (wide == "*" or not narrow.startswith("*"))
    if wide.startswith("*"):
        return narrow.endswith(wide.removeprefix("*")) and not narrow.endswith("*")
    return wide == narrow


def _all_cover(wide: Alternatives, narrow: Sequence[Sequence[Demand]]) -> bool:
    """Whether each alternative, of which the demands are given, is within one of `wide`."""
    if not wide:
        return True
    return all(
        any(all(_follows(condition, demands) for condition in conditions) for conditions in wide)
        for demands in narrow
    )


def _follows(condition: Condition, demands: Sequence[Demand]) -> bool:
    """Whether a condition holds wherever all of `demands` do."""
    subject = condition.subject
    if subject == facts.HEADERS:
        # Which header it is about is not in its values.
        return False
    for about, wanted, values in demands:
        if about != subject or not values:
            continue
        if condition.wanted:
            follows = wanted and all(
                any(value_covers(subject, wide, value) for wide in condition.values) for value in values
            )
        elif wanted:
            follows = _plain(subject, values) and not any(map(condition.contains, _facts(subject, values)))
        else:
            follows = all(
                any(value_covers(subject, out, value) for out in values) for value in condition.values
            )
        if follows:
            return True
    return False


def _implied(subject: int, values: tuple[str, ...], trust_domain: str) -> Iterator[Demand]:
    if subject != facts.PRINCIPAL:
        yield facts.PRINCIPAL, True, (f"{trust_domain}/*",)
    if any("*" in value for value in values):
        return
    if subject == facts.PRINCIPAL:
        accounts = [value.split("/") for value in values]
        if all(parts[0] != trust_domain for parts in accounts):
            # Callers of other meshes have neither: no value there is.
            yield facts.ACCOUNT, True, ()
            yield facts.NAMESPACE, True, ()
        elif all(len(parts) == 5 and parts[0] == trust_domain for parts in accounts):
            yield facts.ACCOUNT, True, tuple(f"{parts[2]}/{parts[4]}" for parts in accounts)
            yield facts.NAMESPACE, True, tuple(parts[2] for parts in accounts)
    elif subject == facts.ACCOUNT:
        yield facts.NAMESPACE, True, tuple(value.partition("/")[0] for value in values)


def _plain(subject: int, values: tuple[str, ...]) -> bool:
    """Whether the values are all that the fact can be, one by one."""
    if subject in NETWORKS or subject in (facts.HOST, facts.PATH):
        return False
    return not any("*" in value for value in values)


def _facts(subject: int, values: tuple[str, ...]) -> Iterator[str | int]:
    return (int(value) if subject == facts.PORT else value for value in values)
