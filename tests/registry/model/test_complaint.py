"""What people get wrong in the shape of a resource, and what they are told."""

import pytest
from msgspec import structs

from registry.model.unsupported import UNSUPPORTED_FIELDS
from tests.registry.model.documents import (
    MESH,
    PEERS,
    POLICY,
    SERVICE,
    refusal,
    with_metadata,
    with_operation,
    with_source,
    with_spec,
)

NOT_SUPPORTED = "is not supported"


@pytest.mark.parametrize("field", ["requestPrincipals", "notRequestPrincipals"])
def test_sources(field: str) -> None:
    """Istio's callers by request token are refused by name, and the mend says what to use."""
    error = refusal(with_source(namespaces=["default"], **{field: ["x"]}))
    assert (error.path, error.reason) == (f"spec.rules[0].from[0].source.{field}", NOT_SUPPORTED)
    assert "principals or namespaces" in error.mend


@pytest.mark.parametrize("field", ["targetRef", "provider"])
def test_policy_fields(field: str) -> None:
    """Istio's other fields of a policy are refused by name."""
    error = refusal(with_spec(POLICY, **{field: {}}))
    assert (error.path, error.reason) == (f"spec.{field}", NOT_SUPPORTED)


@pytest.mark.parametrize("kind", ["Gateway", "GatewayClass", "ServiceEntry"])
def test_target_kinds(kind: str) -> None:
    """What else Istio attaches policies to is refused by name."""
    error = refusal(with_spec(POLICY, targetRefs=[{"kind": kind, "name": "web"}]))
    assert (error.path, error.reason) == ("spec.targetRefs[0].kind", f"{kind} is not supported")
    assert error.mend.startswith("write kind Service")


def test_target_section() -> None:
    """A target's sectionName is refused by name."""
    error = refusal(with_spec(POLICY, targetRefs=[{"kind": "Service", "name": "web", "sectionName": "http"}]))
    assert (error.path, error.reason) == ("spec.targetRefs[0].sectionName", NOT_SUPPORTED)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"mtls": {"mode": "DISABLE"}}, "spec.mtls.mode"),
        (
            {"portLevelMtls": {"80": {"mode": "STRICT"}, "8080": {"mode": "DISABLE"}}},
            'spec.portLevelMtls["8080"].mode',
        ),
    ],
)
def test_disabled_mtls(fields: dict[str, object], path: str) -> None:
    """The mode DISABLE is refused by name: there is no tunnel without mutual TLS."""
    error = refusal({**PEERS, "spec": fields})
    assert (error.path, error.reason) == (path, "DISABLE is not supported")
    assert error.mend.startswith("write PERMISSIVE")


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_port_of_mtls(port: str) -> None:
    """A key of portLevelMtls that is no port is refused."""
    error = refusal(with_spec(PEERS, portLevelMtls={port: {"mode": "STRICT"}}))
    assert error.path.startswith("spec.portLevelMtls")
    assert error.mend == "write a port from 1 to 65535, in quotes"


def test_custom_action() -> None:
    """The action CUSTOM is refused by name."""
    error = refusal(with_spec(POLICY, action="CUSTOM"))
    assert (error.path, error.reason) == ("spec.action", "CUSTOM is not supported")


@pytest.mark.parametrize("field", ["uid", "resourceVersion", "creationTimestamp", "managedFields"])
def test_cluster_metadata(field: str) -> None:
    """What a cluster adds to metadata is refused, and the mend says to remove it."""
    error = refusal(with_metadata(POLICY, **{field: "x"}))
    assert error.path == f"metadata.{field}"
    assert error.mend.startswith("remove it")


def test_unsupported_fields_are_no_fields() -> None:
    """No field of ours is listed as unsupported."""
    for struct, fields in UNSUPPORTED_FIELDS.items():
        assert not {field.encode_name for field in structs.fields(struct)} & set(fields)


@pytest.mark.parametrize(
    ("document", "path", "mend"),
    [
        (with_source(principal=["x"]), "spec.rules[0].from[0].source.principal", "did you mean principals?"),
        (
            with_source(not_principals=["x"]),
            "spec.rules[0].from[0].source.not_principals",
            "did you mean notPrincipals?",
        ),
        (with_spec(POLICY, rule=[]), "spec.rule", "did you mean rules?"),
        (
            with_spec(POLICY, selector={"matchlabels": {}}),
            "spec.selector.matchlabels",
            "did you mean matchLabels?",
        ),
        (
            with_spec(SERVICE, ports=[{"port": 80, "targetport": 1}]),
            "spec.ports[0].targetport",
            "did you mean targetPort?",
        ),
        (with_spec(SERVICE, type="ClusterIP"), "spec.type", "known here: identities, ports, selector"),
        ({**SERVICE, "Spec": {}}, "Spec", "did you mean spec?"),
        ({**SERVICE, "x y": {}}, '["x y"]', "known here: apiVersion, kind, metadata, signature, spec"),
    ],
)
def test_unknown_field(document: object, path: str, mend: str) -> None:
    """An unknown field is refused with what was probably meant."""
    error = refusal(document)
    assert (error.path, error.reason, error.mend) == (path, "is not a known field", mend)


