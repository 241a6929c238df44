"""Which of many rules a request matches first, without asking them all. Pure.

Entries are filed by host, and below that by their path: exact ones and prefixes in dictionaries, where a
request looks up its own path and what is left of it when segments are cut off. Regular expressions are asked
together. The answer is that of asking each entry in the order of precedence.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from registry.rules.routing.call import HttpCall
from registry.rules.routing.matching import PathKind, Tests
from registry.rules.routing.regex import RegexIndex
from registry.rules.routing.values import RouteMatch

# RFC 1123: no hostname of a route is longer, so that of a longer host nothing needs to be looked up.
MAX_HOSTNAME = 253


@dataclass(frozen=True, slots=True)
class Entry:
    """One match of one rule; `hostnames` are the route's, none are all. `revision` is when it was made."""

    tests: Tests
    match: RouteMatch
    hostnames: tuple[str, ...]
    revision: int

    @property
    def precedence(self) -> tuple[object, ...]:
        """What decides between entries whose hostnames do not; the smaller goes first."""
        rule = self.match.rule
        return (*self.tests.precedence, self.revision, rule.route, rule.number, self.match.number)


class EntryIndex:
    """Entries by host and path."""

    __slots__ = ("_any_host", "_by_host", "_by_suffix")

    def __init__(self, entries: Sequence[Entry]) -> None:
        by_host: defaultdict[str, list[Entry]] = defaultdict(list)
        by_suffix: defaultdict[str, list[Entry]] = defaultdict(list)
        any_host: list[Entry] = []
        for entry in sorted(entries, key=lambda each: each.precedence):
            for hostname in dict.fromkeys(entry.hostnames):
                if hostname.startswith("*"):
                    by_suffix[hostname[1:]].append(entry)
                else:
                    by_host[hostname].append(entry)
            if not entry.hostnames:
                any_host.append(entry)
        self._by_host = {host: _PathIndex(found) for host, found in by_host.items()}
        self._by_suffix = {suffix: _PathIndex(found) for suffix, found in by_suffix.items()}
        self._any_host = _PathIndex(any_host)

    def first(self, call: HttpCall) -> RouteMatch | None:
        """Give the match that goes before all others that hold."""
        if self._by_host or self._by_suffix:
            host = call.hostname
            if len(host) <= MAX_HOSTNAME and (found := self._of_host(host, call)) is not None:
                return found
        return self._any_host.first(call)

    def _of_host(self, host: str, call: HttpCall) -> RouteMatch | None:
        index = self._by_host.get(host)
        if index is not None and (found := index.first(call)) is not None:
            return found
        if self._by_suffix:
            # A wildcard stands for at least one character: a suffix begins after the first.
            dot = host.find(".", 1)
            while dot != -1:
                index = self._by_suffix.get(host[dot:])
                if index is not None and (found := index.first(call)) is not None:
                    return found
                dot = host.find(".", dot + 1)
        return None


class _PathIndex:
    """The entries for one host, given in order of precedence."""

    __slots__ = ("_any", "_by_method", "_by_prefix", "_exact", "_longest", "_regexes", "_with_regex")

    def __init__(self, entries: Iterable[Entry]) -> None:
        exact: defaultdict[str, list[Entry]] = defaultdict(list)
        by_prefix: defaultdict[str, list[Entry]] = defaultdict(list)
        by_method: defaultdict[str, list[Entry]] = defaultdict(list)
        self._with_regex: list[Entry] = []
        self._any: list[Entry] = []
        for entry in entries:
            path = entry.tests.path
            match path.kind:
                case PathKind.EXACT:
                    exact[path.value].append(entry)
                case PathKind.REGEX:
                    self._with_regex.append(entry)
                case PathKind.PREFIX:
                    by_prefix[path.value].append(entry)
                case PathKind.METHOD:
                    by_method[path.value].append(entry)
                case PathKind.ANY:
                    self._any.append(entry)
        self._exact = dict(exact)
        self._by_prefix = dict(by_prefix)
        self._by_method = dict(by_method)
        self._regexes = RegexIndex([entry.tests.path.value for entry in self._with_regex])
        self._longest = max(map(len, by_prefix), default=0)

    def first(self, call: HttpCall) -> RouteMatch | None:
        path = call.normal_path
        entries = self._exact.get(path)
        if entries is not None and (found := _first(entries, call)) is not None:
            return found
        if self._with_regex:
            for place in self._regexes.matches(path):
                entry = self._with_regex[place]
                if entry.tests.rest_holds(call):
                    return entry.match
        if self._by_prefix and (found := self._of_prefix(path, call)) is not None:
            return found
        if self._by_method and path.count("/") == 2:
            entries = self._by_method.get(path.rpartition("/")[2])
            if entries is not None and (found := _first(entries, call)) is not None:
                return found
        return _first(self._any, call) if self._any else None

    def _of_prefix(self, path: str, call: HttpCall) -> RouteMatch | None:
        # What is longer than every prefix is cut off first: a path of 16 KiB of slashes costs no more.
        end = len(path)
        if end > self._longest:
            end = self._longest if path[self._longest] == "/" else path.rfind("/", 0, self._longest)
        while end > 0:
            entries = self._by_prefix.get(path[:end])
            if entries is not None and (found := _first(entries, call)) is not None:
                return found
            end = path.rfind("/", 0, end)
        return None


def _first(entries: Sequence[Entry], call: HttpCall) -> RouteMatch | None:
    for entry in entries:
        if entry.tests.only_path or entry.tests.rest_holds(call):
            return entry.match
    return None
