"""Keys and values go into etcd's messages and come back the same."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import registry.store.etcd  # noqa: F401 - places the message classes
from registry.store.messages import Messages, prefix_end

etcdrpc = sys.modules["etcd3.etcdrpc"]
messages = Messages(etcdrpc, "/test/")


@given(st.text())
def test_texts(key: str) -> None:
    """Every text is a key."""
    kv = etcdrpc.KeyValue(key=messages.key(key), value=b"1", create_revision=2, mod_revision=3, lease=4)
    item = messages.item(kv)
    assert (item.key, item.value, item.created, item.revision, item.lease) == (key, b"1", 2, 3, 4)


@given(st.binary())
def test_bytes(key: bytes) -> None:
    """A key that somebody wrote as bytes that are no text comes back as those bytes."""
    item = messages.item(etcdrpc.KeyValue(key=b"/test/" + key))
    assert messages.key(item.key) == b"/test/" + key


@given(st.binary(min_size=1), st.binary())
def test_prefix_end(prefix: bytes, key: bytes) -> None:
    """A key lies before the end of a prefix, and not before the prefix, just if it begins with it."""
    prefix = b"/" + prefix
    assert (prefix <= key < prefix_end(prefix)) == key.startswith(prefix)
    assert prefix <= prefix + key < prefix_end(prefix)


@pytest.mark.parametrize("name", ["WatchCreateRequest", "WatchResponse"])
def test_fragments_are_known(name: str) -> None:
    """The messages know of fragments, which etcd3's own do not."""
    assert getattr(etcdrpc, name)(fragment=True).fragment
