"""The way to a rule: what each match of each rule has to say to a request, and why. Pure.

Asks every entry one after the other, where `RouteTable.match` looks into an index; both come to the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from registry.rules.routing.call import HttpCall
from registry.rules.routing.index import Entry
from registry.rules.routing.matching import PathKind, PathTest, TextTest
from registry.rules.routing.table import RouteTable
from registry.rules.routing.values import RouteMatch, RoutingRule


@dataclass(frozen=True, slots=True)
class RouteMiss:
    """A field that was in the way: what it wants, and what the request has."""

    field: str
    wanted: str
    found: str


@dataclass(frozen=True, slots=True)
class MatchVerdict:
    """What one match of a rule says: the fields `because` of which it holds, or the `misses`.

    `number` is the match's in its rule; `chosen`: it is the one that decides.
    """

    rule: RoutingRule
    number: int
    matched: bool
    chosen: bool
    because: tuple[str, ...] = ()
    misses: tuple[RouteMiss, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """The answer of `RouteTable.match`, and what each match says, in the order of precedence."""

    found: RouteMatch | None
    verdicts: tuple[MatchVerdict, ...]


def explain_route(table: RouteTable, call: HttpCall) -> RouteExplanation:
    """Say which rule a request goes by, and why no other."""
    ordered = sorted(table.entries, key=lambda entry: (*_host_rank(entry, call.hostname), *entry.precedence))
    found: RouteMatch | None = None
    verdicts = []
    for entry in ordered:
        misses = tuple(_misses(entry, call))
        matched = not misses
        chosen = matched and found is None
        if chosen:
            found = entry.match
        verdicts.append(
            MatchVerdict(
                rule=entry.match.rule,
                number=entry.match.number,
                matched=matched,
                chosen=chosen,
                because=tuple(_because(entry)) if matched else (),
                misses=misses,
            )
        )
    return RouteExplanation(found, tuple(verdicts))


def matching_hostname(entry: Entry, host: str) -> str | None:
    """Give the most specific of an entry's hostnames that a host matches; empty where all hosts do."""
    if not entry.hostnames:
        return ""
    if host in entry.hostnames:
        return host
    wild = [
        name
        for name in entry.hostnames
        if name.startswith("*") and host.endswith(name[1:]) and len(host) >= len(name)
    ]
    return max(wild, key=len, default=None)


def _host_rank(entry: Entry, host: str) -> tuple[int, int]:
    """Order entries by the hostname that matches: exact, the longest wildcard, all hosts, none."""
    name = matching_hostname(entry, host)
    if name is None:
        return (3, 0)
    if not name:
        return (2, 0)
    return (1, -len(name)) if name.startswith("*") else (0, -len(name))


def _misses(entry: Entry, call: HttpCall) -> Iterator[RouteMiss]:
    tests = entry.tests
    if matching_hostname(entry, call.hostname) is None:
        yield RouteMiss("spec.hostnames", " or ".join(entry.hostnames), call.hostname or "no host")
    if not tests.path.holds(call.normal_path):
        yield RouteMiss(tests.path.field, _wanted_path(tests.path), call.normal_path)
    if tests.method is not None and tests.method != call.method:
        yield RouteMiss(f"{tests.field}.method", tests.method, call.method)
    for test in tests.headers:
        if not test.holds(value := call.headers.get(test.name)):
            yield RouteMiss(test.field, _wanted(test), _found(value))
    for test in tests.params:
        if not test.holds(value := call.parameter(test.name)):
            yield RouteMiss(test.field, _wanted(test), _found(value))


def _because(entry: Entry) -> Iterator[str]:
    tests = entry.tests
    if entry.hostnames:
        yield "spec.hostnames"
    if tests.path.kind is not PathKind.ANY:
        yield tests.path.field
    if tests.method is not None:
        yield f"{tests.field}.method"
    yield from (test.field for test in (*tests.headers, *tests.params))


def _wanted_path(test: PathTest) -> str:
    match test.kind:
        case PathKind.EXACT:
            return test.value
        case PathKind.PREFIX:
            return f"{test.value} or below"
        case PathKind.REGEX:
            return f"all of the expression {test.value}"
        case PathKind.METHOD:
            return f"the method {test.value} of a service"
        case PathKind.ANY:
            return "anything"


def _wanted(test: TextTest) -> str:
    how = "=" if test.regex is None else "~"
    return f"{test.name}{how}{test.value}"


def _found(value: str | None) -> str:
    return "nothing" if value is None else value or "an empty value"
