"""Policies that parse and that this host cannot enforce in full: conditions on HTTP where no HTTP is read.

No I/O. They guard what they select all the same, on the safe side; since that is not what their author wrote,
the node rejects them by name.
"""

from collections.abc import Sequence

from node_proxy.agent.state import MeshState
from node_proxy.snapshot import LocalWorkload
from registry.model.authorization import AuthorizationPolicy
from registry.model.resource import ROOT_NAMESPACE
from registry.model.service import Service
from registry.model.workload import Rejection
from registry.rules.layer7 import find_unenforceable, has_layer7, protocols_of
from registry.rules.selection import selects


def find_rejections(
    state: MeshState, local: Sequence[LocalWorkload], services: Sequence[Service]
) -> tuple[Rejection, ...]:
    """Give the rules that cannot be enforced at a workload of this host which their policies select."""
    concerned = [(key, policy) for key, policy in state.of(AuthorizationPolicy) if has_layer7(policy)]
    if not concerned:
        return ()
    spoken = {
        workload.name: protocols_of(
            services, namespace=workload.namespace, labels=workload.labels, ports=workload.ports
        )
        for workload in local
    }
    found: dict[tuple[str, str], Rejection] = {}
    for key, policy in sorted(concerned, key=lambda pair: pair[0]):
        for workload in local:
            if policy.metadata.namespace not in (workload.namespace, ROOT_NAMESPACE) or not selects(
                policy, workload.labels, frozenset(workload.services)
            ):
                continue
            for each in find_unenforceable(policy, spoken[workload.name], of=workload.name):
                rejection = Rejection(
                    key=key, reason=each.describe(), last_good_revision=state.good_revision(key)
                )
                found.setdefault((key, each.path), rejection)
    return tuple(found.values())
