"""What a match of requests may still get wrong by itself: in routes, rate limits and faults. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from registry.model.fields import show
from registry.model.gateway import MatchType
from registry.model.gateway_checks import header_match_problems, regex_problems
from registry.model.http_route import HTTPRouteMatch, Method, PathMatch, PathMatchType
from registry.model.problem import Problem, repeated_problems
from registry.model.value_checks import check_plain_path

# RFC 3986 section 3.3: all that a path may hold as it is.
_PATH: Final = re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+\Z")
# Gateway API's bounds.
_MAX_HEADERS: Final = 16
_MAX_PARAMETERS: Final = 16


def match_problems(matches: Sequence[HTTPRouteMatch], path: str) -> Iterator[Problem]:
    """Find matches that could never match."""
    for i, match in enumerate(matches):
        yield from path_match_problems(match.path, f"{path}[{i}].path.value")
        yield from _counted(len(match.headers), _MAX_HEADERS, f"{path}[{i}].headers")
        yield from header_match_problems(match.headers, f"{path}[{i}].headers")
        yield from _counted(len(match.query_params), _MAX_PARAMETERS, f"{path}[{i}].queryParams")
        for j, parameter in enumerate(match.query_params):
            if parameter.type is MatchType.REGULAR_EXPRESSION:
                yield from regex_problems(parameter.value, f"{path}[{i}].queryParams[{j}].value")
        names = [parameter.name for parameter in match.query_params]
        yield from repeated_problems(names, f"{path}[{i}].queryParams", "name")
        if match.method is Method.CONNECT:
            yield Problem(
                f"{path}[{i}].method", "CONNECT is answered by the proxy itself", "write another method"
            )


def path_match_problems(match: PathMatch, path: str) -> Iterator[Problem]:
    """Find a path that no request has."""
    if match.type is PathMatchType.REGULAR_EXPRESSION:
        yield from regex_problems(match.value, path)
    else:
        yield from path_problems(match.value, path)


def path_problems(text: str, path: str) -> Iterator[Problem]:
    """Find a path that no request has, or that none should be given."""
    if not text.startswith("/"):
        yield Problem(path, f"{show(text)} is no path", f"begin with a slash: {show(f'/{text}')}")
    elif (wrong := check_plain_path(text)) is not None:
        yield Problem(path, *wrong)
    elif not _PATH.match(text):
        yield Problem(
            path,
            f"{show(text)} has a character that stands in no path",
            "write it escaped, as in %C3%A9 for é",
        )


def _counted(count: int, most: int, path: str) -> Iterator[Problem]:
    if count > most:
        yield Problem(path, f"holds {count}, more than {most}")
