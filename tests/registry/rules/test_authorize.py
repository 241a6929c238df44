"""Istio's semantics, case by case."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    From,
    Rule,
    Source,
)
from registry.model.identity import Identity
from registry.model.mesh import DefaultAuthorization
from registry.model.resource import Metadata
from registry.rules import AuthRequest, Denied, Permit, authorize
from tests.registry.rules.policies import (
    API,
    BATCH,
    EVERYONE,
    FOREIGN,
    NODE,
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


def _matches(rule: dict[str, Any], source: Identity | None, port: int = 80) -> bool:
    """Whether a rule matches, seen by what a DENY policy with it refuses."""
    decision = authorize(compiled([policy("p", rule, action="DENY")]), AuthRequest(source, port))
    return isinstance(decision, Denied)


@pytest.mark.parametrize(
    ("source", "matching"),
    [
        ({"principals": ["nodemesh.local/ns/default/sa/web"]}, {WEB}),
        ({"principals": ["nodemesh.local/ns/default/sa/web", "other.example/*"]}, {WEB, FOREIGN}),
        ({"principals": ["nodemesh.local/ns/default/*"]}, {WEB, API}),
        ({"principals": ["*/sa/web"]}, {WEB, BATCH, FOREIGN}),
        ({"principals": ["nodemesh.local/ns/default/sa/we*"]}, {WEB}),
        ({"principals": ["nodemesh.local/*"]}, {WEB, API, BATCH}),
        ({"principals": ["*"]}, {WEB, API, BATCH, FOREIGN}),
        ({"notPrincipals": ["nodemesh.local/ns/default/sa/web"]}, {API, BATCH, FOREIGN, NODE, None}),
        ({"notPrincipals": ["nodemesh.local/*"]}, {FOREIGN, NODE, None}),
        ({"notPrincipals": ["*"]}, {NODE, None}),
        ({"namespaces": ["default"]}, {WEB, API}),
        ({"namespaces": ["batch", "other"]}, {BATCH}),
        ({"namespaces": ["def*"]}, {WEB, API}),
        ({"namespaces": ["*tch"]}, {BATCH}),
        ({"namespaces": ["*"]}, {WEB, API, BATCH}),
        ({"notNamespaces": ["default"]}, {BATCH, FOREIGN, NODE, None}),
        ({"notNamespaces": ["*"]}, {FOREIGN, NODE, None}),
        ({"serviceAccounts": ["default/web"]}, {WEB}),
        ({"notServiceAccounts": ["default/web"]}, {API, BATCH, FOREIGN, NODE, None}),
        ({"principals": ["*/sa/web"], "namespaces": ["default"]}, {WEB}),
        ({"principals": ["*"], "notPrincipals": ["*/sa/web"]}, {API}),
        ({"namespaces": ["*"], "notNamespaces": ["default"]}, {BATCH}),
        ({"principals": ["*/sa/web"], "notNamespaces": ["default"]}, {BATCH, FOREIGN}),
        ({"principals": ["other.example/ns/default/*"], "namespaces": ["default"]}, set()),
    ],
)
def test_source(source: dict[str, list[str]], matching: set[Identity | None]) -> None:
    """Within a field any entry may match, all fields must; without identity only the `not` fields match.

    A caller of another trust domain has its principal, and neither namespace nor account.
    """
    assert {caller for caller in EVERYONE if _matches(callers(source), caller)} == matching


@pytest.mark.parametrize(
    ("operation", "matching"),
    [
        ({"ports": ["80"]}, {80}),
        ({"ports": ["80", "443"]}, {80, 443}),
        ({"notPorts": ["80"]}, {443, 8080}),
        ({"notPorts": ["80", "443"]}, {8080}),
        ({"ports": ["80", "443"], "notPorts": ["443"]}, {80}),
    ],
)
def test_operation(operation: dict[str, list[str]], matching: set[int]) -> None:
    """Ports are whole numbers compared exactly; `notPorts` takes away."""
    assert {port for port in (80, 443, 8080) if _matches(targets(operation), WEB, port)} == matching


@pytest.mark.parametrize(
    ("rule", "source", "port", "matches"),
    [
        ({}, WEB, 80, True),
        ({}, None, 80, True),
        (callers({"namespaces": ["batch"]}, {"principals": ["*/sa/web"]}), WEB, 80, True),
        (callers({"namespaces": ["batch"]}, {"principals": ["*/sa/web"]}), API, 80, False),
        (targets({"ports": ["80"]}, {"ports": ["443"]}), WEB, 443, True),
        (callers({"namespaces": ["default"]}) | targets({"ports": ["80"]}), WEB, 80, True),
        (callers({"namespaces": ["default"]}) | targets({"ports": ["80"]}), WEB, 443, False),
        (callers({"namespaces": ["default"]}) | targets({"ports": ["80"]}), BATCH, 80, False),
    ],
)
def test_rule(rule: dict[str, Any], source: Identity | None, port: int, matches: bool) -> None:
    """Any alternative of `from` and any of `to` must match; an absent list matches everything."""
    assert _matches(rule, source, port) is matches


@pytest.mark.parametrize("source", EVERYONE)
@pytest.mark.parametrize(
    ("policies", "permitted"),
    [
        ([], True),
        ([policy("a")], False),
        ([policy("a", {})], True),
        ([policy("d", {}, action="DENY")], False),
        ([policy("a", {}), policy("d", {}, action="DENY")], False),
        ([policy("a"), policy("b", {})], True),
        ([policy("d", targets({"ports": ["443"]}), action="DENY")], True),
        ([policy("d", targets({"ports": ["443"]}), action="DENY"), policy("a")], False),
        ([policy("x", {}, action="AUDIT")], True),
    ],
)
def test_order(policies: list[AuthorizationPolicy], permitted: bool, source: Identity | None) -> None:
    """DENY refuses first; then, if any ALLOW policy selects, one must match; then the default holds."""
    assert isinstance(authorize(compiled(policies), AuthRequest(source, 80)), Permit) is permitted


@pytest.mark.parametrize("default", DefaultAuthorization)
def test_mesh_default(default: DefaultAuthorization) -> None:
    """Where no ALLOW policy selects the workload the mesh's default decides, under no policy's name."""
    others = [policy("d", targets({"ports": ["443"]}), action="DENY"), policy("x", {}, action="AUDIT")]
    decision = authorize(compiled(others, default=default), AuthRequest(WEB, 80))
    assert (type(decision), decision.policy) == (
        (Permit, "") if default is DefaultAuthorization.ALLOW else (Denied, "")
    )


@pytest.mark.parametrize("default", DefaultAuthorization)
def test_allow_outweighs_the_default(default: DefaultAuthorization) -> None:
    """An ALLOW policy that matches permits whatever the default is."""
    policies = compiled([policy("a", callers({"namespaces": ["default"]}))], default=default)
    assert authorize(policies, AuthRequest(WEB, 80)) == Permit(
        "default/a", "rule 0 of the ALLOW policy default/a matches", rule=0
    )


def test_deny_of_the_unauthenticated() -> None:
    """A DENY of everyone but one refuses a caller without identity: it fails closed."""
    only_web = policy("d", callers({"notPrincipals": ["*/sa/web"]}), action="DENY")
    assert isinstance(authorize(compiled([only_web]), AuthRequest(None, 80)), Denied)


def test_deny_without_rules() -> None:
    """A DENY policy without rules, which the parser refuses, matches nothing."""
    spec = AuthorizationPolicySpec(action=Action.DENY)
    nothing = AuthorizationPolicy(
        api_version="nodemesh/v1", kind="AuthorizationPolicy", metadata=Metadata(name="d"), spec=spec
    )
    assert isinstance(authorize(compiled([nothing]), AuthRequest(WEB, 80)), Permit)


def test_empty_source_matches_nobody() -> None:
    """An alternative without conditions, which the parser refuses, matches nobody, as in Istio."""
    spec = AuthorizationPolicySpec(rules=(Rule(from_=(From(source=Source()),)),))
    empty = AuthorizationPolicy(
        api_version="nodemesh/v1", kind="AuthorizationPolicy", metadata=Metadata(name="a"), spec=spec
    )
    assert isinstance(authorize(compiled([empty]), AuthRequest(WEB, 80)), Denied)


@pytest.mark.parametrize(
    ("namespace", "labels", "selected"),
    [
        ("default", None, True),
        ("default", {}, True),
        ("default", {"app": "api"}, True),
        ("default", {"app": "web"}, False),
        ("default", {"app": "api", "version": "1"}, False),
        ("batch", None, False),
        ("batch", {"app": "api"}, False),
        ("nodemesh-system", None, True),
        ("nodemesh-system", {"app": "api"}, True),
        ("nodemesh-system", {"app": "web"}, False),
    ],
)
def test_selection(namespace: str, labels: dict[str, str] | None, selected: bool) -> None:
    """A policy selects by all its labels in its own namespace; one of the root namespace in every one."""
    closed = policy("a", namespace=namespace, labels=labels)
    assert isinstance(authorize(compiled([closed]), AuthRequest(WEB, 80)), Denied) is selected


def test_deny_names_policy_and_rule() -> None:
    """A refusal by DENY names the policy and the rule."""
    rules = [callers({"namespaces": ["batch"]}), callers({"namespaces": ["default"]})]
    decision = authorize(compiled([policy("d", *rules, action="DENY")]), AuthRequest(WEB, 80))
    assert decision == Denied("default/d", "rule 1 of the DENY policy default/d matches", rule=1)


def test_no_allow_names_all() -> None:
    """A refusal for want of an ALLOW names them all, and the first as the policy to look at."""
    decision = authorize(
        compiled([policy("b"), policy("a", namespace="nodemesh-system"), policy("a")]), AuthRequest(WEB, 80)
    )
    assert decision == Denied(
        "default/a", "no ALLOW policy matches, of default/a, default/b, nodemesh-system/a"
    )


@pytest.mark.parametrize("action", ["ALLOW", "DENY"])
@pytest.mark.parametrize("default", DefaultAuthorization)
def test_dry_run(action: str, default: DefaultAuthorization) -> None:
    """A dry run is listed when it matches and decides nothing, not even that an ALLOW policy is there."""
    dry = policy("x", {}, action=action, dry_run=True)
    with_it = authorize(compiled([dry], default=default), AuthRequest(WEB, 80))
    without = authorize(compiled([], default=default), AuthRequest(WEB, 80))
    assert with_it == type(without)(without.policy, without.reason, audited=("default/x",))


def test_audit() -> None:
    """AUDIT policies that match are listed, by name, whatever was decided."""
    policies = [
        policy("b", {}, action="AUDIT"),
        policy("a", callers({"namespaces": ["default"]}), action="AUDIT"),
        policy("c", callers({"namespaces": ["batch"]}), action="AUDIT"),
        policy("d", {}, action="DENY"),
    ]
    assert authorize(compiled(policies), AuthRequest(WEB, 80)).audited == ("default/a", "default/b")


@pytest.mark.parametrize("source", EVERYONE)
def test_closed_namespace(source: Identity | None) -> None:
    """Where a policy never parsed every request is refused, whatever permits it, and its key is named."""
    policies = compiled([policy("a", {})], closed_by="authorizationpolicies/default/broken")
    assert authorize(policies, AuthRequest(source, 80)) == Denied(
        "default/broken", "authorizationpolicies/default/broken never parsed, so its namespace is closed"
    )


@given(few_policies, sources, port_numbers, defaults, st.randoms())
def test_order_of_policies_is_nothing(
    policies: list[AuthorizationPolicy],
    source: Identity | None,
    port: int,
    default: DefaultAuthorization,
    random: Any,
) -> None:
    """The order in which policies are given changes nothing, the names in the reason included."""
    shuffled = list(policies)
    random.shuffle(shuffled)
    assert authorize(compiled(policies, default=default), AuthRequest(source, port)) == authorize(
        compiled(shuffled, default=default), AuthRequest(source, port)
    )


@given(few_policies, sources, port_numbers, defaults)
def test_another_deny_never_permits(
    policies: list[AuthorizationPolicy], source: Identity | None, port: int, default: DefaultAuthorization
) -> None:
    """Adding a DENY policy never turns a refusal into a permit."""
    before = authorize(compiled(policies, default=default), AuthRequest(source, port))
    more = [*policies, policy("z", callers({"notNamespaces": ["default"]}), action="DENY")]
    after = authorize(compiled(more, default=default), AuthRequest(source, port))
    assert isinstance(before, Permit) or isinstance(after, Denied)


@given(few_policies, sources, port_numbers, defaults)
def test_observers_change_nothing(
    policies: list[AuthorizationPolicy], source: Identity | None, port: int, default: DefaultAuthorization
) -> None:
    """Without its AUDIT policies and dry runs a workload gets the same decision."""
    enforced = [each for each in policies if not each.spec.dry_run and each.spec.action is not Action.AUDIT]
    full = authorize(compiled(policies, default=default), AuthRequest(source, port))
    bare = authorize(compiled(enforced, default=default), AuthRequest(source, port))
    assert (type(full), full.policy, full.reason) == (type(bare), bare.policy, bare.reason)