@pytest.mark.parametrize(
    ("document", "path", "reason", "mend"),
    [
        (
            with_operation(ports=[8080]),
            "spec.rules[0].to[0].operation.ports[0]",
            "expected text, got a whole number 8080",
            'put it in quotes: "8080"',
        ),
        (
            with_operation(ports=["80", "http"]),
            "spec.rules[0].to[0].operation.ports[1]",
            '"http" is not well-formed',
            "write a port from 1 to 65535, in quotes",
        ),
        (
            with_operation(ports=["080"]),
            "spec.rules[0].to[0].operation.ports[0]",
            '"080" is not well-formed',
            "write a port from 1 to 65535, in quotes",
        ),
        (
            with_operation(ports="80"),
            "spec.rules[0].to[0].operation.ports",
            'expected a list, got text "80"',
            'write a list: ["80"]',
        ),
        (
            with_source(principals=[]),
            "spec.rules[0].from[0].source.principals",
            "is empty",
            "write at least one, or leave the field out",
        ),
        (
            with_spec(POLICY, rules=[{"from": []}]),
            "spec.rules[0].from",
            "is empty",
            "write at least one, or leave the field out",
        ),
        (
            with_spec(POLICY, rules=[{"to": []}]),
            "spec.rules[0].to",
            "is empty",
            "write at least one, or leave the field out",
        ),
        (with_source(namespaces=[""]), "spec.rules[0].from[0].source.namespaces[0]", "is empty", ""),
        (with_spec(POLICY, rules=[{"from": [{}]}]), "spec.rules[0].from[0].source", "is missing", ""),
        (
            {**POLICY, "spec": None},
            "spec",
            "expected a mapping, got nothing",
            "write a value, or leave the field out",
        ),
        (
            with_spec(POLICY, rules=[None]),
            "spec.rules[0]",
            "expected a mapping, got nothing",
            "write a value, or leave the field out",
        ),
        (
            with_spec(POLICY, dryRun="yes"),
            "spec.dryRun",
            'expected true or false, got text "yes"',
            "write true or false, without quotes",
        ),
        (
            with_spec(POLICY, action="deny"),
            "spec.action",
            '"deny" is not known',
            "write one of ALLOW, DENY, AUDIT",
        ),
        (
            with_spec(POLICY, selector={"matchLabels": {"a": "b", "v": 1}}),
            "spec.selector.matchLabels.v",
            "expected text, got a whole number 1",
            'put it in quotes: "1"',
        ),
        (
            with_metadata(SERVICE, labels={"app.kubernetes.io/version": 1.10}),
            'metadata.labels["app.kubernetes.io/version"]',
            "expected text, got a number 1.1",
            "put it in quotes",
        ),
        (
            with_metadata(SERVICE, labels={"on": True}),
            "metadata.labels.on",
            "expected text, got true or false true",
            'put it in quotes: "true"',
        ),
        (
            with_metadata(SERVICE, name="Web_1"),
            "metadata.name",
            '"Web_1" is not well-formed',
            "write lower-case letters, digits and dashes, at most 63, letters or digits at both ends",
        ),
        (
            with_metadata(SERVICE, name="web\n"),
            "metadata.name",
            '"web\\n" is not well-formed',
            "write lower-case letters, digits and dashes, at most 63, letters or digits at both ends",
        ),
        ({**SERVICE, "metadata": {}}, "metadata.name", "is missing", ""),
        (
            with_spec(SERVICE, ports=[{"port": "80"}]),
            "spec.ports[0].port",
            'expected a whole number, got text "80"',
            "write it without quotes: 80",
        ),
        (
            with_spec(SERVICE, ports=[{"port": 80, "targetPort": "http"}]),
            "spec.ports[0].targetPort",
            'expected a whole number, got text "http"',
            "",
        ),
        (
            with_spec(SERVICE, ports=[{"port": 0}]),
            "spec.ports[0].port",
            "0 is out of bounds",
            "it must be >= 1",
        ),
        (
            with_spec(SERVICE, ports=[{"port": 65536}]),
            "spec.ports[0].port",
            "65536 is out of bounds",
            "it must be <= 65535",
        ),
        (
            with_spec(SERVICE, ports=[{"port": 80, "protocol": "udp"}]),
            "spec.ports[0].protocol",
            '"udp" is not known',
            "write one of tcp, http, http2, grpc, tls, auto",
        ),
        (
            with_spec(MESH, defaultAuthorization="Deny"),
            "spec.defaultAuthorization",
            '"Deny" is not known',
            "write one of allow, deny",
        ),
        (
            with_spec(MESH, trustDomain="spiffe://x"),
            "spec.trustDomain",
            '"spiffe://x" is not well-formed',
            "write lower-case letters, digits, dashes and underscores, single dots between",
        ),
    ],
)
def test_wrong_value(document: object, path: str, reason: str, mend: str) -> None:
    """A value of the wrong type or form is refused with its path, what it is and what to write."""
    error = refusal(document)
    assert (error.path, error.reason, error.mend) == (path, reason, mend)


def test_message_in_one_line() -> None:
    """The error reads as one line: where, which field, what is wrong, what to write."""
    assert str(refusal(with_operation(ports=[8080]))) == (
        "key: spec.rules[0].to[0].operation.ports[0]: expected text, got a whole number 8080; "
        'put it in quotes: "8080"'
    )


@pytest.mark.parametrize("name", ["x` - at `$.spec", "` - at `$[9999999999999999999]", "`"])
def test_misleading_field(name: str) -> None:
    """A field whose name looks like the end of msgspec's message is refused like any other."""
    error = refusal(with_spec(SERVICE, **{name: 1}))
    assert (error.path.startswith("spec["), error.reason) == (True, "is not a known field")
