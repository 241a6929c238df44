"""Policies of the right shape that contradict themselves, or hold what could never match."""

import pytest

from registry.model.authorization import Attribute, AuthorizationPolicy
from registry.model.parse import from_builtins, parse
from registry.model.peer_authentication import PeerAuthentication
from tests.registry.model.documents import (
    MESH,
    PEERS,
    POLICY,
    refusal,
    refused_path,
    with_metadata,
    with_operation,
    with_source,
    with_spec,
)

WILDCARD = "write a value, prefix*, *suffix or * alone; several patterns make a list"
PRINCIPAL = "write <trust domain>/ns/<namespace>/sa/<account>"


def with_condition(key: str, **fields: object) -> dict[str, object]:
    """Give a policy with one condition."""
    return with_spec(POLICY, rules=[{"when": [{"key": key, **fields}]}])


class TestSource:
    @pytest.mark.parametrize(
        "pattern", ["nodemesh.local/ns/default/sa/web", "*", "nodemesh.local/*", "*/sa/web"]
    )
    @pytest.mark.parametrize("field", ["principals", "notPrincipals"])
    def test_principal(self, field: str, pattern: str) -> None:
        """A principal is an identity without its scheme, or a pattern open at one end."""
        assert refused_path(with_source(**{field: [pattern]})) is None

    @pytest.mark.parametrize("field", ["principals", "notPrincipals"])
    @pytest.mark.parametrize(
        ("pattern", "mend"),
        [
            (
                "spiffe://nodemesh.local/ns/default/sa/web",
                'write it without the scheme: "nodemesh.local/ns/default/sa/web"',
            ),
            ("spiffe://*", 'write it without the scheme: "*"'),
            ("default/web", PRINCIPAL),
            ("web", PRINCIPAL),
            ("nodemesh.local/ns/default/sa/Web", PRINCIPAL),
            (
                "nodemesh.local/node/n1",
                "write a workload's: <trust domain>/ns/<namespace>/sa/<account>",
            ),
            ("nodemesh.local/*/web", WILDCARD),
            ("*web*", WILDCARD),
            ("**", WILDCARD),
        ],
    )
    def test_wrong_principal(self, field: str, pattern: str, mend: str) -> None:
        """A principal that could never match is refused: in a DENY it would be an open door."""
        error = refusal(with_source(**{field: [pattern]}))
        assert (error.path, error.mend) == (f"spec.rules[0].from[0].source.{field}[0]", mend)

    @pytest.mark.parametrize("pattern", ["default", "a-1", "*", "team-*", "*-prod"])
    def test_namespace(self, pattern: str) -> None:
        """A namespace is a name, or a pattern open at one end."""
        assert refused_path(with_source(notNamespaces=[pattern])) is None

    @pytest.mark.parametrize("pattern", ["Default", "a_b", "a/b", "t*m", "-a"])
    @pytest.mark.parametrize("field", ["namespaces", "notNamespaces"])
    def test_wrong_namespace(self, field: str, pattern: str) -> None:
        """A namespace that could not exist is refused."""
        error = refusal(with_source(**{field: ["default", pattern]}))
        assert error.path == f"spec.rules[0].from[0].source.{field}[1]"

    @pytest.mark.parametrize("account", ["web", "default/web"])
    @pytest.mark.parametrize("field", ["serviceAccounts", "notServiceAccounts"])
    def test_account(self, field: str, account: str) -> None:
        """A service account may leave out the policy's own namespace."""
        assert refused_path(with_source(**{field: [account]})) is None

    @pytest.mark.parametrize("account", ["Web", "a/b/c", "/web", "default/", "web*", "*", "default/*"])
    def test_wrong_account(self, account: str) -> None:
        """A service account that could not exist is refused, and so is a pattern, as in Istio."""
        error = refusal(with_source(serviceAccounts=[account]))
        assert error.path == "spec.rules[0].from[0].source.serviceAccounts[0]"

    @pytest.mark.parametrize("other", ["principals", "notPrincipals", "namespaces", "notNamespaces"])
    def test_accounts_beside_others(self, other: str) -> None:
        """Service accounts stand beside neither principals nor namespaces, as in Istio."""
        error = refusal(with_source(serviceAccounts=["web"], **{other: ["*"]}))
        assert error.reason == "stands beside principals or namespaces"

    @pytest.mark.parametrize("block", ["10.1.2.3", "10.1.0.0/16", "fd00::1", "fd00::/8", "0.0.0.0/0"])
    @pytest.mark.parametrize("field", ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"])
    def test_network(self, field: str, block: str) -> None:
        """An address block is an address or a network."""
        assert refused_path(with_source(**{field: [block]})) is None

    @pytest.mark.parametrize("block", ["10.1.2.3/16", "10.1.2", "web", "10.*", "10.0.0.1:80", "fd00::1/8"])
    @pytest.mark.parametrize("field", ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"])
    def test_wrong_network(self, field: str, block: str) -> None:
        """What is neither address nor network is refused, host bits included."""
        error = refusal(with_source(**{field: [block]}))
        assert error.path == f"spec.rules[0].from[0].source.{field}[0]"


class TestOperation:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("hosts", "api.example.com"),
            ("hosts", "API.example.com:8080"),
            ("hosts", "*.example.com"),
            ("hosts", "[fd00::1]:80"),
            ("methods", "GET"),
            ("methods", "*"),
            ("methods", "PROP*"),
            ("paths", "/"),
            ("paths", "/admin/*"),
            ("paths", "*.html"),
            ("paths", "/café"),
            ("paths", "/caf%C3%A9"),
            ("paths", "/.well-known/x"),
            ("paths", "/.*"),
            ("paths", "/a/{*}/b"),
            ("paths", "/a/{**}"),
            ("paths", "/{*}/b/{**}/c"),
        ],
    )
    @pytest.mark.parametrize("negated", [False, True])
    def test_of_requests(self, field: str, value: str, negated: bool) -> None:
        """Hosts, methods and paths are values, patterns open at one end, and for paths templates."""
        name = f"not{field.capitalize()}" if negated else field
        assert refused_path(with_operation(**{name: [value]})) is None

    @pytest.mark.parametrize(
        ("field", "value", "reason"),
        [
            ("hosts", "a b", "is no host"),
            ("hosts", "https://api", "is no host"),
            ("hosts", "a.*.b", "has a * where none can be"),
            ("methods", "get", "is no method"),
            ("methods", "GE T", "is no method"),
            ("methods", "*E*", "has a * where none can be"),
            ("paths", "admin", "is no path"),
            ("paths", "/a?x=1", "has a query or fragment"),
            ("paths", "/a#x", "has a query or fragment"),
            ("paths", "/a//b", "has a segment"),
            ("paths", "/a/./b", "has a segment"),
            ("paths", "/a/../b", "has a segment"),
            ("paths", "/a/..", "has a segment"),
            ("paths", "/a\\b", "has a segment"),
            ("paths", "/%61", "has an escape"),
            ("paths", "/a%2Fb", "has an escape"),
            ("paths", "/a%5cb", "has an escape"),
            ("paths", "/100%", "has an escape"),
            ("paths", "/a*b", "has a * where none can be"),
            ("paths", "/*/b/{*}", "is no path template"),
            ("paths", "/{**}/a/{*}", "is no path template"),
            ("paths", "/{**}/a/{**}", "is no path template"),
            ("paths", "/a/{*}.txt", "is no path template"),
            ("paths", "{*}/a", "is no path template"),
            ("paths", "/a/{name}", "is no path template"),
        ],
    )
    @pytest.mark.parametrize("negated", [False, True])
    def test_wrong_values(self, field: str, value: str, reason: str, negated: bool) -> None:
        """Values that no request could have are refused."""
        name = f"not{field.capitalize()}" if negated else field
        error = refusal(with_operation(**{name: [value]}))
        assert error.path == f"spec.rules[0].to[0].operation.{name}[0]"
        assert reason in error.reason
        assert error.mend


