"""Judges routes and backend policies against the rest of the mesh. Pure.

What has no effect is rejected. What most likely is not meant, and what is not there yet, is a warning: the
resource is accepted all the same.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final, TypeVar

from registry.judgement import OperatorKey
from registry.model.backend_policy import BackendPolicy
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.resource import Resource
from registry.model.service import Service
from registry.model.tcp_route import TCPRoute
from registry.rules.findings import Severity
from registry.rules.fitting import Known, Remark, attach, policy_remarks, route_remarks
from registry.rules.routing.attachment import AnyRoute
from registry.rules.routing.lint import lint_routes
from registry.store import keys

# A route may name hundreds of backends; nobody reads more, and a status must not be too large for the store.
MAX_REMARKS: Final = 32

R = TypeVar("R", bound=Resource)


def remarks_on_traffic(
    judged: Mapping[OperatorKey, Resource | str], created: Mapping[OperatorKey, int]
) -> dict[OperatorKey, tuple[Remark, ...]]:
    """Say what does not fit, by the key of the route or policy.

    Args:
        judged: what stands at each key, or why it is rejected.
        created: the revision at which each key was made.
    """
    http = _dated(judged, created, HTTPRoute)
    grpc = _dated(judged, created, GRPCRoute)
    tcp = _dated(judged, created, TCPRoute)
    policies = _dated(judged, created, BackendPolicy)
    if not (http or grpc or tcp or policies):
        return {}
    known = _known(judged)
    found: defaultdict[OperatorKey, list[Remark]] = defaultdict(list)
    routes: tuple[tuple[AnyRoute, int], ...] = (*http, *grpc, *tcp)
    for route, _ in routes:
        found[keys.key_of(route)] += route_remarks(route, known)
    attached = attach(policies)
    for policy, _ in policies:
        key = keys.key_of(policy)
        found[key] += (*policy_remarks(policy, known), *attached.beaten.get(policy.name, ()))
    ports = {
        name: {port.port: port.protocol for port in service.spec.ports}
        for name, service in known.services.items()
    }
    plurals = {kind.KIND: kind.PLURAL for kind in (HTTPRoute, GRPCRoute, TCPRoute)}
    for each in lint_routes(http_routes=http, grpc_routes=grpc, tcp_routes=tcp, services=ports):
        namespace, _, name = each.policy.partition("/")
        remark = Remark(each.path, each.message, each.mend, grave=each.severity is Severity.ERROR)
        found[keys.ResourceKey(plurals[each.kind], namespace, name)].append(remark)
    return {key: tuple(remarks) for key, remarks in found.items() if remarks}


def describe_remarks(remarks: tuple[Remark, ...]) -> tuple[str, ...]:
    """Give remarks as a status holds them: the grave first, and not too many."""
    ordered = sorted(remarks, key=lambda each: not each.grave)
    texts = [each.describe() if each.grave else f"warning: {each.describe()}" for each in ordered]
    if len(texts) <= MAX_REMARKS:
        return tuple(texts)
    return (*texts[: MAX_REMARKS - 1], f"{len(texts) - MAX_REMARKS + 1} more remarks")


def _dated(
    judged: Mapping[OperatorKey, Resource | str], created: Mapping[OperatorKey, int], kind: type[R]
) -> list[tuple[R, int]]:
    return [(each, created[key]) for key, each in judged.items() if isinstance(each, kind)]


def _known(judged: Mapping[OperatorKey, Resource | str]) -> Known:
    return Known(
        services={each.name: each for each in judged.values() if isinstance(each, Service)},
        unread=frozenset(
            f"{key.namespace}/{key.name}"
            for key, each in judged.items()
            if isinstance(key, keys.ResourceKey) and key.plural == Service.PLURAL and isinstance(each, str)
        ),
        routes=frozenset(each.name for each in judged.values() if isinstance(each, HTTPRoute | GRPCRoute)),
    )
