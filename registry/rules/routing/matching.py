"""Matches of routes made ready to be asked: each field becomes one test. Pure.

Within a match all fields must hold, of a rule any match. Of several entries about one header or parameter the
first counts, names of headers without regard to case. Paths are compared in their one spelling
(`registry.rules.paths`), those of rules too.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from registry.model.gateway import HeaderMatch, MatchType
from registry.model.grpc_route import GRPCMethodMatch, GRPCRouteMatch
from registry.model.http_route import HTTPRouteMatch, PathMatchType, QueryParamMatch
from registry.rules.paths import normalise
from registry.rules.routing.call import HttpCall
from registry.rules.routing.regex import Regex


class PathKind(enum.Enum):
    """How a path is compared, in the order of precedence; among prefixes and patterns the longer goes first.

    Where regular expressions stand is ours to say: after exact paths, as Envoy Gateway and Istio have it. A
    gRPC method without its service goes before what matches every path, and after all else.
    """

    EXACT = 0
    REGEX = 1
    PREFIX = 2
    METHOD = 3
    ANY = 4


@dataclass(frozen=True, slots=True)
class PathTest:
    """A test of the path; `value` is in the one spelling, of a prefix without the slash at its end."""

    kind: PathKind
    value: str
    field: str
    regex: Regex | None = None

    def holds(self, path: str) -> bool:
        """Whether a path, in its one spelling, matches."""
        match self.kind:
            case PathKind.EXACT:
                return path == self.value
            case PathKind.PREFIX:
                return path == self.value or path.startswith(f"{self.value}/")
            case PathKind.METHOD:
                return path.count("/") == 2 and path.rpartition("/")[2] == self.value
            case PathKind.REGEX:
                return self.regex is not None and self.regex.matches(path)
            case PathKind.ANY:
                return True


@dataclass(frozen=True, slots=True)
class TextTest:
    """A test of the header or the query parameter of this name; exact where there is no expression."""

    name: str
    value: str
    regex: Regex | None
    field: str

    def holds(self, text: str | None) -> bool:
        """Whether it is there and matches."""
        if text is None:
            return False
        return text == self.value if self.regex is None else self.regex.matches(text)


@dataclass(frozen=True, slots=True)
class Tests:
    """One match: what it asks for.

    `field` is its place in the route, as ``spec.rules[0].matches[1]``.
    """

    path: PathTest
    method: str | None
    headers: tuple[TextTest, ...]
    params: tuple[TextTest, ...]
    field: str

    @property
    def only_path(self) -> bool:
        """Whether nothing but the path is asked for."""
        return self.method is None and not self.headers and not self.params

    def rest_holds(self, call: HttpCall) -> bool:
        """Whether all but the path holds."""
        if self.method is not None and call.method != self.method:
            return False
        # Not all(...): a generator would double the cost of the innermost loop.
        for test in self.headers:
            if not test.holds(call.headers.get(test.name)):
                return False
        for test in self.params:  # noqa: SIM110
            if not test.holds(call.parameter(test.name)):
                return False
        return True

    @property
    def precedence(self) -> tuple[object, ...]:
        """What decides between two matches that both hold, the smaller goes first: Gateway API's order."""
        length = 0 if self.path.kind is PathKind.ANY else len(self.path.value)
        return (
            self.path.kind.value,
            -length,
            self.method is None,
            -len(self.headers),
            -len(self.params),
        )


def compile_matches(matches: Sequence[HTTPRouteMatch]) -> Callable[[HttpCall], bool]:
    """Make a test of matches as rules have them, for use outside of routes; none match every request."""
    compiled = [compile_match(match, f"matches[{i}]") for i, match in enumerate(matches)]
    if not compiled:
        return lambda _: True

    def holds(call: HttpCall) -> bool:
        return any(each.path.holds(call.normal_path) and each.rest_holds(call) for each in compiled)

    return holds


def compile_match(match: HTTPRouteMatch, field: str) -> Tests:
    """Make a match of an HTTPRoute ready."""
    value = match.path.value
    where = f"{field}.path"
    match match.path.type:
        case PathMatchType.EXACT:
            path = PathTest(PathKind.EXACT, normalise(value), where)
        case PathMatchType.PATH_PREFIX:
            prefix = normalise(value).rstrip("/")
            path = PathTest(PathKind.PREFIX if prefix else PathKind.ANY, prefix, where)
        case PathMatchType.REGULAR_EXPRESSION:
            path = _regex_path(value, where)
    return Tests(
        path,
        match.method.value if match.method is not None else None,
        _header_tests(match.headers, field),
        _param_tests(match.query_params, field),
        field,
    )


def compile_grpc_match(match: GRPCRouteMatch, field: str) -> Tests:
    """Make a match of a GRPCRoute ready: a method of gRPC is a path, ``/<service>/<method>``."""
    return Tests(
        _grpc_path(match.method, f"{field}.method"), None, _header_tests(match.headers, field), (), field
    )


def _regex_path(pattern: str, where: str) -> PathTest:
    return PathTest(PathKind.REGEX, pattern, where, Regex(pattern))


def _grpc_path(method: GRPCMethodMatch | None, where: str) -> PathTest:
    if method is None or (method.service is None and method.method is None):
        return PathTest(PathKind.ANY, "", where)
    if method.type is MatchType.REGULAR_EXPRESSION:
        service, name = (each or "[^/]+" for each in (method.service, method.method))
        return _regex_path(f"/(?:{service})/(?:{name})", where)
    if method.service is None:
        return PathTest(PathKind.METHOD, method.method or "", where)
    if method.method is None:
        return PathTest(PathKind.PREFIX, f"/{method.service}", where)
    return PathTest(PathKind.EXACT, f"/{method.service}/{method.method}", where)


def _header_tests(matches: Iterable[HeaderMatch], field: str) -> tuple[TextTest, ...]:
    tests: dict[str, TextTest] = {}
    for i, match in enumerate(matches):
        name = match.name.lower()
        tests.setdefault(name, _text_test(name, match, f"{field}.headers[{i}]"))
    return tuple(tests.values())


def _param_tests(matches: Iterable[QueryParamMatch], field: str) -> tuple[TextTest, ...]:
    tests: dict[str, TextTest] = {}
    for i, match in enumerate(matches):
        tests.setdefault(match.name, _text_test(match.name, match, f"{field}.queryParams[{i}]"))
    return tuple(tests.values())


def _text_test(name: str, match: HeaderMatch | QueryParamMatch, field: str) -> TextTest:
    regex = Regex(match.value) if match.type is MatchType.REGULAR_EXPRESSION else None
    return TextTest(name, match.value, regex, field)
