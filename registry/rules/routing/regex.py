"""Regular expressions of routes, by RE2: in time linear to the text, whatever the two say. Pure.

An expression matches the whole text or not at all, as in Envoy. Syntax: github.com/google/re2/wiki/Syntax.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import re2

# What is longer matches no expression: linear is not little, and the worst expressions that are accepted take
# 50 us for each character. Cookies are at most so long, paths far shorter.
MAX_TEXT: Final = 8192
# One automaton for so many expressions; its memory is lent out anew when it is full, which costs time only.
_TOGETHER: Final = 32
_OPTIONS: Final = re2.Options()
_OPTIONS.never_capture = True
_OPTIONS.log_errors = False
# RE2's own default: 64 times what an expression of the greatest size that is accepted needs.
_OPTIONS.max_mem = 8 << 20


class Regex:
    """One expression.

    Raises:
        re2.error: it is none; the parser has refused it long before.
    """

    __slots__ = ("_set", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._set = _compile((pattern,))

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        return len(text) <= MAX_TEXT and self._set.Match(_encoded(text)) is not None


class RegexIndex:
    """Many expressions, asked at once.

    Raises:
        re2.error: one of them is none.
    """

    __slots__ = ("_sets",)

    def __init__(self, patterns: Sequence[str]) -> None:
        self._sets = [
            (start, _compile(patterns[start : start + _TOGETHER]))
            for start in range(0, len(patterns), _TOGETHER)
        ]

    def matches(self, text: str) -> Iterator[int]:
        """Give the places of those that match the whole text, the first first."""
        if len(text) > MAX_TEXT:
            return
        encoded = _encoded(text)
        for start, expressions in self._sets:
            for place in sorted(expressions.Match(encoded) or ()):
                yield start + place


def _compile(patterns: Sequence[str]) -> re2.Set:
    # A set, though it may hold one: it answers in a third of the time that a match object takes.
    expressions = re2.Set.FullMatchSet(_OPTIONS)
    for pattern in patterns:
        expressions.Add(pattern)
    expressions.Compile()
    return expressions


def _encoded(text: str) -> bytes:
    # Half of a surrogate pair is no text, and no rule's either.
    return text.encode("utf-8", "replace")
