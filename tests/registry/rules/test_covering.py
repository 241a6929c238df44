"""What is said of rules that cover or contradict others is true of every request."""

from typing import Any

import pytest
from hypothesis import assume, given, settings

from registry.model.authorization import AuthorizationPolicy
from registry.rules import AuthRequest, facts
from registry.rules.covering import contradiction, covers, selects_all_of, value_covers
from registry.rules.facts import facts_of
from registry.rules.matching import Clauses, compile_policy
from tests.registry.rules.policies import TRUST_DOMAIN, callers, few_policies, policy, requests, targets

OURS = f"{TRUST_DOMAIN}/ns/a/sa/b"
THEIRS = "x.y/ns/a/sa/b"


def _clauses(policies: list[AuthorizationPolicy]) -> list[Clauses]:
    return [rule.read for each in policies for rule in compile_policy(each).rules]


def _rule(rule: dict[str, Any]) -> Clauses:
    return compile_policy(policy("p", rule)).rules[0].read


@given(few_policies, requests)
@settings(max_examples=400)
def test_what_is_covered_matches(policies: list[AuthorizationPolicy], request: AuthRequest) -> None:
    """A rule that covers another matches whatever the other matches."""
    asked = facts_of(request, trust_domain=TRUST_DOMAIN)
    for narrow in _clauses(policies):
        if narrow.hold(asked):
            for wide in _clauses(policies):
                if covers(wide, narrow, trust_domain=TRUST_DOMAIN):
                    assert wide.hold(asked)


@given(few_policies)
def test_every_rule_covers_itself(policies: list[AuthorizationPolicy]) -> None:
    """A rule covers itself, unless it is about headers, of which nothing is said."""
    for clauses in _clauses(policies):
        conditions = [*clauses.when, *(each for one in (*clauses.callers, *clauses.targets) for each in one)]
        assume(all(each.subject != facts.HEADERS for each in conditions))
        assert covers(clauses, clauses, trust_domain=TRUST_DOMAIN)


@given(few_policies, requests)
@settings(max_examples=400)
def test_what_contradicts_itself_never_matches(
    policies: list[AuthorizationPolicy], request: AuthRequest
) -> None:
    """No request matches conditions that are said to contradict each other."""
    asked = facts_of(request, trust_domain=TRUST_DOMAIN)
    for clauses in _clauses(policies):
        for conditions in clauses.callers:
            if contradiction((*conditions, *clauses.when), trust_domain=TRUST_DOMAIN) is not None:
                assert not Clauses((conditions,), (), clauses.when).hold(asked)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({}, {}),
        ({}, callers({"namespaces": ["a"]})),
        (callers({"namespaces": ["a", "b"]}), callers({"namespaces": ["a"]})),
        (callers({"namespaces": ["a*"]}), callers({"namespaces": ["ab", "ac*"]})),
        (callers({"namespaces": ["a"]}), callers({"principals": [OURS]})),
        (callers({"namespaces": ["a"]}), callers({"serviceAccounts": ["a/b"]})),
        (callers({"serviceAccounts": ["a/b"]}), callers({"principals": [OURS]})),
        (callers({"principals": ["*"]}), callers({"namespaces": ["a"]})),
        (callers({"principals": [f"{TRUST_DOMAIN}/*"]}), callers({"namespaces": ["a"]})),
        (callers({"namespaces": ["a"]}, {"namespaces": ["b"]}), callers({"namespaces": ["b"]})),
        (callers({"notNamespaces": ["a"]}), callers({"notNamespaces": ["a", "b"]})),
        (callers({"notNamespaces": ["a"]}), callers({"namespaces": ["b"]})),
        (callers({"notPrincipals": ["*/sa/x"]}), callers({"principals": [OURS]})),
        (callers({"ipBlocks": ["10.0.0.0/8"]}), callers({"ipBlocks": ["10.1.0.0/16"], "namespaces": ["a"]})),
        (targets({"ports": ["80", "81"]}), targets({"ports": ["80"], "methods": ["GET"]})),
        (targets({"notPorts": ["81"]}), targets({"ports": ["80"]})),
        (targets({"paths": ["/a/*"]}), targets({"paths": ["/a/b"]})),
        (
            {"when": [{"key": "source.namespace", "values": ["a", "b"]}]},
            callers({"namespaces": ["a"]}, {"namespaces": ["b"]}),
        ),
        (callers({"namespaces": ["a"]}), {"when": [{"key": "source.namespace", "values": ["a"]}]}),
    ],
)
def test_covering(wide: dict[str, Any], narrow: dict[str, Any]) -> None:
    """It is seen that these cover those."""
    assert covers(_rule(wide), _rule(narrow), trust_domain=TRUST_DOMAIN)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (callers({"namespaces": ["a"]}), {}),
        (callers({"namespaces": ["a"]}), callers({"namespaces": ["a", "b"]})),
        (callers({"principals": [OURS]}), callers({"namespaces": ["a"]})),
        (callers({"namespaces": ["a"]}), callers({"principals": [THEIRS]})),
        (callers({"serviceAccounts": ["a/b"]}), callers({"principals": [OURS, THEIRS]})),
        (callers({"principals": ["x.y/*"]}), callers({"namespaces": ["a"]})),
        (callers({"namespaces": ["a"]}), callers({"namespaces": ["a"]}, {"namespaces": ["b"]})),
        (callers({"notNamespaces": ["a"]}), callers({"notNamespaces": ["b"]})),
        (targets({"ports": ["80"]}), callers({"namespaces": ["a"]})),
        (targets({"paths": ["/a/*"]}), targets({"paths": ["/{*}/b"]})),
    ],
)
def test_not_covering(wide: dict[str, Any], narrow: dict[str, Any]) -> None:
    """These do not cover those."""
    assert not covers(_rule(wide), _rule(narrow), trust_domain=TRUST_DOMAIN)


