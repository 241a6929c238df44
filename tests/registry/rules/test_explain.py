from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.model.authorization import Action, AuthorizationPolicy
from registry.model.identity import Identity
from registry.model.mesh import DefaultAuthorization
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.rules import AuthRequest, Denied, Explanation, Permit, authorize, explain
from tests.registry.rules.policies import (
    API,
    BATCH,
    FOREIGN,
    WEB,
    callers,
    compiled,
    defaults,
    few_policies,
    modes,
    peer_authentications,
    policy,
    requests,
    targets,
)


@given(
    few_policies,
    requests,
    defaults,
    peer_authentications,
    modes,
    st.sampled_from([None, "authorizationpolicies/default/x"]),
)
@settings(max_examples=400)
def test_verdicts_bear_the_decision(
    policies: list[AuthorizationPolicy],
    request: AuthRequest,
    default: DefaultAuthorization,
    peers: list[PeerAuthentication],
    mode: MtlsMode,
    closed_by: str | None,
) -> None:
    """What authorize finds in its index is what asking each policy in turn gives, to policy and rule."""
    ready = compiled(
        policies, default=default, peers=peers, mode=mode, closed_by=closed_by, services=["default/api"]
    )
    explanation = explain(ready, request)
    decision = authorize(ready, request)
    assert explanation.decision == decision
    assert (type(decision), decision.policy, decision.rule) == _concluded(explanation, default, closed_by)
    watching = [each for each in explanation.verdicts if each.dry_run or each.action is Action.AUDIT]
    assert decision.audited == tuple(each.policy for each in watching if each.matched)


def _concluded(
    explanation: Explanation, default: DefaultAuthorization, closed_by: str | None
) -> tuple[type[Permit | Denied], str, int | None]:
    """Come to the decision by the verdicts alone."""
    if closed_by is not None:
        return Denied, closed_by.removeprefix("authorizationpolicies/"), None
    if explanation.identity.required and not explanation.authenticated:
        return Denied, explanation.identity.policy, None
    enforced = [verdict for verdict in explanation.verdicts if not verdict.dry_run]
    for verdict in enforced:
        if verdict.action is Action.DENY and verdict.matched:
            return Denied, verdict.policy, verdict.rule
    allowing = [verdict for verdict in enforced if verdict.action is Action.ALLOW]
    for verdict in allowing:
        if verdict.matched:
            return Permit, verdict.policy, verdict.rule
    if allowing:
        return Denied, allowing[0].policy, None
    return (Permit if default is DefaultAuthorization.ALLOW else Denied), "", None


@given(few_policies, requests)
def test_every_miss_has_its_reason(policies: list[AuthorizationPolicy], request: AuthRequest) -> None:
    """A rule that did not match says which fields were in the way, one that did says none."""
    for verdict in explain(compiled(policies), request).verdicts:
        assert bool(verdict.why_not) is not verdict.matched
        for rule in verdict.rules:
            assert bool(rule.misses) is not rule.matched
            assert not (rule.because and not rule.matched)


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
    (verdict,) = explain(compiled([policy("a", *rules)]), AuthRequest(source, port)).verdicts
    assert (verdict.policy, verdict.rule, verdict.why_not) == ("default/a", rule, why_not)


def test_miss_of_another_mesh() -> None:
    """Of a caller of another mesh it is said why a namespace and an account do not match it."""
    ready = compiled(
        [policy("a", callers({"namespaces": ["default"]}), callers({"serviceAccounts": ["web"]}))]
    )
    (verdict,) = explain(ready, AuthRequest(FOREIGN, 80)).verdicts
    assert {miss.found for rule in verdict.rules for miss in rule.misses} == {
        "other.example/ns/default/sa/web, of another trust domain: only principals match it"
    }


def test_order_of_verdicts() -> None:
    """Verdicts come in the order of evaluation: DENY, ALLOW, then those that only watch; each by name."""
    policies = [
        policy("b", {}, action="AUDIT"),
        policy("c", {}),
        policy("d", {}, dry_run=True, action="DENY"),
        policy("e", {}, action="DENY"),
        policy("a", {}),
    ]
    verdicts = explain(compiled(policies), AuthRequest(WEB, 80)).verdicts
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
        AuthRequest(WEB, 80),
    )
    assert isinstance(explanation.decision, Denied)
    assert [verdict.matched for verdict in explanation.verdicts] == [True, False]
