"""Rules about the same callers and the same port, found by the path or the host of a request.

Pure. A rule all of whose targets name paths is filed under each of these, or else under the hosts that it
names: exact ones, and what is left of patterns when they are cut. A request looks at what it could be filed
under itself, which is little, and at the rules that name neither.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from registry.rules import facts
from registry.rules.facts import Facts
from registry.rules.matching import Alternatives, Condition, all_hold, any_holds
from registry.rules.paths import canonical_escapes
from registry.rules.patterns import bare_hosts

# A rule that names more is one look-up itself, and needs no place for each.
_MAX_PLACES: Final = 64


class Match(NamedTuple):
    """A rule that matches."""

    policy: str
    rule: int


class Entry(NamedTuple):
    """One alternative of a rule's callers with the rest of the rule; `order` is that of asking one by one."""

    order: int
    match: Match
    conditions: tuple[Condition, ...]
    targets: Alternatives

    def holds(self, request: Facts) -> bool:
        """Whether the rule matches in this alternative."""
        return all_hold(self.conditions, request) and any_holds(self.targets, request)


class _Texts:
    """Entries by a text: the whole of it, its beginning or its end."""

    __slots__ = ("exact", "prefixes", "suffixes")

    def __init__(self) -> None:
        self.exact: dict[str, list[Entry]] = {}
        # By length.
        self.prefixes: dict[int, dict[str, list[Entry]]] = {}
        self.suffixes: dict[int, dict[str, list[Entry]]] = {}

    def file(self, entry: Entry, pattern: str) -> None:
        if pattern.endswith("*"):
            cut = pattern.removesuffix("*")
            place = self.prefixes.setdefault(len(cut), {})
        elif pattern.startswith("*"):
            cut = pattern.removeprefix("*")
            place = self.suffixes.setdefault(len(cut), {})
        else:
            cut, place = pattern, self.exact
        place.setdefault(cut, []).append(entry)

    def look(self, text: str) -> Iterator[list[Entry]]:
        if (found := self.exact.get(text)) is not None:
            yield found
        for length, place in self.prefixes.items():
            if (found := place.get(text[:length])) is not None:
                yield found
        for length, place in self.suffixes.items():
            # A longer end than the text has is no end of it.
            if (found := place.get(text[-length:])) is not None:
                yield found


class Shelf:
    """Entries by path, by host, and those for any; each list in order."""

    __slots__ = ("_hosts", "_paths", "_rest")

    def __init__(self) -> None:
        self._rest: list[Entry] = []
        self._paths: _Texts | None = None
        self._hosts: _Texts | None = None

    def file(self, entry: Entry) -> None:
        """Add an entry; each comes later in order than those before."""
        if (paths := _named(entry.targets, facts.PATH)) is not None:
            self._paths = self._paths or _Texts()
            for pattern in _path_places(paths):
                self._paths.file(entry, pattern)
        elif (hosts := _named(entry.targets, facts.HOST)) is not None:
            self._hosts = self._hosts or _Texts()
            for pattern in dict.fromkeys(pattern.lower() for pattern in hosts):
                self._hosts.file(entry, pattern)
        else:
            self._rest.append(entry)

    def look(self, request: Facts) -> Iterator[list[Entry]]:
        """Give what a request may match."""
        if self._rest:
            yield self._rest
        if self._paths is not None:
            yield from self._paths.look(request.path)
        if self._hosts is not None:
            for host in bare_hosts(request.host):
                yield from self._hosts.look(host)


def _named(targets: Alternatives, subject: int) -> tuple[str, ...] | None:
    """Give the paths or hosts without which the rule cannot match; None when it can, or they are too many."""
    found: list[str] = []
    for conditions in targets:
        values = _values(conditions, subject)
        if values is None:
            return None
        found.extend(values)
    return tuple(found) if found and len(found) <= _MAX_PLACES else None


def _values(conditions: Sequence[Condition], subject: int) -> tuple[str, ...] | None:
    for condition in conditions:
        if condition.subject == subject and condition.wanted and "*" not in condition.values:
            return condition.values
    return None


def _path_places(patterns: Iterable[str]) -> dict[str, None]:
    """Give where paths are filed: templates by what they begin with."""
    return dict.fromkeys(
        f"{canonical_escapes(pattern.partition('{')[0])}*" if "{" in pattern else canonical_escapes(pattern)
        for pattern in patterns
    )
