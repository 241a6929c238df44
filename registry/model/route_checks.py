"""What a route of the right shape may still get wrong by itself. Pure.

Stricter than Gateway API where a part would be without effect: what is written is meant.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from registry.model.duration import seconds
from registry.model.fields import show
from registry.model.gateway import MatchType
from registry.model.gateway_checks import (
    backend_problems,
    count_problems,
    duration_problems,
    header_match_problems,
    hostname_problems,
    parent_problems,
    regex_problems,
)
from registry.model.grpc_route import GRPCMethodMatch, GRPCRoute, GRPCRouteRule
from registry.model.http_match_checks import match_problems
from registry.model.http_route import HTTPRoute, HTTPRouteRule, PathMatchType, Retry, Timeouts
from registry.model.problem import Problem, repeated_problems
from registry.model.route_filter_checks import (
    FilterPlace,
    changes_prefix,
    grpc_filter_problems,
    http_filter_problems,
)
from registry.model.tcp_route import TCPRoute

# Gateway API's, for exact names.
_GRPC_SERVICE: Final = re.compile(r"\.?[A-Za-z_][A-Za-z_0-9]*(\.[A-Za-z_][A-Za-z_0-9]*)*\Z")
_GRPC_METHOD: Final = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\Z")
# Longer, and a caller has long given up.
_LONGEST_BACKOFF: Final = 60.0


def http_route_problems(route: HTTPRoute) -> Iterator[Problem]:
    """Give everything that is wrong with an HTTPRoute taken alone."""
    spec = route.spec
    yield from parent_problems(spec.parent_refs)
    yield from hostname_problems(spec.hostnames)
    yield from repeated_problems((rule.name for rule in spec.rules), "spec.rules", "name")
    yield from count_problems(len(rule.matches) for rule in spec.rules)
    for i, rule in enumerate(spec.rules):
        yield from _http_rule(rule, f"spec.rules[{i}]", route.metadata.namespace)


def grpc_route_problems(route: GRPCRoute) -> Iterator[Problem]:
    """Give everything that is wrong with a GRPCRoute taken alone."""
    spec = route.spec
    yield from parent_problems(spec.parent_refs)
    yield from hostname_problems(spec.hostnames)
    yield from repeated_problems((rule.name for rule in spec.rules), "spec.rules", "name")
    yield from count_problems(len(rule.matches) for rule in spec.rules)
    for i, rule in enumerate(spec.rules):
        yield from _grpc_rule(rule, f"spec.rules[{i}]", route.metadata.namespace)


def tcp_route_problems(route: TCPRoute) -> Iterator[Problem]:
    """Give everything that is wrong with a TCPRoute taken alone."""
    yield from parent_problems(route.spec.parent_refs)
    for i, rule in enumerate(route.spec.rules):
        for j, backend in enumerate(rule.backend_refs):
            yield from backend_problems(
                backend, f"spec.rules[{i}].backendRefs[{j}]", route.metadata.namespace
            )


def _http_rule(rule: HTTPRouteRule, path: str, namespace: str) -> Iterator[Problem]:
    yield from match_problems(rule.matches, f"{path}.matches")
    yield from http_filter_problems(rule.filters, f"{path}.filters", namespace, FilterPlace.RULE)
    redirects = any(each.request_redirect is not None for each in rule.filters)
    if redirects and rule.backend_refs:
        yield Problem(
            f"{path}.backendRefs", "stands beside a redirect, which answers by itself", "keep one of them"
        )
    for j, backend in enumerate(rule.backend_refs):
        yield from backend_problems(backend, f"{path}.backendRefs[{j}]", namespace)
        yield from http_filter_problems(
            backend.filters, f"{path}.backendRefs[{j}].filters", namespace, FilterPlace.BACKEND
        )
    yield from _prefixes(rule, path)
    if rule.timeouts is not None:
        yield from _timeouts(rule.timeouts, f"{path}.timeouts")
    if rule.retry is not None:
        yield from _retry(rule.retry, f"{path}.retry")


def _prefixes(rule: HTTPRouteRule, path: str) -> Iterator[Problem]:
    """Find a prefix that is replaced though none has matched."""
    filters = (*rule.filters, *(each for backend in rule.backend_refs for each in backend.filters))
    if not any(map(changes_prefix, filters)):
        return
    for i, match in enumerate(rule.matches):
        if match.path.type is not PathMatchType.PATH_PREFIX:
            yield Problem(
                f"{path}.matches[{i}].path.type",
                f"is {match.path.type.value}, and a filter of the rule replaces the prefix that matched",
                "write PathPrefix, or let the filter replace the full path",
            )


def _timeouts(timeouts: Timeouts, path: str) -> Iterator[Problem]:
    yield from duration_problems(timeouts.request, f"{path}.request", least=0)
    yield from duration_problems(timeouts.backend_request, f"{path}.backendRequest", least=0)
    if timeouts.request and timeouts.backend_request:
        whole, one = seconds(timeouts.request), seconds(timeouts.backend_request)
        # 0 is no limit, which is more than every limit.
        if whole and (one > whole or not one):
            yield Problem(
                f"{path}.backendRequest",
                f"{timeouts.backend_request if one else 'no limit'} for one try is more than "
                f"{timeouts.request} for all of them",
                "write less, or leave it out",
            )


def _retry(retry: Retry, path: str) -> Iterator[Problem]:
    yield from repeated_problems(retry.codes, f"{path}.codes", "")
    yield from duration_problems(retry.backoff, f"{path}.backoff", most=_LONGEST_BACKOFF)


def _grpc_rule(rule: GRPCRouteRule, path: str, namespace: str) -> Iterator[Problem]:
    for i, match in enumerate(rule.matches):
        if match.method is not None:
            yield from _grpc_method(match.method, f"{path}.matches[{i}].method")
        yield from header_match_problems(match.headers, f"{path}.matches[{i}].headers")
    yield from grpc_filter_problems(rule.filters, f"{path}.filters", namespace)
    for j, backend in enumerate(rule.backend_refs):
        yield from backend_problems(backend, f"{path}.backendRefs[{j}]", namespace)
        yield from grpc_filter_problems(backend.filters, f"{path}.backendRefs[{j}].filters", namespace)


def _grpc_method(match: GRPCMethodMatch, path: str) -> Iterator[Problem]:
    if match.service is None and match.method is None:
        yield Problem(path, "is empty", "write service, method or both")
    names: Sequence[tuple[str, str | None, re.Pattern[str]]] = (
        ("service", match.service, _GRPC_SERVICE),
        ("method", match.method, _GRPC_METHOD),
    )
    for field, value, pattern in names:
        if value is None:
            continue
        if match.type is MatchType.REGULAR_EXPRESSION:
            yield from regex_problems(value, f"{path}.{field}")
        elif not pattern.match(value):
            example = "shop.v1.Orders" if field == "service" else "Get"
            yield Problem(
                f"{path}.{field}", f"{show(value)} is no {field}'s name", f"write one as in {example}"
            )
