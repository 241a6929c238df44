import pytest

from registry.model.regex import MAX_PROGRAM, compile_regex
from registry.rules.routing.regex import MAX_TEXT, Regex, RegexIndex


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("a|b", "a", True),
        ("a|b", "ab", False),
        ("a", "a\n", False),
        ("", "", True),
        ("[ä-ö]+", "äö", True),
        (".", "\ud800", True),
        ("x", "\ud800", False),
    ],
)
def test_whole_text(pattern: str, text: str, matches: bool) -> None:
    """An expression is about the whole text; text that is none does no harm."""
    assert Regex(pattern).matches(text) is matches


def test_in_order() -> None:
    """Of many expressions those that match are given in their order."""
    index = RegexIndex([f"[a-z]{{{i}}}|all" for i in range(100)])
    assert list(index.matches("abcdef")) == [6]
    assert list(index.matches("all")) == list(range(100))
    assert list(RegexIndex([]).matches("x")) == []


def test_the_greatest_that_are_accepted() -> None:
    """A full set of expressions as large as any that the parser takes is compiled and answers."""
    size = next(n for n in range(1000, 0, -1) if _program(n) <= MAX_PROGRAM)
    assert _program(size) > MAX_PROGRAM / 2
    index = RegexIndex([_pattern(size) for _ in range(64)])
    assert list(index.matches("a" * size + "é" * size)) == list(range(64))
    assert list(index.matches("a" * size)) == []


def _pattern(size: int) -> str:
    return f"a{{{size}}}[à-ÿ]{{{size}}}"


def _program(size: int) -> int:
    try:
        return int(compile_regex(_pattern(size)).programsize)
    except ValueError:
        return MAX_PROGRAM + 1


def test_hostile() -> None:
    """What takes a backtracking matcher for ever takes none of our time: this test ends."""
    assert not Regex("(a*)*b|(a|aa)+c|(x+x+)+y").matches("a" * MAX_TEXT)


def test_too_long() -> None:
    """What is longer than any text that is looked at matches nothing."""
    for length, matches in ((MAX_TEXT, True), (MAX_TEXT + 1, False)):
        assert Regex("a*").matches("a" * length) is matches
        assert list(RegexIndex(["a*"]).matches("a" * length)) == [0] * matches