def test_callers_of_other_meshes_have_no_namespace() -> None:
    """A principal of another trust domain beside a namespace contradicts it; one of ours does not."""
    for principals, contradicts in (([THEIRS], True), ([OURS], False), ([OURS, THEIRS], False)):
        (conditions,) = _rule(callers({"principals": principals, "namespaces": ["a"]})).callers
        found = contradiction(conditions, trust_domain=TRUST_DOMAIN)
        assert (found is not None) is contradicts


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("*", "a", True),
        ("*", "*a", True),
        ("a*", "a", True),
        ("a*", "ab*", True),
        ("ab*", "a*", False),
        ("a*", "*a", False),
        ("*b", "ab", True),
        ("*b", "*ab", True),
        ("*b", "b*", False),
        ("a", "a*", False),
    ],
)
def test_patterns(wide: str, narrow: str, covered: bool) -> None:
    """One pattern covers another when whatever matches the one matches the other."""
    assert value_covers(facts.PRINCIPAL, wide, narrow) is covered


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("10.0.0.0/8", "10.1.0.0/16", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.0.0/16", "10.0.0.0/8", False),
        ("10.0.0.0/8", "11.0.0.0/16", False),
        ("::/0", "10.0.0.1", False),
        ("fd00::/8", "fd77::/64", True),
    ],
)
def test_networks(wide: str, narrow: str, covered: bool) -> None:
    """A network covers those within it, of its own family."""
    assert value_covers(facts.SOURCE_IP, wide, narrow) is covered


@pytest.mark.parametrize(
    ("wide", "narrow", "all_of"),
    [
        ({}, {"labels": {"app": "api"}}, True),
        ({"labels": {"app": "api"}}, {}, False),
        ({"labels": {"app": "api"}}, {"labels": {"app": "api", "x": "y"}}, True),
        ({"labels": {"app": "web"}}, {"labels": {"app": "api"}}, False),
        ({"namespace": "nodemesh-system"}, {}, True),
        ({}, {"namespace": "nodemesh-system"}, False),
        ({"namespace": "batch"}, {}, False),
    ],
)
def test_selection(wide: dict[str, Any], narrow: dict[str, Any], all_of: bool) -> None:
    """A policy selects all that another does by fewer labels, in the same namespace or from the root one."""
    assert selects_all_of(policy("a", **wide), policy("b", **narrow)) is all_of
