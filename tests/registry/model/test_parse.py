import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidResource
from registry.model.authorization import AuthorizationPolicy
from registry.model.mesh import Mesh
from registry.model.parse import (
    KINDS,
    OPERATOR_KINDS,
    from_builtins,
    parse,
    parse_as,
    parse_documents,
    render,
    to_builtins,
)
from registry.model.resource import Resource
from registry.model.service import Service
from registry.model.workload import Workload
from tests.registry.model.documents import MESH, POLICY, SERVICE, refusal, refused_path
from tests.strategies import by_kind, resources


def test_every_kind_has_a_strategy() -> None:
    """The round trip below covers every kind that can be parsed."""
    assert set(by_kind) == set(KINDS)


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.KIND)
@given(data=st.data())
def test_round_trip(cls: type[Resource], data: st.DataObject) -> None:
    """What is rendered parses to an equal resource, for every kind."""
    resource = data.draw(by_kind[cls])
    assert parse(render(resource), where="key") == resource


@given(resources)
def test_yaml_round_trip(resource: Resource) -> None:
    """What is written out as YAML parses to an equal resource."""
    text = yaml.safe_dump(to_builtins(resource))
    assert parse(text.encode(), where="key") == resource


@given(resources)
def test_canonical(resource: Resource) -> None:
    """Rendering is canonical: sorted fields, no spaces, and the same bytes after a round trip."""
    rendered = render(resource)
    plain = json.loads(rendered)
    assert rendered == json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_defaults_are_left_out() -> None:
    """Defaults are not written, except the namespace, which says what the resource is."""
    assert render(parse(json.dumps(SERVICE).encode(), where="key")) == (
        b'{"apiVersion":"nodemesh/v1","kind":"Service","metadata":{"name":"web","namespace":"default"},'
        b'"spec":{"ports":[{"port":80}],"selector":{"app":"web"}}}'
    )


def test_empty_spec_is_written() -> None:
    """A spec that is all defaults is written as an empty mapping."""
    assert to_builtins(parse(json.dumps(POLICY).encode(), where="key"))["spec"] == {}


def test_trust_domain_is_written() -> None:
    """A mesh's trust domain is written even if it is the default, since identities hang on it."""
    mesh = parse(json.dumps(MESH).encode(), where="key")
    assert to_builtins(mesh)["spec"] == {"trustDomain": "nodemesh.local"}


def test_parse_as() -> None:
    """parse_as gives the kind that was asked for."""
    assert isinstance(parse_as(Service, json.dumps(SERVICE).encode(), where="key"), Service)


def test_parse_as_another_kind() -> None:
    """parse_as refuses a resource of another kind."""
    with pytest.raises(InvalidResource, match=r'key: kind: "Service" is not known for Mesh; write Mesh'):
        parse_as(Mesh, json.dumps(SERVICE).encode(), where="key")


@pytest.mark.parametrize("version", AuthorizationPolicy.API_VERSIONS)
def test_api_versions(version: str) -> None:
    """Each apiVersion of a kind is accepted and kept as written."""
    assert from_builtins({**POLICY, "apiVersion": version}, where="key").api_version == version


@pytest.mark.parametrize(
    ("document", "path", "reason", "mend"),
    [
        ([], "", "is not a mapping", "write apiVersion, kind, metadata and spec"),
        ("text", "", "is not a mapping", "write apiVersion, kind, metadata and spec"),
        ({}, "kind", "is missing", "write one of "),
        ({"kind": "Serivce"}, "kind", '"Serivce" is not a kind taken here', "did you mean Service?"),
        ({"kind": 1}, "kind", "1 is not a kind taken here", "known here: "),
        ({"kind": "Service"}, "apiVersion", "is missing", "write nodemesh/v1"),
        ({**SERVICE, "apiVersion": "v1"}, "apiVersion", '"v1" is not known for Service', "write nodemesh/v1"),
        (
            {**POLICY, "apiVersion": "v1"},
            "apiVersion",
            '"v1" is not known for AuthorizationPolicy',
            "write security.istio.io/v1 or security.istio.io/v1beta1 or nodemesh/v1",
        ),
    ],
)
def test_envelope(document: object, path: str, reason: str, mend: str) -> None:
    """A wrong envelope is refused with the field and what to write."""
    error = refusal(document)
    assert (error.path, error.reason) == (path, reason)
    assert error.mend.startswith(mend)


def test_kinds_are_limited() -> None:
    """A kind that operators do not write is refused where only theirs are taken."""
    workload = {"apiVersion": "nodemesh/v1", "kind": Workload.KIND}
    with pytest.raises(InvalidResource, match="is not a kind taken here"):
        from_builtins(workload, where="key", kinds=OPERATOR_KINDS)


def test_documents() -> None:
    """A file's resources are given in its order."""
    data = yaml.safe_dump_all([SERVICE, POLICY, MESH]).encode()
    assert [resource.KIND for resource in parse_documents(data, where="file")] == [
        "Service",
        "AuthorizationPolicy",
        "Mesh",
    ]


def test_wrong_document_is_named() -> None:
    """The error of a file with several resources says which is wrong."""
    data = yaml.safe_dump_all([SERVICE, {**POLICY, "spec": {"action": "deny"}}]).encode()
    with pytest.raises(InvalidResource, match=r"^file \(document 2\): spec\.action: "):
        parse_documents(data, where="file")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 70000) | st.sampled_from(["", "a", "80", "*", "spiffe://x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "ports",
                    "port",
                    "name",
                    "selector",
                    "rules",
                    "from",
                    "to",
                    "source",
                    "operation",
                    "principals",
                    "x y",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from(KINDS), json_values, json_values)
def test_any_shape(cls: type[Resource], metadata: object, spec: object) -> None:
    """Whatever the metadata and spec hold, parsing gives a resource or InvalidResource."""
    document = {"apiVersion": cls.API_VERSIONS[0], "kind": cls.KIND, "metadata": metadata, "spec": spec}
    with suppress(InvalidResource):
        from_builtins(document, where="key")


@given(resources, st.data())
def test_any_bent_resource(resource: Resource, data: st.DataObject) -> None:
    """A valid resource with one value replaced is taken, or refused with the path of what is wrong."""
    document = to_builtins(resource)
    target: dict[str, object] = data.draw(st.sampled_from([document, document["metadata"], document["spec"]]))
    field = data.draw(st.sampled_from(sorted(target)) if target else st.just("x"))
    target[field] = data.draw(json_values)
    assert refused_path(document) != ""


@pytest.mark.parametrize("size", [1000, 200_000])
def test_errors_stay_small(size: int) -> None:
    """However long what somebody wrote, the error that quotes it stays short."""
    long = "x" * size
    bent = [
        {"kind": long},
        {**SERVICE, long: 1},
        {**SERVICE, "metadata": {"name": long}},
        {**SERVICE, "metadata": {"name": "web", "labels": {long: long}}},
        {**SERVICE, "spec": {**SERVICE["spec"], "identities": [long]}},
        {**SERVICE, "spec": {**SERVICE["spec"], "identities": [f"spiffe://{long}"]}},
        {**POLICY, "spec": {"action": long}},
        {**POLICY, "spec": {"rules": [{"from": [{"source": {"principals": [long]}}]}]}},
        {**POLICY, "spec": {"rules": [{"from": [{"source": {"principals": [f"spiffe://{long}"]}}]}]}},
        {**MESH, "spec": {"vipRanges": [long]}},
    ]
    assert max(len(str(refusal(document))) for document in bent) < 600
