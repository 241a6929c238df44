"""One spelling for each path, so that routing and authorization mean the same requests by the same words.

Pure. A path has many spellings that servers take for one: ``/a/../b``, ``//b``, ``/%62``, ``/x%2F..%2Fb``. A
rule that compared them as they came could be walked around. So before anything is compared: the query and
the fragment go; escapes of characters that need none, and of slashes, are decoded once, never twice; all
others are written in capitals; backslashes are slashes; slashes are merged; dot segments are resolved, also
those that come with parameters (``/..;x/``), which Java's servers resolve once they have cut these off.
Source: RFC 3986 sections 5.2.4 and 6.2.2; the handling of slashes is Istio's DECODE_AND_MERGE_SLASHES.

Whether an escaped slash parts segments is for the workload to say: some decode it before they look for
segments, some after. So it is sent on as it came (`forwardable`), and whoever lets requests in must let in
each of the paths that a workload may take it for (`readings`).
"""

import re
from typing import Final

# RFC 3986 section 2.3.
_DECODED: Final = {
    f"{ord(character):02X}": character
    for character in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
}
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})?|[^\x21-\x7e]|\\")
_SLASHES: Final = re.compile(r"/{2,}")
_ESCAPED_SLASH: Final = re.compile(r"%(?:2F|5C)")
# Nearly every path: nothing in it is escaped or needs to be. Double slashes and dots are looked for apart.
_PLAIN: Final = re.compile(r"/[\x21\x22\x24\x26-\x3e\x40-\x5b\x5d-\x7e]*\Z")
_DOTS: Final = frozenset({".", ".."})


def normalise(path: str) -> str:
    """Give the one spelling of a request's path: absolute, without query, escaped slashes decoded.

    Normalising it again changes nothing. ``*``, as in ``OPTIONS *``, stays as it is; an empty path is ``/``.
    """
    kept = _spell(_path_of(path))
    return _resolve(_ESCAPED_SLASH.sub("/", kept)) if _ESCAPED_SLASH.search(kept) else kept


def forwardable(target: str) -> str:
    """Give what is sent on for a request's target: its path in one spelling, and its query as it came.

    The spelling is that of `normalise`, but for escaped slashes, which stay. Doing it again changes nothing.
    """
    path, mark, query = target.partition("#")[0].partition("?")
    return f"{_spell(path)}{mark}{query}"


def readings(path: str) -> tuple[str, ...]:
    """Give every path that a workload may take a request's for; what `normalise` gives is the first.

    There is one, unless a slash is escaped. Some servers decode ``%2F`` and not ``%5C``, and the other way.
    """
    kept = _spell(_path_of(path))
    if not _ESCAPED_SLASH.search(kept):
        return (kept,)
    ways = (
        _ESCAPED_SLASH.sub("/", kept),
        kept,
        kept.replace("%2F", "/"),
        kept.replace("%5C", "/"),
    )
    return tuple(dict.fromkeys(map(_resolve, ways)))


def canonical_escapes(text: str) -> str:
    """Write every escape, and every character that needs one, in the one way; also of a part of a path."""
    return _ESCAPED_SLASH.sub("/", kept_escapes(text))


def kept_escapes(text: str) -> str:
    """As `canonical_escapes`, but slashes that are escaped stay so."""
    return _ESCAPE.sub(_canonical, text)


def _path_of(target: str) -> str:
    return target.partition("#")[0].partition("?")[0]


def _spell(path: str) -> str:
    if path == "*":
        return path
    if not _PLAIN.match(path):
        path = kept_escapes(f"/{path}")
    return _resolve(path)


def _resolve(path: str) -> str:
    """Merge slashes and resolve dot segments."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    if "/." not in path:
        return path
    segments: list[str] = []
    dots = False
    for segment in path[1:].split("/"):
        bare = segment.partition(";")[0]
        dots = bare in _DOTS
        if bare == "..":
            del segments[-1:]
        elif bare != ".":
            segments.append(segment)
    # A path that ended in a dot segment names what is below, as one that ended in a slash.
    return f"/{'/'.join(segments)}{'/' if segments and dots else ''}"


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
