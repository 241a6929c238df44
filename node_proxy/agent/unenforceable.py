"""What parses and cannot be enforced as it is meant, which the node rejects by name. No I/O.

Conditions on HTTP where no HTTP is read: such a policy guards what it selects all the same, on the safe side.
Routes and backend policies that do not fit the Services they name.
"""

from collections.abc import Iterable, Iterator, Sequence

from node_proxy.agent.state import MeshState
from node_proxy.snapshot import LocalWorkload
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.resource import ROOT_NAMESPACE
from registry.model.service import Service
from registry.model.tcp_route import TCPRoute
from registry.model.workload import Rejection
from registry.rules.fitting import Attached, Known, Remark, policy_remarks, route_remarks
from registry.rules.layer7 import find_unenforceable, has_layer7
from registry.rules.routing.attachment import AnyRoute
from registry.rules.selection import selects


def find_rejections(
    state: MeshState, local: Sequence[LocalWorkload], services: Sequence[Service], attached: Attached
) -> tuple[Rejection, ...]:
    """Give what cannot be enforced as it is meant.

    Rules of policies that select a workload of this host, and routes and backend policies of the whole mesh:
    it is the callers' proxies that follow them.
    """
    return (*_unenforceable(state, local), *_unfit(state, services, attached))


def _unfit(state: MeshState, services: Sequence[Service], attached: Attached) -> Iterator[Rejection]:
    known = Known({service.name: service for service in services})
    routes: list[tuple[str, AnyRoute]] = [*state.of(HTTPRoute), *state.of(GRPCRoute), *state.of(TCPRoute)]
    for key, route in sorted(routes, key=lambda pair: pair[0]):
        yield from _grave(state, key, route_remarks(route, known))
    for key, policy in sorted(state.of(BackendPolicy), key=lambda pair: pair[0]):
        # Which routes there are matters for warnings alone.
        yield from _grave(state, key, policy_remarks(policy, known))
        yield from _grave(state, key, attached.beaten.get(policy.name, ()))


def _grave(state: MeshState, key: str, remarks: Iterable[Remark]) -> Iterator[Rejection]:
    for remark in remarks:
        if remark.grave:
            yield Rejection(key=key, reason=remark.describe(), last_good_revision=state.good_revision(key))


def _unenforceable(state: MeshState, local: Sequence[LocalWorkload]) -> tuple[Rejection, ...]:
    concerned = [(key, policy) for key, policy in state.of(AuthorizationPolicy) if has_layer7(policy)]
    if not concerned:
        return ()
    found: dict[tuple[str, str], Rejection] = {}
    for key, policy in sorted(concerned, key=lambda pair: pair[0]):
        for workload in local:
            if policy.metadata.namespace not in (workload.namespace, ROOT_NAMESPACE) or not selects(
                policy, workload.labels, frozenset(workload.services)
            ):
                continue
            for each in find_unenforceable(policy, workload.protocols, of=workload.name):
                rejection = Rejection(
                    key=key, reason=each.describe(), last_good_revision=state.good_revision(key)
                )
                found.setdefault((key, each.path), rejection)
    return tuple(found.values())
