"""A route or a backend policy in one line, for tables. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from registry.model.backend_policy import BackendPolicy, BackendPolicySpec
from registry.model.gateway import ParentReference
from registry.model.grpc_route import GRPCBackendRef, GRPCRoute
from registry.model.http_route import HTTPBackendRef, HTTPRoute, HTTPRouteRule
from registry.model.tcp_route import TCPBackendRef, TCPRoute

# More would not be read in a table.
_SHOWN: Final = 3


def summarise_route(route: HTTPRoute | GRPCRoute | TCPRoute) -> str:
    """Say where requests or connections to what lead, and how many rules decide it."""
    spec = route.spec
    hosts = "" if isinstance(route, TCPRoute) or not route.spec.hostnames else _few(route.spec.hostnames)
    leads = _few(dict.fromkeys(_leads(route)))
    count = len(spec.rules)
    rules = "" if isinstance(route, TCPRoute) else f", {count} rule{'' if count == 1 else 's'}"
    parents = _few(_parent(each, route.metadata.namespace) for each in spec.parent_refs)
    return f"{parents}{f' for {hosts}' if hosts else ''} → {leads or 'nowhere'}{rules}"


def summarise_policy(policy: BackendPolicy) -> str:
    """Say for which services a policy is, and what it sets."""
    targets = _few(each.name for each in policy.spec.target_refs)
    return f"{targets}: {', '.join(_settings(policy.spec)) or 'nothing set'}"


def _leads(route: HTTPRoute | GRPCRoute | TCPRoute) -> Iterator[str]:
    for rule in route.spec.rules:
        if isinstance(rule, HTTPRouteRule) and any(each.request_redirect for each in rule.filters):
            yield "a redirect"
        refs: Sequence[HTTPBackendRef | GRPCBackendRef | TCPBackendRef] = rule.backend_refs
        total = sum(each.weight for each in refs)
        for each in refs:
            share = f" {100 * each.weight / total:.3g} %" if len(refs) > 1 and total else ""
            yield f"{each.name}:{each.port}{share}"


def _settings(spec: BackendPolicySpec) -> Iterator[str]:
    standard = BackendPolicySpec(target_refs=spec.target_refs)
    if spec.load_balancing != standard.load_balancing:
        yield spec.load_balancing.policy.value
    for words, given, usual in (
        ("connection limits", spec.connection_limits, standard.connection_limits),
        ("circuit breaker", spec.circuit_breaker, standard.circuit_breaker),
        ("outlier ejection", spec.outlier_ejection, standard.outlier_ejection),
        ("timeouts", spec.timeouts, standard.timeouts),
        ("retries", spec.retries, standard.retries),
    ):
        if given != usual:
            yield words
    for word, several in (
        ("rate limit", spec.rate_limits),
        ("connection rate", spec.connection_rates),
        ("bandwidth", spec.bandwidths),
        ("fault", spec.faults),
        ("trusted forwarder", spec.trusted_forwarders),
    ):
        if count := len(several):
            yield f"{count} {word}{'' if count == 1 else 's'}"


def _parent(parent: ParentReference, namespace: str) -> str:
    within = "" if parent.namespace in (None, namespace) else f"{parent.namespace}/"
    return f"{within}{parent.name}{'' if parent.port is None else f':{parent.port}'}"


def _few(texts: Iterable[str]) -> str:
    every = list(texts)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
