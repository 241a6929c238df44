"""How fields and values are named when something is wrong with them.

Pure. Paths are built only for errors: a hostile document may hold a long name above many values.
"""

import json
import re
from typing import Final, Union

from registry.errors import InvalidResource

# The deepest field of the model is at 9; the rest is room for kinds to come.
MAX_DEPTH: Final = 32

# The way to a value, innermost step last; None is the document itself.
Trail = Union["tuple[Trail, str | int]", None]

_PLAIN_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")


def show(value: object) -> str:
    """Give a value as people would write it, cut short when it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def clip(text: str) -> str:
    """Cut text that quotes what somebody wrote, so that an error stays small whatever the document holds."""
    return text if len(text) <= 200 else f"{text[:196]} ..."


def field_path(path: str, field: str | int) -> str:
    """Give the path of `field` within `path`, as people write it: ``spec.ports[0].name``."""
    if isinstance(field, int):
        return f"{path}[{field}]"
    if not _PLAIN_FIELD.fullmatch(field):
        return f"{path}[{show(field)}]"
    return f"{path}.{field}" if path else field


def trail_path(trail: Trail) -> str:
    """Give the path that a trail stands for."""
    steps: list[str | int] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    path = ""
    for step in reversed(steps):
        path = field_path(path, step)
    return path


def repeated_field(where: str, trail: Trail) -> InvalidResource:
    """Say that a field stands twice in one mapping."""
    return InvalidResource(
        where=where, path=trail_path(trail), reason="stands twice", mend="keep one of them"
    )


def too_deep(where: str, trail: Trail = None) -> InvalidResource:
    """Say that a document is nested deeper than anything of ours is."""
    return InvalidResource(
        where=where, path=trail_path(trail), reason=f"is nested deeper than {MAX_DEPTH} levels"
    )
