"""The values that a policy's fields may hold: each check gives the first thing wrong, and the mend.

Pure. A value that could never match is refused: harmless in ALLOW, it would be an open door in DENY.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from registry.model.authorization import PORT_PATTERN
from registry.model.fields import clip, show
from registry.model.identity import LABEL, InvalidIdentity, NodeIdentity, parse_identity

# What is wrong with a value, and what to write instead.
Wrong = tuple[str, str]
Check = Callable[[str], Wrong | None]

_PORT: Final = re.compile(PORT_PATTERN)
# RFC 9110 section 9.1: a token; in capitals, since methods are compared with case.
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+\Z")
# An escape that is none, of a character that needs none (RFC 3986 section 2.3), or of a slash of either kind:
# requests' paths are compared without them.
_NEEDLESS_ESCAPE: Final = re.compile(
    r"%(?![0-9A-Fa-f]{2})|%(?:2[DEFdef]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaCcFf]|6[1-9A-Fa-f]|7[0-9AaEe])"
)
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(;|/|\Z)")
_OPERATORS: Final = ("{*}", "{**}")


def check_principal(pattern: str) -> Wrong | None:
    """A SPIFFE ID of a workload without its scheme, or a pattern."""
    if pattern.startswith("spiffe://"):
        return (
            "begins with spiffe://",
            f"write it without the scheme: {show(pattern.removeprefix('spiffe://'))}",
        )
    if "*" in pattern:
        return _check_wildcard(pattern)
    try:
        identity = parse_identity(f"spiffe://{pattern}")
    except InvalidIdentity:
        return f"{show(pattern)} is nobody's identity", "write <trust domain>/ns/<namespace>/sa/<account>"
    if isinstance(identity, NodeIdentity):
        return (
            f"{show(pattern)} is a node's identity, and whom a node speaks for is not authenticated",
            "write a workload's: <trust domain>/ns/<namespace>/sa/<account>",
        )
    return None


def check_namespace(pattern: str) -> Wrong | None:
    """A namespace, or a pattern."""
    if "*" in pattern:
        return _check_wildcard(pattern)
    if LABEL.match(pattern):
        return None
    return f"{show(pattern)} is no namespace's name", "write lower-case letters, digits and dashes"


def check_account(text: str) -> Wrong | None:
    """A service account with or without its namespace; Istio has no patterns here."""
    namespace, slash, account = text.rpartition("/")
    if LABEL.match(account) and (LABEL.match(namespace) or not slash):
        return None
    return (
        f"{show(text)} is no service account",
        "write <namespace>/<account>, or an account of the policy's namespace; patterns go under principals",
    )


def check_network(text: str) -> Wrong | None:
    """An address or a network in CIDR form."""
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return clip(f"is no address or network: {error}"), "write one as in 10.1.2.3 or 10.1.0.0/16"
    return None


def check_port(text: str) -> Wrong | None:
    """A port."""
    if _PORT.match(text):
        return None
    return f"{show(text)} is not well-formed", "write a port from 1 to 65535, in quotes"


def check_host(pattern: str) -> Wrong | None:
    """A host with or without a port, or a pattern; case plays no part."""
    bare = pattern.replace("*", "")
    if bare and not _HOST.match(bare):
        return f"{show(pattern)} is no host", "write a name as in api.example.com, *.example.com or api.*"
    return _check_wildcard(pattern)


def check_method(pattern: str) -> Wrong | None:
    """A method in capitals, or a pattern."""
    if not _METHOD.match(pattern):
        return f"{show(pattern)} is no method", f"write it in capitals, as in {show(pattern.upper())}"
    return _check_wildcard(pattern)


def check_plain_path(pattern: str) -> Wrong | None:
    """A path, or part of one, as it is after normalising."""
    if "?" in pattern or "#" in pattern:
        return f"{show(pattern)} has a query or fragment", "write the path alone: they are not compared"
    if _NEEDLESS_ESCAPE.search(pattern):
        return (
            f"{show(pattern)} has an escape that no request's path has once it is normalised",
            "write the character itself",
        )
    if "//" in pattern or "\\" in pattern or _DOT_SEGMENT.search(pattern):
        return (
            f"{show(pattern)} has a segment that no request's path has once it is normalised",
            "write single slashes, and no . or .. between them",
        )
    return None


def check_path(pattern: str) -> Wrong | None:
    """A path as it is after normalising, a pattern, or a template with {*} and {**}."""
    if (wrong := check_plain_path(pattern)) is not None:
        return wrong
    if "{" in pattern or "}" in pattern:
        return _check_template(pattern)
    if not pattern.startswith(("/", "*")):
        return f"{show(pattern)} is no path", f"begin with a slash: {show(f'/{pattern}')}"
    return _check_wildcard(pattern)


def check_text(pattern: str) -> Wrong | None:
    """Any text, or a pattern."""
    return _check_wildcard(pattern)


def _check_template(pattern: str) -> Wrong | None:
    """Istio's path templates: ``{*}`` is one segment, ``{**}`` any number of them and the last operator."""
    segments = pattern.split("/")
    operators = [segment for segment in segments if segment in _OPERATORS]
    rest = [segment for segment in segments if segment not in _OPERATORS]
    if segments[0] or any(set("{}*") & set(segment) for segment in rest) or "{**}" in operators[:-1]:
        return (
            f"{show(pattern)} is no path template",
            "write {*} for one whole segment, {**} for any number as the last of them, and no other *",
        )
    return None


def _check_wildcard(pattern: str) -> Wrong | None:
    if pattern.count("*") > 1 or not ("*" not in pattern or pattern.startswith("*") or pattern.endswith("*")):
        return (
            f"{show(pattern)} has a * where none can be",
            "write a value, prefix*, *suffix or * alone; several patterns make a list",
        )
    return None
