"""What is found in policies that are well-formed and most likely not meant."""

from typing import Any

import pytest

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import WorkloadIdentity
from registry.model.parse import from_builtins
from registry.model.resource import Resource
from registry.model.service import Service
from registry.model.workload import Workload
from registry.rules.findings import Check, Finding, Severity
from registry.rules.lint import lint
from registry.rules.shadows import MAX_PAIRS
from tests.registry.rules.policies import callers, policy, targets
from tests.registry.rules.test_peers import peers

WEB = "nodemesh.local/ns/default/sa/web"
SOURCE = "spec.rules[0].from[0].source"


def _resource(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> Resource:
    return from_builtins(
        {"apiVersion": "nodemesh/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec},
        where="test",
    )


def _service(name: str, protocol: str = "tcp") -> Service:
    ports = [{"port": 80, "targetPort": 8080, "protocol": protocol}]
    found = _resource("Service", name, {"selector": {"app": name}, "ports": ports})
    assert isinstance(found, Service)
    return found


def _workload(name: str) -> Workload:
    spec = {"node": "n1", "identity": f"spiffe://nodemesh.local/ns/default/sa/{name}", "ports": [8080, 9090]}
    found = _resource("Workload", name, spec, labels={"app": name})
    assert isinstance(found, Workload)
    return found


def found_in(*policies: AuthorizationPolicy, protocol: str = "tcp", **more: Any) -> list[Finding]:
    """Lint policies in a mesh of the services and workloads web and api, and the account default/batch."""
    return list(
        lint(
            policies,
            services=[_service("web"), _service("api", protocol)],
            workloads=[_workload("web"), _workload("api")],
            trust_domain="nodemesh.local",
            accounts=[WorkloadIdentity("nodemesh.local", "default", "batch")],
            **more,
        )
    )


def said(*policies: AuthorizationPolicy, **more: Any) -> list[tuple[str, Check, str]]:
    """Give policy, check and path of what is found."""
    return [
        (each.policy.removeprefix("default/"), each.check, each.path) for each in found_in(*policies, **more)
    ]


def test_nothing() -> None:
    """Policies about callers, workloads and ports that are there are not complained of."""
    good = [
        policy("a", callers({"principals": [WEB]}) | targets({"ports": ["8080"]}), labels={"app": "api"}),
        policy("b", callers({"serviceAccounts": ["batch"]}), labels={"app": "api"}),
        policy("c", callers({"namespaces": ["default"]}), labels={"app": "web"}),
        policy("d", callers({"notPrincipals": [WEB]}), action="DENY", labels={"app": "web", "x": "y"}),
    ]
    assert said(*good[:3]) == []
    assert said(good[3]) == [("d", Check.UNKNOWN_REFERENCE, "spec.selector.matchLabels")]


class TestTooWide:
    @pytest.mark.parametrize(
        ("rule", "path", "severity"),
        [
            ({}, "spec.rules[0]", Severity.WARNING),
            (targets({"ports": ["8080"]}), "spec.rules[0]", Severity.INFO),
            (callers({"principals": ["*"]}), f"{SOURCE}.principals", Severity.WARNING),
            (callers({"namespaces": ["*"]}), f"{SOURCE}.namespaces", Severity.WARNING),
            (callers({"notPrincipals": [WEB]}), SOURCE, Severity.WARNING),
        ],
    )
    def test_found(self, rule: dict[str, Any], path: str, severity: Severity) -> None:
        """An ALLOW rule that names no caller is too wide."""
        (finding,) = found_in(policy("a", rule))
        assert (finding.check, finding.path, finding.severity) == (Check.TOO_WIDE, path, severity)
        assert finding.mend

    @pytest.mark.parametrize(
        "rule",
        [
            callers({"principals": ["nodemesh.local/*"]}),
            callers({"ipBlocks": ["10.0.0.0/8"]}),
            callers({"principals": ["*"], "namespaces": ["default"]}),
            {"when": [{"key": "source.namespace", "values": ["default"]}]},
        ],
    )
    def test_not_found(self, rule: dict[str, Any]) -> None:
        """A rule that names callers somewhere is not."""
        assert said(policy("a", rule)) == []

    @pytest.mark.parametrize("action", ["DENY", "AUDIT"])
    def test_other_actions(self, action: str) -> None:
        """What refuses or watches everybody is not too wide."""
        assert said(policy("a", {}, action=action)) == []


class TestUnknownReferences:
    @pytest.mark.parametrize(
        ("rule", "path"),
        [
            (callers({"principals": ["nodemesh.local/ns/default/sa/wbe"]}), f"{SOURCE}.principals"),
            (callers({"principals": ["elsewhere.example/ns/default/sa/web"]}), f"{SOURCE}.principals"),
            (callers({"serviceAccounts": ["wbe"]}), f"{SOURCE}.serviceAccounts"),
            (callers({"namespaces": ["defualt"]}), f"{SOURCE}.namespaces"),
            (callers({"principals": [WEB], "notNamespaces": ["prod"]}), f"{SOURCE}.notNamespaces"),
            (
                callers({"principals": [WEB]}) | targets({"ports": ["80"]}),
                "spec.rules[0].to[0].operation.ports",
            ),
            (
                {"when": [{"key": "source.principal", "values": ["nodemesh.local/ns/a/sa/b"]}]},
                "spec.rules[0].when[0].values",
            ),
        ],
    )
    def test_in_rules(self, rule: dict[str, Any], path: str) -> None:
        """A caller that nobody is, and a port that no selected workload has, are named."""
        assert said(policy("a", rule)) == [("a", Check.UNKNOWN_REFERENCE, path)]

    def test_federated(self) -> None:
        """Callers of a federated trust domain may be there."""
        rule = callers({"principals": ["elsewhere.example/ns/default/sa/web"]})
        assert said(policy("a", rule), federated=["elsewhere.example"]) == []

    def test_service_port(self) -> None:
        """Who writes the service's port instead of the workload's learns what it is called."""
        (finding,) = found_in(policy("a", callers({"principals": [WEB]}) | targets({"ports": ["80"]})))
        assert finding.mend == "write the workload's port, which a Service calls targetPort"

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"labels": {"app": "wbe"}}, "spec.selector.matchLabels"),
            ({"namespace": "shop"}, "metadata.namespace"),
            ({"targets": ["api"], "namespace": "shop"}, "spec.targetRefs[0].name"),
            ({"targets": ["wbe"]}, "spec.targetRefs[0].name"),
        ],
    )
    def test_selecting_nothing(self, fields: dict[str, Any], path: str) -> None:
        """A policy that selects no workload, or is attached to no Service, is named."""
        (finding,) = found_in(policy("a", callers({"principals": [WEB]}), **fields))
        assert (finding.check, finding.path) == (Check.UNKNOWN_REFERENCE, path)

    def test_attached(self) -> None:
        """A policy attached to a Service with workloads is fine."""
        assert said(policy("a", callers({"principals": [WEB]}), targets=["api"])) == []

    def test_peers(self) -> None:
        """A PeerAuthentication that selects no workload is named."""
        (finding,) = found_in(peers=[peers("p", app="wbe", mtls={"mode": "STRICT"})])
        assert (finding.kind, finding.check) == ("PeerAuthentication", Check.UNKNOWN_REFERENCE)