class TestCondition:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("source.ip", "10.0.0.0/8"),
            ("remote.ip", "10.0.0.1"),
            ("source.namespace", "team-*"),
            ("source.principal", "nodemesh.local/ns/default/sa/web"),
            ("source.serviceAccount", "default/web"),
            ("destination.ip", "fd00::/8"),
            ("destination.port", "8080"),
            ("connection.sni", "*.example.com"),
            ("request.headers[X-Team]", "red"),
        ],
    )
    @pytest.mark.parametrize("field", ["values", "notValues"])
    def test_keys(self, key: str, value: str, field: str) -> None:
        """Istio's keys are accepted, with values of their kind."""
        assert refused_path(with_condition(key, **{field: [value]})) is None

    def test_every_attribute_is_tried(self) -> None:
        """What conditions may be about is what this file tries."""
        marks = self.test_keys.pytestmark  # type: ignore[attr-defined]
        tried = {key for mark in marks for key, *_ in mark.args[1] if "key" in mark.args[0]}
        assert tried - {"request.headers[X-Team]"} == {each.value for each in Attribute}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("source.ip", "10.0.0.1/8"),
            ("source.namespace", "Team"),
            ("source.principal", "web"),
            ("source.serviceAccount", "*"),
            ("destination.port", "http"),
            ("connection.sni", "a*b"),
            ("request.headers[x]", "a*b"),
        ],
    )
    @pytest.mark.parametrize("field", ["values", "notValues"])
    def test_wrong_values(self, key: str, value: str, field: str) -> None:
        """A value that its key could never have is refused."""
        assert refusal(with_condition(key, **{field: [value]})).path == f"spec.rules[0].when[0].{field}[0]"

    @pytest.mark.parametrize(
        ("key", "mend"),
        [
            ("request.auth.claims[iss]", "request tokens are not supported"),
            ("request.headers", "write request.headers[<name>]"),
            ("request.headers[]", "write request.headers[<name>]"),
            ("request.headers[:path]", "write request.headers[<name>]"),
            ("experimental.envoy.filters.x", "remove it"),
            ("source.port", "write one of request.headers[<name>], source.ip, remote.ip,"),
            ("", "write one of"),
        ],
    )
    def test_unsupported_keys(self, key: str, mend: str) -> None:
        """A key that means nothing here is refused by name, saying what is supported."""
        error = refusal(with_condition(key, values=["x"]))
        assert error.path == "spec.rules[0].when[0].key"
        assert error.reason.endswith("is not supported")
        assert error.mend.startswith(mend)

    def test_no_values(self) -> None:
        """A condition without values is refused, as in Istio."""
        assert refusal(with_condition("source.ip")).reason == "has no values"

    def test_no_key(self) -> None:
        """A condition without a key is refused."""
        error = refusal(with_spec(POLICY, rules=[{"when": [{"values": ["x"]}]}]))
        assert (error.path, error.reason) == ("spec.rules[0].when[0].key", "is missing")


