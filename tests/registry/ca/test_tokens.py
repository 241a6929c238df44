"""Join tokens as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.ca import tokens
from registry.errors import InvalidResource, Unauthenticated

TEXT = tokens.TokenText(id="0123456789abcdef", secret="s" * 43, fingerprint="f" * 64)


def test_round_trip() -> None:
    """A token written and read is the same token, with the root's fingerprint last."""
    assert tokens.parse_token(str(TEXT)) == TEXT
    assert str(TEXT).split(".") == ["nm1", TEXT.id, TEXT.secret, TEXT.fingerprint]


@given(st.text())
def test_anything_else(text: str) -> None:
    """Any other text is no token, and is not an error of another kind."""
    with pytest.raises(Unauthenticated):
        tokens.parse_token(text)


@pytest.mark.parametrize(
    "text",
    [
        str(TEXT) + "\n",
        str(TEXT).upper(),
        str(TEXT).replace("nm1", "nm2"),
        str(TEXT) + ".x",
        str(TEXT).replace("0123456789abcdef", "../../ca/keys/root"),
    ],
)
def test_nearly(text: str) -> None:
    """Nearly a token is none: its id becomes a key in the store."""
    with pytest.raises(Unauthenticated):
        tokens.parse_token(text)


def test_secret() -> None:
    """A secret fits its own hash and no other's."""
    assert tokens.secret_fits("secret", tokens.hash_secret("secret"))
    assert not tokens.secret_fits("Secret", tokens.hash_secret("secret"))


def test_secret_not_in_logs() -> None:
    """A token's repr, which may reach a log, has no secret in it."""
    assert TEXT.secret not in repr(TEXT)


@pytest.mark.parametrize(
    ("pattern", "node", "covered"),
    [
        ("web-1", "web-1", True),
        ("web-1", "web-10", False),
        ("web-*", "web-1", True),
        ("web-*", "api-1", False),
        ("web-?", "web-1", True),
        ("web-[12]", "web-3", False),
        ("*", "anything", True),
    ],
)
def test_covers(pattern: str, node: str, covered: bool) -> None:
    """Patterns are the shell's, matched against the whole name."""
    assert tokens.covers(pattern, node) is covered


@pytest.mark.parametrize("pattern", ["", "Web-*", "web 1", "web/1", "w" * 64, "web-*\n", "a.b"])
def test_patterns_no_node_can_match(pattern: str) -> None:
    """A pattern that no node's name can match is a mistake, said at once."""
    with pytest.raises(InvalidResource, match="no node name"):
        tokens.check_pattern(pattern)


def test_names_one_node() -> None:
    """Only a pattern without wildcards names one node."""
    assert tokens.names_one_node("web-1")
    assert not any(map(tokens.names_one_node, ("*", "web-?", "web-[1]")))