class TestUnenforceable:
    RULE = callers({"principals": [WEB]}) | targets({"methods": ["GET"], "ports": ["8080"]})

    def test_on_tcp(self) -> None:
        """A rule about requests at a tcp port is an error."""
        (finding,) = found_in(policy("a", self.RULE, labels={"app": "api"}))
        assert (finding.severity, finding.check) == (Severity.ERROR, Check.UNENFORCEABLE)
        assert finding.path == "spec.rules[0].to[0].operation.methods"
        assert "port 8080 of default/api is tcp" in finding.message

    def test_on_http(self) -> None:
        """Where HTTP is read it is none."""
        one = policy("a", self.RULE, labels={"app": "api"})
        assert said(one, protocol="http") == []


class TestShadows:
    def test_allow_under_deny(self) -> None:
        """An ALLOW rule all of whose callers a DENY rule refuses is unreachable."""
        deny = policy("d", callers({"namespaces": ["default"]}), action="DENY")
        allow = policy("a", callers({"principals": [WEB]}), labels={"app": "api"})
        (finding,) = found_in(allow, deny)
        assert (finding.policy, finding.check, finding.path) == (
            "default/a",
            Check.UNREACHABLE,
            "spec.rules[0]",
        )
        assert "the DENY rule spec.rules[0] of default/d refuses" in finding.message

    def test_allow_under_allow(self) -> None:
        """A rule that a wider one of the same action makes superfluous is shadowed, and the other named."""
        wide = policy("z", callers({"namespaces": ["default"]}))
        narrow = policy("a", callers({"principals": [WEB]}), labels={"app": "api"})
        (finding,) = found_in(narrow, wide)
        assert (finding.policy, finding.check, finding.severity) == (
            "default/a",
            Check.SHADOWED,
            Severity.INFO,
        )
        assert "spec.rules[0] of default/z" in finding.message

    def test_within_one_policy(self) -> None:
        """So is a rule that another of the same policy covers."""
        one = policy("a", callers({"principals": [WEB]}), callers({"namespaces": ["default"]}))
        assert said(one) == [("a", Check.SHADOWED, "spec.rules[0]")]

    def test_twins(self) -> None:
        """Of two that are the same only the later is complained of."""
        one, two = (policy(name, callers({"principals": [WEB]}), action="DENY") for name in "ab")
        assert said(one, two) == [("b", Check.SHADOWED, "spec.rules[0]")]

    @pytest.mark.parametrize(
        "other",
        [
            policy("z", callers({"namespaces": ["default"]}), dry_run=True),
            policy("z", callers({"namespaces": ["default"]}), action="AUDIT"),
            policy("z", callers({"namespaces": ["default"]}), labels={"app": "web"}),
            policy("z", callers({"principals": [WEB]}) | targets({"ports": ["9090"]}), action="DENY"),
        ],
        ids=["dry-run", "audit", "another-workload", "another-port"],
    )
    def test_no_shadow(self, other: AuthorizationPolicy) -> None:
        """What decides nothing, selects others or covers only a part shadows nothing."""
        one = policy("a", callers({"principals": [WEB]}), labels={"app": "api"})
        assert said(one, other) == []

    @pytest.mark.parametrize(
        ("rule", "path"),
        [
            (callers({"principals": [WEB], "notNamespaces": ["default"]}), f"{SOURCE}.notNamespaces"),
            (callers({"principals": [WEB], "notPrincipals": ["*/sa/web"]}), f"{SOURCE}.notPrincipals"),
            (
                callers({"principals": [WEB]}) | targets({"ports": ["8080"], "notPorts": ["8080"]}),
                "spec.rules[0].to[0].operation.notPorts",
            ),
            (
                callers({"principals": [WEB]})
                | {"when": [{"key": "source.serviceAccount", "values": ["batch"]}]},
                "spec.rules[0].when[0].values",
            ),
        ],
    )
    def test_contradiction(self, rule: dict[str, Any], path: str) -> None:
        """A rule whose fields exclude each other is unreachable."""
        assert said(policy("a", rule)) == [("a", Check.UNREACHABLE, path)]

    def test_peers(self) -> None:
        """Of two PeerAuthentications for the same workloads the one that does not count is named."""
        two = [peers("b", mtls={"mode": "STRICT"}), peers("a", mtls={"mode": "STRICT"})]
        (finding,) = found_in(peers=two)
        assert (finding.policy, finding.check) == ("default/b", Check.SHADOWED)
        assert "default/a, which counts" in finding.message

    def test_many(self) -> None:
        """Rules about different callers are not compared with each other, however many there are."""
        rules = [callers({"serviceAccounts": [f"n{number}/web"]}) for number in range(MAX_PAIRS // 50)]
        found = found_in(*(policy(f"p{i}", rule, labels={"app": "api"}) for i, rule in enumerate(rules)))
        assert {each.check for each in found} == {Check.UNKNOWN_REFERENCE}

    def test_too_many(self) -> None:
        """When there are more pairs than can be compared, that is said."""
        rules = [callers({"ipBlocks": [f"10.0.{n // 256}.{n % 256}"]}) for n in range(300)]
        found = found_in(policy("a", *rules, action="DENY"))
        assert [each.message for each in found if "was not looked into" in each.message]


def test_gravest_first() -> None:
    """Errors come before warnings, and those before what may be meant."""
    found = found_in(
        policy("a", targets({"ports": ["8080"]})),
        policy("b", {}, labels={"app": "api"}),
        policy("c", TestUnenforceable.RULE),
    )
    severities = [each.severity for each in found]
    assert severities == sorted(severities, key=list(Severity).index)
    assert severities[0] is Severity.ERROR