class TestPolicy:
    @pytest.mark.parametrize(
        ("rule", "path"),
        [
            ({"from": [{"source": {}}]}, "spec.rules[0].from[0].source"),
            ({"to": [{"operation": {"ports": ["80"]}}, {"operation": {}}]}, "spec.rules[0].to[1].operation"),
        ],
    )
    def test_empty_alternative(self, rule: dict[str, object], path: str) -> None:
        """An alternative without conditions, which Istio refuses too, is refused."""
        error = refusal(with_spec(POLICY, rules=[rule]))
        assert (error.path, error.reason) == (path, "is empty")

    @pytest.mark.parametrize(
        "fields", [{}, {"rules": []}, {"rules": [{}]}, {"action": "DENY", "rules": [{}]}, {"action": "AUDIT"}]
    )
    def test_sweeping_policies(self, fields: dict[str, object]) -> None:
        """Policies that match nothing or everything are accepted."""
        assert refused_path(with_spec(POLICY, **fields)) is None

    def test_deny_without_rules(self) -> None:
        """A DENY policy that could never deny is refused, as in Istio."""
        error = refusal(with_spec(POLICY, action="DENY"))
        assert (error.path, error.mend) == (
            "spec.rules",
            "write [{}] to deny everything, or delete the policy",
        )

    @pytest.mark.parametrize(
        ("annotation", "field", "dry"),
        [("true", False, True), ("false", False, False), ("true", True, True), (None, True, True)],
    )
    def test_dry_run(self, annotation: str | None, field: bool, dry: bool) -> None:
        """A dry run is asked for by its field, or by Istio's annotation."""
        annotations = {} if annotation is None else {"istio.io/dry-run": annotation}
        document = with_spec(with_metadata(POLICY, annotations=annotations), dryRun=field)
        policy = from_builtins(document, where="key")
        assert isinstance(policy, AuthorizationPolicy)
        assert policy.dry_run is dry

    @pytest.mark.parametrize(
        ("annotation", "field", "reason"),
        [
            ("yes", False, '"yes" is neither true nor false'),
            ("false", True, "contradicts spec.dryRun"),
        ],
    )
    def test_wrong_dry_run(self, annotation: str, field: bool, reason: str) -> None:
        """An annotation that says neither, or the contrary of the field, is refused: it might be enforced."""
        document = with_metadata(POLICY, annotations={"istio.io/dry-run": annotation})
        assert refusal(with_spec(document, dryRun=field)).reason == reason

    def test_selector_labels(self) -> None:
        """Labels that no workload can carry are refused in a policy's selector."""
        error = refusal(with_spec(POLICY, selector={"matchLabels": {"app": "*"}}))
        assert error.path == "spec.selector.matchLabels.app"

    @pytest.mark.parametrize(
        "target",
        [
            {"kind": "Service", "name": "web"},
            {"kind": "Service", "name": "web", "group": ""},
            {"kind": "Service", "name": "web", "group": "core", "namespace": "default"},
        ],
    )
    def test_target(self, target: dict[str, str]) -> None:
        """A policy may be attached to a Service of its namespace."""
        assert refused_path(with_spec(POLICY, targetRefs=[target])) is None

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"group": "gateway.networking.k8s.io"}, "spec.targetRefs[0].group"),
            ({"namespace": "other"}, "spec.targetRefs[0].namespace"),
        ],
    )
    def test_wrong_target(self, fields: dict[str, str], path: str) -> None:
        """A target that is no Service of the policy's namespace is refused."""
        target = {"kind": "Service", "name": "web", **fields}
        assert refusal(with_spec(POLICY, targetRefs=[target])).path == path

    def test_target_beside_selector(self) -> None:
        """A policy has a selector or targets, not both, as in Istio."""
        target = {"kind": "Service", "name": "web"}
        error = refusal(with_spec(POLICY, selector={"matchLabels": {"app": "x"}}, targetRefs=[target]))
        assert (error.path, error.reason) == ("spec.targetRefs", "stands beside a selector")

    def test_no_targets(self) -> None:
        """An empty list of targets, which would read as every workload, is refused."""
        assert refusal(with_spec(POLICY, targetRefs=[])).path == "spec.targetRefs"


