"""What rules change of requests and answers: new values, nothing is changed in place. Pure."""

from collections.abc import Iterable
from typing import Final

from registry.rules.paths import forwardable, normalise
from registry.rules.routing.call import Fields
from registry.rules.routing.values import HeaderChange, PathChange, Rewrite, RouteMatch

_ESCAPED_SLASHES: Final = ("%2F", "%5C")


def change_headers(fields: Fields, changes: Iterable[HeaderChange]) -> Fields:
    """Give a header, names in lower case, with `changes` made one after the other.

    What is added comes in a line of its own, which means the same as the end of a line that is there
    (RFC 9110 section 5.2).
    """
    for change in changes:
        if change.set:
            replaced = {name for name, _ in change.set}
            fields = [*(field for field in fields if field[0] not in replaced), *change.set]
        if change.add:
            fields = [*fields, *change.add]
        if change.remove:
            fields = [field for field in fields if field[0] not in change.remove]
    return fields


def rewrite(authority: bytes, target: bytes, match: RouteMatch, change: Rewrite) -> tuple[bytes, bytes]:
    """Give the authority and the target (path and query) that the backend hears."""
    if change.hostname is not None:
        authority = change.hostname
    if change.path is not None:
        target = change_path(target, match.prefix, change.path)
    return authority, target


def change_path(target: bytes, prefix: str | None, change: PathChange) -> bytes:
    """Give a target with its path replaced, or the prefix that matched; the query stays as it is.

    Args:
        target: path and query; ``*`` stays as it is.
        prefix: what matched (`RouteMatch.prefix`); None, where there is nothing to replace, leaves the path.
        change: what to put in its place.
    """
    path, mark, query = forwardable(target.decode("latin-1")).partition("?")
    if path == "*":
        return target
    if not change.prefix:
        path = change.value
    elif prefix is not None:
        path = change.value.rstrip("/") + _behind(path, prefix)
    return f"{path if path.startswith('/') else f'/{path}'}{mark}{query}".encode("latin-1")


def _behind(path: str, prefix: str) -> str:
    """Give what follows a prefix that the path, in its one spelling, has."""
    if any(escape in path for escape in _ESCAPED_SLASHES):
        normal = normalise(path)
        plain = path
        for escape in _ESCAPED_SLASHES:
            plain = plain.replace(escape, "/")
        # Where escaped slashes hide dot segments, these would lead out of what takes the prefix's place.
        if plain != normal or not f"{path}/".startswith(f"{prefix}/"):
            path = normal
    return path[len(prefix) :]
