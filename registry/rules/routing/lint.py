"""What is most likely not meant in routes, though each of them is well-formed. Pure.

Precedence puts what asks for more before what asks for less, so that a match can stand in another's shadow
in few ways only: it asks for the same and is younger, or an expression that matches every path goes before.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.tcp_route import TCPRoute
from registry.rules.findings import Check, Finding, Severity
from registry.rules.routing.attachment import attaches
from registry.rules.routing.book import (
    Attached,
    GRPCRoutes,
    HTTPRoutes,
    RouteBook,
    Services,
    TCPRoutes,
)
from registry.rules.routing.compile import Compiler
from registry.rules.routing.index import Entry
from registry.rules.routing.matching import PathKind, TextTest

_EVERY_PATH: Final = frozenset({".*", "/.*", "(.*)", "/(.*)", ".+"})
_ORDER: Final = list(Severity)


def lint_routes(
    *,
    http_routes: HTTPRoutes = (),
    grpc_routes: GRPCRoutes = (),
    tcp_routes: TCPRoutes = (),
    services: Services,
) -> tuple[Finding, ...]:
    """Look for rules that no request can reach, and for those that only answer errors; gravest first."""
    book = RouteBook(
        http_routes=http_routes, grpc_routes=grpc_routes, tcp_routes=tcp_routes, services=services
    )
    found = {
        (finding.kind, finding.policy, finding.path): finding
        for service in services
        for namespace in book.attached(service)
        for port in book.ports(service)
        for finding in _of_port(book, service, port, namespace)
    }
    return tuple(
        sorted(
            found.values(), key=lambda each: (_ORDER.index(each.severity), each.kind, each.policy, each.path)
        )
    )


def _of_port(book: RouteBook, service: str, port: int, namespace: str) -> Iterator[Finding]:
    protocol = book.ports(service)[port]
    here = [
        each
        for each in book.attached(service)[namespace]
        if attaches(each.route, service, port, protocol, each.route.spec.parent_refs)
    ]
    compiler = Compiler(port=port, is_known=lambda name, number: number in book.ports(name))
    http = [(each.route, each.revision) for each in here if isinstance(each.route, HTTPRoute)]
    grpc = [(each.route, each.revision) for each in here if isinstance(each.route, GRPCRoute)]
    if grpc:
        for route, _ in http:
            yield _conflict(route, grpc[0][0].name, f"{service}:{port}")
        entries = [entry for route, revision in grpc for entry in compiler.grpc(route, revision)]
    else:
        entries = [entry for route, revision in http for entry in compiler.http(route, revision)]
    entries.sort(key=lambda entry: entry.precedence)
    yield from _shadowed(entries)
    yield from _useless(entries)
    yield from _younger([each for each in here if isinstance(each.route, TCPRoute)], f"{service}:{port}")


class _Asked(NamedTuple):
    """What a match asks of a request, in a form that is the same for the same."""

    hostname: str
    path: tuple[PathKind, str]
    method: str | None
    headers: frozenset[tuple[str, str, bool]]
    params: frozenset[tuple[str, str, bool]]


def _asked(entry: Entry) -> list[_Asked]:
    tests = entry.tests
    return [
        _Asked(
            hostname,
            (tests.path.kind, tests.path.value),
            tests.method,
            _texts(tests.headers),
            _texts(tests.params),
        )
        for hostname in entry.hostnames or ("",)
    ]


def _texts(tests: Sequence[TextTest]) -> frozenset[tuple[str, str, bool]]:
    return frozenset((test.name, test.value, test.regex is not None) for test in tests)


def _shadowed(entries: Sequence[Entry]) -> Iterator[Finding]:
    first: dict[_Asked, Entry] = {}
    every_path: dict[str, Entry] = {}
    for entry in entries:
        tests = entry.tests
        if tests.path.kind.value > PathKind.REGEX.value:
            above = [every_path.get(hostname) for hostname in entry.hostnames or ("",)]
            if (wide := above[0]) is not None and all(above):
                yield _shadow(entry, wide, "every path matches the expression of", "narrow that expression")
                continue
        elif tests.path.value in _EVERY_PATH and tests.only_path:
            for hostname in entry.hostnames or ("",):
                every_path.setdefault(hostname, entry)
        earlier = [first.setdefault(asked, entry) for asked in _asked(entry)]
        if all(each is not entry for each in earlier):
            yield _shadow(
                entry,
                earlier[0],
                "matches the same requests as",
                "remove one of them, or let it ask for more",
            )


def _shadow(entry: Entry, above: Entry, how: str, mend: str) -> Finding:
    rule, other = entry.match.rule, above.match.rule
    whose = "" if other.route == rule.route else f" of {other.route}"
    return Finding(
        Severity.WARNING,
        Check.SHADOWED,
        rule.kind,
        rule.route,
        entry.tests.field,
        f"{how} {above.tests.field}{whose}, which goes first",
        mend,
    )


def _useless(entries: Sequence[Entry]) -> Iterator[Finding]:
    for rule in dict.fromkeys(entry.match.rule for entry in entries):
        if rule.total or rule.redirect is not None:
            continue
        why = "has backends of weight 0 only" if rule.backends else "has no backend"
        yield Finding(
            Severity.WARNING,
            Check.UNREACHABLE,
            rule.kind,
            rule.route,
            f"spec.rules[{rule.number}].backendRefs",
            f"the rule {why}: it answers every request with 500",
            "give it a backend with a weight",
        )


def _conflict(route: HTTPRoute, other: str, where: str) -> Finding:
    return Finding(
        Severity.ERROR,
        Check.SHADOWED,
        route.KIND,
        route.name,
        "spec.parentRefs",
        f"does not hold at {where}, since the GRPCRoute {other} is attached there",
        "attach it to other ports, or write its rules as a GRPCRoute",
    )


def _younger(routes: Sequence[Attached], where: str) -> Iterator[Finding]:
    ordered = sorted(routes, key=lambda each: (each.revision, each.route.name))
    for each in ordered[1:]:
        yield Finding(
            Severity.ERROR,
            Check.SHADOWED,
            each.route.KIND,
            each.route.name,
            "spec.parentRefs",
            f"does not hold at {where}, since the older {ordered[0].route.name} is attached there",
            "remove one of them",
        )