class TestPeerAuthentication:
    @pytest.mark.parametrize("mode", ["STRICT", "PERMISSIVE"])
    def test_modes(self, mode: str) -> None:
        """STRICT and PERMISSIVE are accepted, for a namespace, for a workload and for its ports."""
        selector = {"matchLabels": {"app": "api"}}
        for spec in (
            {"mtls": {"mode": mode}},
            {"mtls": {"mode": mode}, "selector": selector},
            {"selector": selector, "mtls": {"mode": "UNSET"}, "portLevelMtls": {"80": {"mode": mode}}},
        ):
            assert refused_path({**PEERS, "spec": spec}) is None

    def test_ports_as_people_write_them(self) -> None:
        """In YAML a port needs no quotes, as in Istio's own examples."""
        text = b"""
            apiVersion: security.istio.io/v1
            kind: PeerAuthentication
            metadata: {name: api}
            spec:
              selector: {matchLabels: {app: api}}
              portLevelMtls:
                8080: {mode: PERMISSIVE}
        """
        resource = parse(text, where="key")
        assert isinstance(resource, PeerAuthentication)
        assert list(resource.spec.port_level_mtls) == ["8080"]

    @pytest.mark.parametrize(
        ("document", "path"),
        [
            ({**PEERS, "spec": {}}, "spec.mtls.mode"),
            (with_spec(PEERS, mtls={"mode": "UNSET"}), "spec.mtls.mode"),
            (with_spec(PEERS, portLevelMtls={"80": {"mode": "STRICT"}}), "spec.portLevelMtls"),
            (
                with_spec(PEERS, selector={"matchLabels": {}}, portLevelMtls={"80": {"mode": "STRICT"}}),
                "spec.portLevelMtls",
            ),
            (
                with_metadata(
                    with_spec(PEERS, selector={"matchLabels": {"app": "a"}}), namespace="nodemesh-system"
                ),
                "spec.selector",
            ),
            (with_spec(PEERS, selector={"matchLabels": {"app": "*"}}), "spec.selector.matchLabels.app"),
        ],
        ids=["nothing", "unset", "ports", "ports-of-all", "selector-of-the-mesh", "labels"],
    )
    def test_wrong(self, document: dict[str, object], path: str) -> None:
        """What says nothing, or would not be read as it is meant, is refused."""
        assert refusal(document).path == path

    def test_mesh(self) -> None:
        """The mesh's own mode may be STRICT or PERMISSIVE; there is nothing wider to leave it to."""
        assert refused_path(with_spec(MESH, mtlsMode="PERMISSIVE")) is None
        assert refusal(with_spec(MESH, mtlsMode="UNSET")).path == "spec.mtlsMode"
