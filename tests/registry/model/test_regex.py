import pytest

from registry.model.regex import InvalidRegex, compile_regex


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("(", "missing )"),
        ("(?=a)", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("a{1001}", "invalid repetition size"),
        (r"\pL{1,300}", "too large"),
        ("([a-z]{1,100}){1,10}", "2023 steps"),
        ("a" * 1025, "1025 characters"),
    ],
)
def test_refused(text: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What RE2 does not take, and what would cost too much, is refused with a reason; nothing is printed."""
    with pytest.raises(InvalidRegex, match=reason.replace(")", r"\)")) as caught:
        compile_regex(text)
    assert caught.value.mend
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["/v[0-9]+/.*", r"\pL+", "(?i)on|off", "a" * 1024, "(a+)+b"])
def test_taken(text: str) -> None:
    """Ordinary expressions are taken, also those that make backtracking matchers slow."""
    assert compile_regex(text) is not None


def test_linear() -> None:
    """An expression that takes a backtracking matcher exponential time is done at once."""
    assert compile_regex("(a|a)*(a|a)*b").fullmatch("a" * 100_000) is None
