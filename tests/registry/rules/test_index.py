"""How many rules a decision looks at, when there are many."""

from collections.abc import Mapping
from typing import Any

import pytest

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from registry.rules import AuthRequest, Denied, HttpRequest, MeshPolicies, Permit, authorize
from registry.rules.facts import Facts, facts_of
from registry.rules.index import RuleIndex
from registry.rules.matching import Form, compile_policy
from tests.registry.rules.policies import TRUST_DOMAIN, WEB, callers, compiled, policy, targets

# Enough for a walk to show: the bench has ten thousand.
MANY = 1000


def _conditions(key: str, value: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": [value]}]}


def _shape(shape: str, number: int) -> Mapping[str, Any]:
    account = f"nodemesh.local/ns/n{number}/sa/web"
    block = f"10.{number // 256}.{number % 256}.0/24"
    port = str(10_000 + number)
    shapes: dict[str, Mapping[str, Any]] = {
        "principal": callers({"principals": [account]}),
        "principals": callers({"principals": [account, f"{account}-b"]}),
        "prefix": callers({"principals": [f"nodemesh.local/ns/n{number:04}/*"]}),
        "suffix": callers({"principals": [f"*/ns/n{number:04}/sa/web"]}),
        "namespace": callers({"namespaces": [f"n{number}"], "notPrincipals": ["*/sa/x"]}),
        "account": callers({"serviceAccounts": [f"n{number}/web"]}),
        "network": callers({"ipBlocks": [block]}),
        "remote-network": callers({"remoteIpBlocks": [block]}),
        "port": targets({"ports": [port]}),
        "principal-and-port": callers({"principals": [WEB.principal]}) | targets({"ports": [port]}),
        "condition": _conditions("source.principal", account),
        "port-condition": _conditions("destination.port", port),
    }
    return shapes[shape]


SHAPES = (
    "principal",
    "principals",
    "prefix",
    "suffix",
    "namespace",
    "account",
    "network",
    "remote-network",
    "port",
    "principal-and-port",
    "condition",
    "port-condition",
)


def _facts(request: AuthRequest) -> Facts:
    return facts_of(request, trust_domain=TRUST_DOMAIN)


@pytest.mark.parametrize("shape", SHAPES)
def test_policies_about_others_are_not_asked(shape: str) -> None:
    """However many policies are about other callers and ports, a decision looks at its own and a few more."""
    policies = [compile_policy(policy(f"p{n:04}", _shape(shape, n))) for n in range(MANY)]
    index = RuleIndex(policies, Form.UNREAD)
    stranger = _facts(AuthRequest(WEB, 80, source_ip="192.0.2.1"))
    assert index.candidates(stranger) == 0
    known = _facts(
        AuthRequest(WorkloadIdentity("nodemesh.local", "n0700", "web"), 10_700, source_ip="10.2.188.1")
    )
    assert index.candidates(known) <= 1


def _request(path: str = "/", host: str = "api") -> Facts:
    return _facts(AuthRequest(WEB, 80, http=HttpRequest("GET", path, host)))


HTTP_SHAPES = {
    "path": targets({"paths": ["/n{n:04}/x"]}),
    "paths": targets({"paths": ["/n{n:04}/x", "/n{n:04}/y"]}),
    "prefix": targets({"paths": ["/n{n:04}/*"]}),
    "suffix": targets({"paths": ["*/n{n:04}/x"]}),
    "template": targets({"paths": ["/n{n:04}/{{*}}"]}),
    "host": targets({"hosts": ["n{n:04}.example.com"]}),
    "hosts": targets({"hosts": ["n{n:04}.example.com", "N{n:04}.EXAMPLE.org"]}),
    "host-prefix": targets({"hosts": ["n{n:04}.*"]}),
    "path-and-method": targets({"paths": ["/n{n:04}/x"], "methods": ["GET"]}),
    "alternatives": targets({"paths": ["/n{n:04}/x"]}, {"paths": ["/n{n:04}/y"], "methods": ["PUT"]}),
    "path-of-a-caller": callers({"principals": [WEB.principal]}) | targets({"paths": ["/n{n:04}/x"]}),
    "path-at-a-port": targets({"ports": ["80"], "paths": ["/n{n:04}/x"]}),
}


def _numbered(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return value.format(n=number)
    if isinstance(value, list):
        return [_numbered(each, number) for each in value]
    return {key: _numbered(each, number) for key, each in value.items()}


@pytest.mark.parametrize("shape", HTTP_SHAPES)
def test_rules_about_other_requests_are_not_asked(shape: str) -> None:
    """However many rules differ by nothing but path or host, a request looks at its own and a few more."""
    rules = [_numbered(HTTP_SHAPES[shape], n) for n in range(MANY)]
    policies = [compile_policy(policy(f"p{n:04}", rule)) for n, rule in enumerate(rules)]
    index = RuleIndex(policies, Form.READ)
    assert index.candidates(_request("/other", "other.example.com")) == 0
    known = _request("/n0700/x", "n0700.example.com:8080")
    # With its port and without it a host may be found twice.
    assert 1 <= index.candidates(known) <= 2
    assert index.first(known) == ("default/p0700", 0)


@pytest.mark.parametrize(
    ("rule", "http"),
    [
        (targets({"paths": ["/a/*"]}), HttpRequest("GET", "/a/%2fb", "api")),
        (targets({"paths": ["/a b"]}), HttpRequest("GET", "/a%20b", "api")),
        (targets({"hosts": ["API.example.com"]}), HttpRequest("GET", "/", "api.Example.com.:80")),
        (targets({"paths": ["*"]}), HttpRequest("GET", "/x", "api")),
        (targets({"paths": ["/x"]}, {"hosts": ["api"]}), HttpRequest("GET", "/y", "api")),
        (targets({"paths": ["/x"]}, {"notPaths": ["/x"]}), HttpRequest("GET", "/y", "api")),
        (targets({"paths": [f"/{n}" for n in range(65)]}), HttpRequest("GET", "/64", "api")),
    ],
)
def test_awkward_ones_are_found(rule: dict[str, Any], http: HttpRequest) -> None:
    """Whatever spelling a rule or a request has, and however a rule mixes its fields, it is found."""
    ready = compiled([policy("a", rule)])
    assert isinstance(authorize(ready, AuthRequest(WEB, 80, http=http)), Permit)


def test_rules_for_everybody_are_asked() -> None:
    """Rules that name no caller are looked at by each request, beside those of its own."""
    policies = [policy("a", {}), policy("b", callers({"notPrincipals": ["*/sa/x"]})), policy("c", {})]
    index = RuleIndex([compile_policy(each) for each in policies], Form.UNREAD)
    assert index.candidates(_facts(AuthRequest(WEB, 80))) == 3


def test_rules_that_name_much_are_filed_by_callers() -> None:
    """A rule with many callers and many ports is filed by its callers alone, and still found."""
    principals = [f"nodemesh.local/ns/n{n}/sa/web" for n in range(40)]
    rule = callers({"principals": principals}) | targets({"ports": [str(n) for n in range(1, 41)]})
    ready = compiled([policy("a", rule)])
    caller = WorkloadIdentity("nodemesh.local", "n7", "web")
    assert isinstance(authorize(ready, AuthRequest(caller, 40)), Permit)
    assert isinstance(authorize(ready, AuthRequest(caller, 41)), Denied)


def test_first_by_name() -> None:
    """Of several that match the first by name decides, by whatever it is found."""
    rules = {
        "d": callers({"principals": [WEB.principal]}),
        "c": callers({"namespaces": ["default"]}),
        "b": callers({"ipBlocks": ["10.0.0.0/8"]}),
        "e": {},
    }
    request = AuthRequest(WEB, 80, source_ip="10.1.2.3")
    policies = [policy(name, rule, action="DENY") for name, rule in rules.items()]
    while policies:
        first = min(policies, key=lambda each: each.name)
        assert authorize(compiled(policies), request).policy == first.name
        policies.remove(first)


def _mesh(*policies: AuthorizationPolicy, former: MeshPolicies | None = None) -> MeshPolicies:
    return MeshPolicies(
        policies, trust_domain=TRUST_DOMAIN, default=DefaultAuthorization.ALLOW, former=former
    )


class TestMeshPolicies:
    def test_unchanged_policies_are_taken_over(self) -> None:
        """What a new version of the mesh has unchanged is not made ready again, index included."""
        before = _mesh(policy("a", {}), policy("b", {}))
        asked = before.of(namespace="default", labels={}).asked
        after = _mesh(policy("b", {}), policy("a", {}), former=before)
        assert after.of(namespace="default", labels={}).asked is asked

    def test_changed_policies_are_not(self) -> None:
        """A policy that has changed is in force as it is now; the others are taken over."""
        before = _mesh(policy("a", {}), policy("b", {}))
        before.of(namespace="default", labels={})
        after = _mesh(policy("a"), policy("b", {}), former=before)
        assert after.compiled["default/b"][1] is before.compiled["default/b"][1]
        asked = after.of(namespace="default", labels={})
        assert authorize(asked, AuthRequest(WEB, 80)).policy in ("default/a", "default/b")
        alone = _mesh(policy("a"), former=after).of(namespace="default", labels={})
        assert isinstance(authorize(alone, AuthRequest(WEB, 80)), Denied)

    def test_workloads_of_one_kind_share(self) -> None:
        """Workloads with the same labels behind the same services are guarded by one and the same index."""
        mesh = _mesh(policy("a", {}, labels={"app": "api"}))
        one = mesh.of(namespace="default", labels={"app": "api", "x": "1"})
        two = mesh.of(namespace="default", labels={"x": "1", "app": "api"})
        other = mesh.of(namespace="default", labels={"app": "web"})
        assert one.asked is two.asked
        assert other.asked is not one.asked
