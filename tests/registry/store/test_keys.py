"""Keys go to text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS
from registry.store import keys
from registry.store.keys import (
    AdministratorKey,
    BundleKey,
    EnrolmentKey,
    Key,
    LeaderKey,
    MeshKey,
    NodeDecisionsKey,
    NodeRecordKey,
    NodeStatusKey,
    ResourceKey,
    RotationKey,
    SigningKeyKey,
    StatusKey,
    TokenKey,
    WorkloadKey,
)

_names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_plurals = _names.filter(lambda name: name not in keys.RESERVED)
_keys: st.SearchStrategy[Key] = st.one_of(
    st.just(MeshKey()),
    st.just(BundleKey()),
    st.just(RotationKey()),
    st.builds(ResourceKey, _plurals, _names, _names),
    st.builds(StatusKey, _plurals, _names, _names),
    st.builds(NodeRecordKey, _names),
    st.builds(NodeStatusKey, _names),
    st.builds(NodeDecisionsKey, _names),
    st.builds(WorkloadKey, _names, _names, _names),
    st.builds(EnrolmentKey, _names),
    st.builds(TokenKey, _names),
    st.builds(SigningKeyKey, _names),
    st.builds(AdministratorKey, _names),
    st.builds(LeaderKey, _names),
)


@given(_keys)
def test_round_trip(key: Key) -> None:
    """A key that is rendered is parsed as the same key."""
    assert keys.parse(keys.render(key)) == key


@given(st.text(alphabet="abc/-", max_size=30))
def test_one_text_per_key(text: str) -> None:
    """A text that is a key is the text of that key and of no other."""
    key = keys.parse(text)
    assert key is None or keys.render(key) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "mesh/",
        "services/default",
        "services/default/web/more",
        "services//web",
        "nodes/web-1",
        "nodes/web-1/other",
        "nodes/web-1/workloads/default",
        "tokens/a/b",
        "ca/keys",
        "unknown",
    ],
)
def test_none_of_ours(text: str) -> None:
    """A text that no key renders to is none of ours."""
    assert keys.parse(text) is None


def test_no_kind_has_a_reserved_name() -> None:
    """No kind that operators write lives in a folder with a meaning of its own."""
    assert not {kind.PLURAL for kind in OPERATOR_KINDS if kind is not Mesh} & keys.RESERVED
