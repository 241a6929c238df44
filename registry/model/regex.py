"""Regular expressions in routes and policies: operators write them, callers feed them. Pure.

RE2 takes time linear to the text, and no expression is taken that would make that time long: its length and
the size of its program are bounded. Syntax: https://github.com/google/re2/wiki/Syntax.
"""

from typing import Any, Final

import re2

from registry.model.fields import clip

# Gateway API's bound for paths; nothing longer is written by hand.
MAX_LENGTH: Final = 1024
# In RE2's steps: plain text takes one for each character, `\pL`, any letter there is, some 1,200, and each
# {1,1000} multiplies. The time for a text is at worst this number times the text's length.
MAX_PROGRAM: Final = 2000
# RE2's bound on what it remembers of an expression while matching, in bytes. Its default of 8 MiB is for few
# expressions, and a mesh has many; where this is not enough it is slower, no more.
_MAX_MEMORY: Final = 1 << 20
_SYNTAX: Final = "its syntax is at github.com/google/re2/wiki/Syntax"


class InvalidRegex(ValueError):
    """No expression that is taken; the message says why, `mend` what to write instead."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(reason)
        self.mend = mend


def compile_regex(text: str) -> Any:  # noqa: ANN401 - re2 has no types
    """Compile an expression; what comes has `fullmatch` and `search`, as those of `re`.

    Raises:
        InvalidRegex: RE2 does not understand it, or it is too costly.
    """
    if not text:
        raise InvalidRegex("is empty", "write .* for anything")
    if len(text) > MAX_LENGTH:
        raise InvalidRegex(f"is {len(text)} characters long", f"write at most {MAX_LENGTH}")
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    # To standard error.
    options.log_errors = False
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace")
        raise InvalidRegex(clip(f"is no regular expression: {reason}"), _mend(reason)) from None
    if compiled.programsize > MAX_PROGRAM:
        raise InvalidRegex(
            f"takes {compiled.programsize} steps for each character, and {MAX_PROGRAM} are allowed",
            "repeat less: {1,100} stands for a hundred copies",
        )
    return compiled


def _mend(reason: str) -> str:
    if reason.startswith(("invalid perl operator", "invalid escape sequence")):
        return f"RE2 has no look-around and no back-references; {_SYNTAX}"
    if "too large" in reason or "repetition size" in reason:
        return "repeat less: {1,100} stands for a hundred copies"
    return _SYNTAX
