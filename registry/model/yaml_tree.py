"""YAML to plain values, as strict as JSON.

Pure. The text is read event by event into a tree of our own: no tags, no aliases (so no alias bombs),
no recursion, no field twice. Plain scalars are as in YAML 1.2: ``no`` and ``12:30`` are text.
"""

import re
from dataclasses import dataclass
from typing import Final

import yaml

from registry.errors import InvalidResource
from registry.model.fields import MAX_DEPTH, Trail, repeated_field, show, too_deep, trail_path

# libyaml when PyYAML was built with it; the events are the same.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
# No wider than PyYAML's own, so that text which it writes without quotes is read as text.
_FLOAT: Final = re.compile(r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
# Holds every 64-bit number with its sign; a longer one is not worth converting.
_MAX_DIGITS: Final = 20
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_QUOTE_STAR: Final = 'a value that begins with * must be in quotes, as in "*"'


def read_yaml(text: str, *, where: str) -> list[object]:
    """Give the value of each YAML document in `text`; an empty document is None.

    Raises:
        InvalidResource: no YAML, or YAML that JSON could not say.
    """
    documents = []
    tree = _Tree(where)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            match event:
                case yaml.DocumentStartEvent():
                    tree = _Tree(where)
                case yaml.DocumentEndEvent():
                    documents.append(tree.root)
                case yaml.ScalarEvent():
                    tree.add_scalar(event)
                case yaml.MappingStartEvent():
                    tree.open(event, {})
                case yaml.SequenceStartEvent():
                    tree.open(event, [])
                case yaml.CollectionEndEvent():
                    tree.close()
                case yaml.AliasEvent():
                    raise tree.fault(
                        f"{show(f'*{event.anchor}')} is a YAML alias, which is not accepted", _QUOTE_STAR
                    )
                case _:
                    pass
    except yaml.YAMLError as error:
        reason, mend = _describe(error)
        raise InvalidResource(where=where, path="", reason=reason, mend=mend) from None
    return documents


@dataclass(slots=True)
class _Open:
    """A container that is being filled; in a mapping `key` is the field that awaits its value."""

    container: dict[str, object] | list[object]
    trail: Trail
    key: str | None = None

    @property
    def expects_key(self) -> bool:
        return isinstance(self.container, dict) and self.key is None

    @property
    def here(self) -> Trail:
        """The place of what comes next."""
        if isinstance(self.container, list):
            return self.trail, len(self.container)
        return self.trail if self.key is None else (self.trail, self.key)

    def add(self, value: object) -> None:
        if isinstance(self.container, list):
            self.container.append(value)
        elif self.key is not None:
            self.container[self.key] = value
            self.key = None


class _Tree:
    """One YAML document while it grows."""

    def __init__(self, where: str) -> None:
        self.root: object = None
        self._where = where
        self._open: list[_Open] = []

    def add_scalar(self, event: yaml.ScalarEvent) -> None:
        if event.tag not in (None, _TEXT_TAG):
            raise self.fault(f"the tag {show(event.tag)} is not accepted", "remove it")
        if self._open and self._open[-1].expects_key:
            parent = self._open[-1]
            if event.value in parent.container:
                raise repeated_field(self._where, (parent.trail, event.value))
            parent.key = event.value
            return
        plain = event.tag is None and event.implicit[0]
        self._add(self._resolve(event.value) if plain else event.value)

    def open(self, event: yaml.CollectionStartEvent, container: dict[str, object] | list[object]) -> None:
        if event.tag is not None:
            raise self.fault(f"the tag {show(event.tag)} is not accepted", "remove it")
        if self._open and self._open[-1].expects_key:
            raise self.fault("a field's name is not text", "write names as plain words")
        trail = self._open[-1].here if self._open else None
        if len(self._open) > MAX_DEPTH:
            raise too_deep(self._where, trail)
        self._add(container)
        self._open.append(_Open(container, trail))

    def close(self) -> None:
        self._open.pop()

    def fault(self, reason: str, mend: str) -> InvalidResource:
        path = trail_path(self._open[-1].here) if self._open else ""
        return InvalidResource(where=self._where, path=path, reason=reason, mend=mend)

    def _add(self, value: object) -> None:
        if self._open:
            self._open[-1].add(value)
        else:
            self.root = value

    def _resolve(self, text: str) -> object:
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > _MAX_DIGITS:
                raise self.fault("the number is out of range", "")
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else text


def _describe(error: yaml.YAMLError) -> tuple[str, str]:
    if not isinstance(error, yaml.MarkedYAMLError):
        return "is not valid YAML: it holds characters that YAML forbids", ""
    mark = error.problem_mark
    place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    mend = _QUOTE_STAR if error.context == "while scanning an alias" else ""
    return f"is neither JSON nor valid YAML: {error.problem}{place}", mend
