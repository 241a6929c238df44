"""Resources of the right shape that contradict themselves or mean nothing."""

import pytest

from registry.model.parse import from_builtins
from tests.registry.model.documents import (
    MESH,
    PEERS,
    POLICY,
    SERVICE,
    WORKLOAD,
    refusal,
    refused_path,
    with_metadata,
    with_spec,
)

NODE = {
    "apiVersion": "nodemesh/v1",
    "kind": "Node",
    "metadata": {"name": "n1", "namespace": "nodemesh-system"},
    "spec": {"address": "10.0.0.1"},
}
ENROLMENT = {
    "apiVersion": "nodemesh/v1",
    "kind": "Enrolment",
    "metadata": {"name": "n1"},
    "spec": {"node": "n1", "identities": [], "enrolledAt": "2030-01-01T00:00:00Z"},
}


def test_service() -> None:
    """A Service with several ports and identities of both forms is accepted."""
    ports = [{"port": 80, "name": "http"}, {"port": 81, "name": "admin"}, {"port": 82}]
    identities = ["default/web", "spiffe://other.example/ns/default/sa/web"]
    assert refused_path(with_spec(SERVICE, ports=ports, identities=identities)) is None


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"ports": []}, "spec.ports", "is empty"),
        (
            {"ports": [{"port": 80}, {"port": 80}]},
            "spec.ports[1].port",
            "80 is already taken by spec.ports[0]",
        ),
        (
            {"ports": [{"port": 80, "name": "a"}, {"port": 81}, {"port": 82, "name": "a"}]},
            "spec.ports[2].name",
            "a is already taken by spec.ports[0]",
        ),
        ({"selector": {}}, "spec.selector", "is empty and would select every workload of the namespace"),
        ({"selector": {"app": "a b"}}, "spec.selector.app", '"a b" is not a well-formed label value'),
        ({"identities": ["web"]}, "spec.identities[0]", "'web' is not namespace/account"),
        (
            {"identities": ["default/web", "Default/web"]},
            "spec.identities[1]",
            "'Default/web' is not namespace",
        ),
        ({"identities": ["spiffe://x/y"]}, "spec.identities[0]", "'spiffe://x/y' is neither"),
        ({"identities": ["spiffe://x/node/n"]}, "spec.identities[0]", '"spiffe://x/node/n" is a node\'s'),
    ],
)
def test_wrong_service(fields: dict[str, object], path: str, reason: str) -> None:
    """A Service that could not work or would select too much is refused."""
    error = refusal(with_spec(SERVICE, **fields))
    assert error.path == path
    assert error.reason.startswith(reason)


@pytest.mark.parametrize("key", ["app", "A.b_c-1", "example.com/app", "x" * 63, f"{'a' * 253}/x"])
def test_label_key(key: str) -> None:
    """Kubernetes' label keys are accepted."""
    assert refused_path(with_metadata(SERVICE, labels={key: "x"})) is None


@pytest.mark.parametrize(
    "key", ["", "-a", "a-", "x" * 64, "a/b/c", "/a", "a/", "Example.com/a", "a b", "app\n"]
)
def test_wrong_label_key(key: str) -> None:
    """What Kubernetes would not take for a label key is refused."""
    assert refusal(with_metadata(SERVICE, labels={key: "x"})).reason == "is not a well-formed key"


@pytest.mark.parametrize("value", ["", "a", "A.b_c-1", "x" * 63])
def test_label_value(value: str) -> None:
    """Kubernetes' label values are accepted, the empty one too."""
    assert refused_path(with_metadata(SERVICE, labels={"app": value})) is None


@pytest.mark.parametrize("value", ["-a", "a-", "x" * 64, "a/b", "a\n", "é"])
def test_wrong_label_value(value: str) -> None:
    """What Kubernetes would not take for a label value is refused."""
    assert refusal(with_metadata(SERVICE, labels={"app": value})).path == "metadata.labels.app"


def test_annotations_are_free() -> None:
    """An annotation's value may be any text."""
    assert refused_path(with_metadata(SERVICE, annotations={"note": "why: because\n é"})) is None


@pytest.mark.parametrize("ranges", [[], ["10.1.0.0/16"], ["fd00::/64"], ["240.0.0.0/4", "fd00::/112"]])
def test_vip_ranges(ranges: list[str]) -> None:
    """A mesh may have a network of each family, or none."""
    assert refused_path(with_spec(MESH, vipRanges=ranges)) is None


@pytest.mark.parametrize(
    ("ranges", "path", "reason"),
    [
        (["x"], "spec.vipRanges[0]", "is not a network"),
        (["10.0.0.1/8"], "spec.vipRanges[0]", "is not a network: 10.0.0.1/8 has host bits set"),
        (["10.1.0.0/16", "10.2.0.0/16"], "spec.vipRanges[1]", "is a second IPv4 network"),
        (["fd00::/64", "10.1.0.0/16", "fd01::/64"], "spec.vipRanges[2]", "is a second IPv6 network"),
        (["10.1.0.0/25"], "spec.vipRanges[0]", "holds only 128 addresses"),
        (["fd00::/127"], "spec.vipRanges[0]", "holds only 2 addresses"),
        (["0.0.0.0/0"], "spec.vipRanges[0]", "overlaps 127.0.0.0/8"),
        (["127.5.0.0/16"], "spec.vipRanges[0]", "overlaps 127.0.0.0/8"),
        (["::/0"], "spec.vipRanges[0]", "overlaps ::1/128"),
        (["ff00::/16"], "spec.vipRanges[0]", "overlaps ff00::/8"),
    ],
)
def test_wrong_vip_ranges(ranges: list[str], path: str, reason: str) -> None:
    """Networks that are none, too many, too small or somebody else's are refused."""
    error = refusal(with_spec(MESH, vipRanges=ranges))
    assert error.path == path
    assert error.reason.startswith(reason)


@pytest.mark.parametrize(("field", "right"), [("name", "mesh"), ("namespace", "nodemesh-system")])
def test_one_mesh(field: str, right: str) -> None:
    """There is one mesh, of one name in the root namespace."""
    error = refusal(with_metadata(MESH, **{field: "other"}))
    assert (error.path, error.mend) == (f"metadata.{field}", f"write {right}")


@pytest.mark.parametrize(
    "identity", ["default/web", "spiffe://nodemesh.local/node/n1", "spiffe://X/ns/a/sa/b"]
)
def test_workload_identity(identity: str) -> None:
    """A workload's identity is a workload's SPIFFE ID in full."""
    assert refusal(with_spec(WORKLOAD, identity=identity)).path == "spec.identity"


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_node_address(address: str) -> None:
    """A node's address is an IP."""
    assert refused_path({**NODE, "spec": {"address": address}}) is None


@pytest.mark.parametrize("address", ["", "web-1.example", "10.0.0.1:80", "10.0.0.0/8"])
def test_wrong_node_address(address: str) -> None:
    """A node's address that is no IP is refused."""
    assert refusal({**NODE, "spec": {"address": address}}).path == "spec.address"


def test_enrolment_identities() -> None:
    """An enrolment lists identities of workloads, in full."""
    assert refusal(with_spec(ENROLMENT, identities=["default/web"])).path == "spec.identities[0]"


@pytest.mark.parametrize("document", [SERVICE, POLICY, PEERS, MESH, WORKLOAD, NODE, ENROLMENT])
def test_plain_documents(document: object) -> None:
    """The documents that these tests bend are accepted as they are."""
    from_builtins(document, where="key")
