"""A problem of a resource, and the checks of labels that several kinds share. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from registry.model.fields import field_path, show

# Kubernetes: label keys and values, and the domain that may stand before a key.
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_LABEL_DOMAIN: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at the field `path`, why, and what to write instead."""

    path: str
    reason: str
    mend: str = ""


def label_key_problems(labels: Mapping[str, str], path: str) -> Iterator[Problem]:
    """Find keys that Kubernetes would not take."""
    for key in labels:
        domain, slash, name = key.rpartition("/")
        if not _LABEL_NAME.match(name) or (slash and not _LABEL_DOMAIN.match(domain)):
            yield Problem(
                field_path(path, key),
                "is not a well-formed key",
                "write letters, digits, dashes, dots and underscores, at most 63, perhaps after domain/",
            )


def label_problems(labels: Mapping[str, str], path: str) -> Iterator[Problem]:
    """Find keys and values that Kubernetes would not take."""
    yield from label_key_problems(labels, path)
    for key, value in labels.items():
        if value and not _LABEL_NAME.match(value):
            yield Problem(
                field_path(path, key),
                f"{show(value)} is not a well-formed label value",
                "write letters, digits, dashes, dots and underscores, at most 63, "
                "with a letter or digit at both ends",
            )


def repeated_problems(values: Iterable[object], path: str, field: str) -> Iterator[Problem]:
    """Find values that stand twice; None, which is nothing, may. `field` is what they are within a member."""
    first: dict[object, int] = {}
    member = f".{field}" if field else ""
    for i, value in enumerate(values):
        if value is not None and first.setdefault(value, i) != i:
            yield Problem(
                f"{path}[{i}]{member}", f"{value} is already taken by {path}[{first[value]}]", "write another"
            )
