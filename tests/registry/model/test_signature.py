import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.parse import parse, render
from registry.model.resource import Resource
from registry.model.signature import BadSignature, Unsigned, strip, verify
from tests.fakes.signers import MeshKeys
from tests.strategies import resources

KEYS = MeshKeys()
PLACE = "nodes/web-1/record"
SIGNER = KEYS.node("web-1")
VALUE = (
    b'{"apiVersion":"nodemesh/v1","kind":"Node","metadata":{"name":"web-1"},"spec":{"address":"10.0.0.1"}}'
)
SIGNED = SIGNER.sign(PLACE, VALUE)


@given(resources)
def test_signed_and_read_again(resource: Resource) -> None:
    """A signed resource parses, renders to the same bytes, and verifies."""
    value = SIGNER.sign(PLACE, render(resource))
    assert render(parse(value, where=PLACE)) == value
    assert verify(PLACE, value) == SIGNER.chain
    assert strip(value) == render(resource)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_any_byte_changed(position: int, change: int) -> None:
    """A value of which any byte is changed does not verify."""
    changed = bytearray(SIGNED)
    changed[position] ^= change
    with pytest.raises(BadSignature):
        verify(PLACE, bytes(changed))


@given(st.integers(0, len(SIGNED)), st.binary(min_size=1, max_size=4))
def test_anything_put_in(position: int, more: bytes) -> None:
    """A value into which anything is put does not verify."""
    with pytest.raises(BadSignature):
        verify(PLACE, SIGNED[:position] + more + SIGNED[position:])


@given(st.text(max_size=20).filter(lambda place: place != PLACE))
def test_moved(place: str) -> None:
    """A value moved to another key does not verify there."""
    with pytest.raises(BadSignature, match="was signed for"):
        verify(place, SIGNED)


@pytest.mark.parametrize("value", [VALUE, b"", b"kind: Node", b"[]", b"\xff", b"[" * 5000])
def test_unsigned(value: bytes) -> None:
    """What is not signed is told from what is signed wrongly."""
    with pytest.raises(Unsigned):
        verify(PLACE, value)


def test_signing_again_replaces() -> None:
    """What is signed already is signed anew, not twice."""
    other = KEYS.node("web-2")
    assert verify(PLACE, other.sign(PLACE, SIGNED)) == other.chain


@pytest.mark.parametrize("text", ["", "..", "a..b", "e30..AA", "x" * 20_000, "e30=..AA", "."])
def test_no_signature(text: str) -> None:
    """A signature field that holds something else is refused."""
    with pytest.raises(BadSignature):
        verify(PLACE, b'{"signature":"' + text.encode() + b'"}')
