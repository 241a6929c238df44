from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.authorization import Action, AuthorizationPolicy
from registry.model.identity import Identity
from registry.model.mesh import DefaultAuthorization
from registry.rules import Denied, Permit, Verdict, authorize, explain
from tests.registry.rules.policies import (
    API,
    BATCH,
    WEB,
    callers,
    compiled,
    defaults,
    few_policies,
    policy,
    port_numbers,
    sources,
    targets,
)


@given(
    few_policies, sources, port_numbers, defaults, st.sampled_from([None, "authorizationpolicies/default/x"])
)
def test_same_decision(
    policies: list[AuthorizationPolicy],
    source: Identity | None,
    port: int,
    default: DefaultAuthorization,
    closed_by: str | None,
) -> None:
    """Explaining and authorizing come to the same decision."""
    ready = compiled(policies, default=default, closed_by=closed_by)
    assert explain(ready, source=source, port=port).decision == authorize(ready, source=source, port=port)


@given(few_policies, sources, port_numbers, defaults)
def test_verdicts_bear_the_decision(
    policies: list[AuthorizationPolicy], source: Identity | None, port: int, default: DefaultAuthorization
) -> None:
    """The decision follows from the verdicts: a matching DENY, else the ALLOW policies, else the default."""
    explanation = explain(compiled(policies, default=default), source=source, port=port)
    enforced = [verdict for verdict in explanation.verdicts if not verdict.dry_run]
    allowing = [verdict for verdict in enforced if verdict.action is Action.ALLOW]
    if any(verdict.matched for verdict in enforced if verdict.action is Action.DENY):
        permitted = False
    elif allowing:
        permitted = any(verdict.matched for verdict in allowing)
    else:
        permitted = default is DefaultAuthorization.ALLOW
    assert isinstance(explanation.decision, Permit) is permitted


@given(few_policies, sources, port_numbers)
def test_every_miss_has_its_reason(
    policies: list[AuthorizationPolicy], source: Identity | None, port: int
) -> None:
    """A policy that did not match says which fields were in the way, one that did says none."""
    for verdict in explain(compiled(policies), source=source, port=port).verdicts:
        assert bool(verdict.why_not) is not verdict.matched


@pytest.mark.parametrize(
    ("rules", "source", "port", "rule", "why_not"),
    [
        ([], WEB, 80, None, ("spec.rules",)),
        ([{}], WEB, 80, 0, ()),
        (
            [callers({"namespaces": ["batch"]}), targets({"ports": ["443"]})],
            WEB,
            80,
            None,
            ("spec.rules[0].from[0].source.namespaces", "spec.rules[1].to[0].operation.ports"),
        ),
        ([callers({"namespaces": ["batch"]}), targets({"ports": ["80"]})], WEB, 80, 1, ()),
        (
            [callers({"namespaces": ["batch"]}, {"principals": ["*/sa/api"], "notNamespaces": ["default"]})],
            API,
            80,
            None,
            ("spec.rules[0].from[0].source.namespaces", "spec.rules[0].from[1].source.notNamespaces"),
        ),
        (
            [callers({"notPrincipals": ["*/sa/web"]})],
            BATCH,
            80,
            None,
            ("spec.rules[0].from[0].source.notPrincipals",),
        ),
        (
            [callers({"namespaces": ["default"]}) | targets({"notPorts": ["80"]})],
            WEB,
            80,
            None,
            ("spec.rules[0].to[0].operation.notPorts",),
        ),
        (
            [callers({"namespaces": ["batch"]}, {"namespaces": ["default"]}) | targets({"ports": ["443"]})],
            WEB,
            80,
            None,
            ("spec.rules[0].to[0].operation.ports",),
        ),
        ([callers({"principals": ["*"]})], None, 80, None, ("spec.rules[0].from[0].source.principals",)),
    ],
)
def test_why_not(
    rules: list[dict[str, Any]],
    source: Identity | None,
    port: int,
    rule: int | None,
    why_not: tuple[str, ...],
) -> None:
    """A verdict has the rule that matched, or the field that failed in every alternative."""
    (verdict,) = explain(compiled([policy("a", *rules)]), source=source, port=port).verdicts
    assert verdict == Verdict("default/a", Action.ALLOW, dry_run=False, rule=rule, why_not=why_not)


def test_order_of_verdicts() -> None:
    """Verdicts come in the order of evaluation: DENY, ALLOW, then those that only watch; each by name."""
    policies = [
        policy("b", {}, action="AUDIT"),
        policy("c", {}),
        policy("d", {}, dry_run=True, action="DENY"),
        policy("e", {}, action="DENY"),
        policy("a", {}),
    ]
    verdicts = explain(compiled(policies), source=WEB, port=80).verdicts
    assert [verdict.policy for verdict in verdicts] == [
        "default/e",
        "default/a",
        "default/c",
        "default/b",
        "default/d",
    ]


def test_beyond_the_decision() -> None:
    """Policies that were not needed for the decision have their verdict too."""
    explanation = explain(
        compiled([policy("d", {}, action="DENY"), policy("a", targets({"ports": ["443"]}))]),
        source=WEB,
        port=80,
    )
    assert isinstance(explanation.decision, Denied)
    assert [verdict.matched for verdict in explanation.verdicts] == [True, False]
