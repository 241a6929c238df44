import json

import pytest
from hypothesis import given

from registry.errors import InvalidResource
from registry.model.parse import KINDS, render
from registry.model.resource import Resource
from registry.store import keys
from registry.store.codec import kind_at, parse_at
from tests.registry.model.documents import (
    BACKEND_POLICY,
    EXTERNAL,
    GRPC_ROUTE,
    HTTP_ROUTE,
    MESH,
    PEERS,
    POLICY,
    SERVICE,
    TCP_ROUTE,
    WORKLOAD,
)
from tests.strategies import external_services, meshes, policies, services


def _at(key: str, document: object) -> Resource:
    return parse_at(key, json.dumps(document).encode())


def _spec(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "nodemesh/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


NODE = _spec("Node", "n1", {"address": "10.0.0.1"})
NODE_STATUS = _spec("NodeStatus", "n1", {"appliedRevision": 1})
NODE_DECISIONS = _spec("NodeDecisions", "n1", {})
ENROLMENT = _spec("Enrolment", "n1", {"node": "n1", "identities": [], "enrolledAt": "x"})
STATUS = _spec("Status", "web", {"revision": 1, "accepted": True})
TOKEN = _spec(
    "JoinToken",
    "t1",
    {"secretSha256": "0" * 64, "nodePattern": "*", "identities": [], "usesLeft": 1, "expiresAt": "x"},
)
NODE_QUOTAS = _spec("NodeQuotas", "n1", {"demands": {"default/web/all#0": 2.5}})
BUNDLE = _spec("TrustBundle", "bundle", {"trustDomain": "nodemesh.local", "rootsPem": []})
SEALED = _spec(
    "SealedKey", "root", dict.fromkeys(("algorithm", "salt", "nonce", "ciphertext", "certificatePem"), "x")
)
ROTATION = _spec(
    "Rotation",
    "rotation",
    {
        "phase": "moving",
        "startedAt": "2026-03-01T12:00:00Z",
        "since": "2026-03-01T12:00:00Z",
        "root": "0" * 64,
        "issuer": "1" * 64,
        "leafSeconds": 86400,
    },
)
ADMINISTRATOR = _spec("Administrator", "admin", {"tokenSha256": "0" * 64})

PLACES: list[tuple[str, dict[str, object]]] = [
    ("mesh", MESH),
    ("services/default/web", SERVICE),
    ("externalservices/default/stripe", EXTERNAL),
    ("authorizationpolicies/default/web", POLICY),
    ("peerauthentications/default/web", PEERS),
    ("httproutes/default/web", HTTP_ROUTE),
    ("grpcroutes/default/web", GRPC_ROUTE),
    ("tcproutes/default/web", TCP_ROUTE),
    ("backendpolicies/default/web", BACKEND_POLICY),
    ("nodes/n1/record", NODE),
    ("nodes/n1/status", NODE_STATUS),
    ("nodes/n1/decisions", NODE_DECISIONS),
    ("nodes/n1/quotas", NODE_QUOTAS),
    ("nodes/n1/workloads/default/web", WORKLOAD),
    ("enrolments/n1", ENROLMENT),
    ("status/services/default/web", STATUS),
    ("tokens/t1", TOKEN),
    ("ca/bundle", BUNDLE),
    ("ca/keys/root", SEALED),
    ("ca/rotation", ROTATION),
    ("administrators/admin", ADMINISTRATOR),
]


@pytest.mark.parametrize(("key", "document"), PLACES, ids=[key for key, _ in PLACES])
def test_every_place(key: str, document: dict[str, object]) -> None:
    """A value whose kind and name agree with its key is read."""
    assert document["kind"] == _at(key, document).KIND


def test_every_kind_has_a_place() -> None:
    """Every kind that can be parsed has a key at which it is read."""
    assert {document["kind"] for _, document in PLACES} == {kind.KIND for kind in KINDS}


@pytest.mark.parametrize(
    ("key", "document", "path", "mend"),
    [
        ("services/default/api", SERVICE, "metadata.name", "write api, or"),
        ("services/prod/web", SERVICE, "metadata.namespace", "write prod, or"),
        ("authorizationpolicies/default/api", POLICY, "metadata.name", "write api, or"),
        ("authorizationpolicies/default/web", SERVICE, "kind", "write AuthorizationPolicy"),
        ("peerauthentications/default/web", POLICY, "kind", "write PeerAuthentication"),
        ("mesh", SERVICE, "kind", "write Mesh"),
        ("nodes/n2/record", NODE, "metadata.name", "write n2, or"),
        ("nodes/n2/status", NODE_STATUS, "metadata.name", "write n2, or"),
        ("nodes/n2/decisions", NODE_DECISIONS, "metadata.name", "write n2, or"),
        ("nodes/n2/workloads/default/web", WORKLOAD, "spec.node", "write n2, or"),
        ("nodes/n1/workloads/prod/web", WORKLOAD, "metadata.namespace", "write prod, or"),
        ("nodes/n1/workloads/default/api", WORKLOAD, "metadata.name", "write api, or"),
        ("enrolments/n2", ENROLMENT, "metadata.name", "write n2, or"),
        ("status/services/default/api", STATUS, "metadata.name", "write api, or"),
        ("tokens/t2", TOKEN, "metadata.name", "write t2, or"),
        ("ca/keys/other", SEALED, "metadata.name", "write other, or"),
        ("administrators/root", ADMINISTRATOR, "metadata.name", "write root, or"),
    ],
)
def test_disagreement(key: str, document: object, path: str, mend: str) -> None:
    """A value that names another place than its key is refused, and the error says which to change."""
    with pytest.raises(InvalidResource) as caught:
        _at(key, document)
    assert (caught.value.where, caught.value.path) == (key, path)
    assert caught.value.mend.startswith(mend)


def test_enrolment_of_another_node() -> None:
    """An enrolment that speaks of another node than its key's is refused."""
    other = _spec("Enrolment", "n1", {"node": "n2", "identities": [], "enrolledAt": "x"})
    with pytest.raises(InvalidResource, match=r"enrolments/n1: spec\.node"):
        _at("enrolments/n1", other)


@pytest.mark.parametrize("key", ["", "services/web", "gadgets/default/web", "leader/controller", "nodes/n1"])
def test_no_resource(key: str) -> None:
    """A key at which no resource of a known kind is kept is refused."""
    with pytest.raises(InvalidResource, match="no resource is kept at this key"):
        _at(key, SERVICE)


def test_unknown_kind_of_key() -> None:
    """A key of a kind unknown here, as a newer release may write, can be told apart."""
    assert kind_at(keys.ResourceKey("gadgets", "default", "web")) is None


@given(services | external_services | policies() | meshes)
def test_operators_resources(resource: Resource) -> None:
    """What is rendered is read back from the key at which it lives."""
    assert parse_at(keys.render(keys.key_of(resource)), render(resource)) == resource
