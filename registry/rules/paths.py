"""One spelling for each path, so that routing and authorization mean the same requests by the same words.

Pure. A path has many spellings that servers take for one: ``/a/../b``, ``//b``, ``/%62``, ``/x%2F..%2Fb``. A
rule that compared them as they came could be walked around. So before anything is compared: the query and
the fragment go; escapes of characters that need none, and of slashes, are decoded once, never twice; all
others are written in capitals; backslashes are slashes; slashes are merged; dot segments are resolved.
Source: RFC 3986 sections 5.2.4 and 6.2.2; the handling of slashes is Istio's DECODE_AND_MERGE_SLASHES.
"""

import re
from typing import Final

# RFC 3986 section 2.3; besides them the slashes, which servers decode before they look for segments.
_DECODED: Final = {
    f"{ord(character):02X}": character
    for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
} | {"5C": "/"}
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?|[^\x21-\x7e]|\\")
_SLASHES: Final = re.compile(r"/{2,}")


def normalise(path: str) -> str:
    """Give the one spelling of a request's path: absolute, without query.

    Normalising it again changes nothing. ``*``, as in ``OPTIONS *``, stays as it is; an empty path is ``/``.
    """
    if path == "*":
        return path
    text = path.partition("#")[0].partition("?")[0]
    text = _SLASHES.sub("/", canonical_escapes(f"/{text}"))
    if "/." not in text:
        return text
    segments: list[str] = []
    for segment in text[1:].split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(segment)
    # A path that ended in a dot segment names what is below, as one that ended in a slash.
    ending = "/" if segments and text.endswith(("/.", "/..")) else ""
    return f"/{'/'.join(segments)}{ending}"


def canonical_escapes(text: str) -> str:
    """Write every escape, and every character that needs one, in the one way; also of a part of a path."""
    return _ESCAPE.sub(_canonical, text)


def _canonical(found: re.Match[str]) -> str:
    text = found[0]
    if text == "\\":
        return "/"
    if text == "%":
        # No escape: the sign itself, which from now on is written as one.
        return "%25"
    if text.startswith("%"):
        digits = text[1:].upper()
        return _DECODED.get(digits, f"%{digits}")
    # Half of a surrogate pair can come from bytes that were no UTF-8.
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))
