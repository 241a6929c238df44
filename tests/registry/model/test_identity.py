"""The node's name in certificates, as bytes."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from registry.ca import issuer
from registry.model.identity import (
    LABEL,
    NODE_EXTENSION,
    InvalidIdentity,
    WorkloadIdentity,
    decode_node,
    encode_node,
)
from tests.registry.ca.material import START, TRUST_DOMAIN, new_key

NAMES = st.from_regex(LABEL.pattern.replace(r"\Z", ""), fullmatch=True)


@given(NAMES)
@example("a")
@example("a" * 63)
def test_round_trip(name: str) -> None:
    """What is written is what is read, for every name a node may have."""
    assert decode_node(encode_node(name)) == name


@given(st.binary(max_size=90))
@example(b"")
@example(encode_node("web-1") + b"\0")
@example(encode_node("web-1")[:-1])
@example(encode_node("web-1").replace(b"web-1", b"web_1"))
@example(encode_node("web-1").replace(b"\x0c", b"\x13"))
def test_nothing_else_is_read(value: bytes) -> None:
    """Bytes that are not exactly what is written for some name are refused: each has one way."""
    try:
        name = decode_node(value)
    except InvalidIdentity:
        return
    assert encode_node(name) == value


@pytest.mark.parametrize("name", ["", "Web", "web.1", "a" * 64, "wéb"])
def test_no_node_name(name: str) -> None:
    """What no node may be called is never written."""
    with pytest.raises(InvalidIdentity):
        encode_node(name)


def test_extension_in_a_leaf(tmp_path: Path) -> None:
    """A leaf names its node in a standard extension that may be ignored, and OpenSSL reads it as such."""
    root = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=7, now=START)
    identity = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
    leaf = issuer.issue_leaf(root, new_key().public_key(), identity, node="web-1", serial=1, now=START)
    found = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(NODE_EXTENSION))
    assert not found.critical
    assert isinstance(found.value, x509.UnrecognizedExtension)
    assert decode_node(found.value.value) == "web-1"
    path = tmp_path / "leaf.pem"
    path.write_bytes(leaf.public_bytes(Encoding.PEM))
    read = subprocess.run(
        ["openssl", "x509", "-in", str(path), "-noout", "-ext", "subjectDirectoryAttributes"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "X509v3 Subject Directory Attributes" in read.stdout
    assert "web-1" in read.stdout
