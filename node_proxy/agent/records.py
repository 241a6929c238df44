"""What this node says of itself, as resources by key. No I/O.

The registration writes them into the store; the compiler uses them for this node's own endpoints, so
that calls within the host need no store.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from node_proxy.agent.in_use import Standing
from node_proxy.config import NodeConfig
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.model.workload import (
    Health,
    Node,
    NodeSpec,
    NodeStatus,
    NodeStatusSpec,
    Rejection,
    Workload,
    WorkloadSpec,
)
from registry.store import keys

OwnResources = Mapping[str, Node | Workload]

# Other nodes decide how much of theirs is refused here: it must not make this node's own status too large for
# etcd. About 300 bytes each, so at most 75 KiB or so.
MAX_REJECTIONS = 256
# As many as somebody can have an eye on; about 200 bytes each.
MAX_FAULTS = 64


def own_resources(
    config: NodeConfig,
    *,
    trust_domain: str,
    tunnel_port: int,
    boot_id: str,
    version: str,
    health: Mapping[str, Health],
) -> dict[str, Node | Workload]:
    """Give the node's record and its workloads; `health` is by ``namespace/name``."""
    proxy = config.proxy
    node = Node(
        api_version=NODEMESH,
        kind=Node.KIND,
        metadata=Metadata(name=proxy.node, namespace=ROOT_NAMESPACE),
        spec=NodeSpec(
            address=proxy.address,
            tunnel_port=tunnel_port,
            region=proxy.region,
            zone=proxy.zone,
            version=version,
            boot_id=boot_id,
        ),
    )
    resources: dict[str, Node | Workload] = {keys.render(keys.NodeRecordKey(proxy.node)): node}
    for each in config.workloads:
        key = keys.render(keys.WorkloadKey(proxy.node, each.namespace, each.name))
        resources[key] = Workload(
            api_version=NODEMESH,
            kind=Workload.KIND,
            metadata=Metadata(name=each.name, namespace=each.namespace, labels=each.labels),
            spec=WorkloadSpec(
                node=proxy.node,
                identity=str(each.identity(trust_domain)),
                ports=each.ports,
                health=health.get(each.qualified, Health.UNHEALTHY),
                weight=each.weight,
            ),
        )
    return resources


def own_status(
    node: str,
    *,
    applied_revision: int,
    rejected: Sequence[Rejection],
    certificate_expires: datetime | None,
    in_use: Standing,
    revoked: tuple[str, ...],
    workers: int,
    faults: Sequence[str] = (),
) -> dict[str, NodeStatus]:
    """Give the node's status; `certificate_expires` is when the first certificate ends.

    `revoked` says of each of its certificates that is revoked by what, `faults` which errors it makes on
    purpose.
    """
    expires = (
        certificate_expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if certificate_expires else ""
    )
    status = NodeStatus(
        api_version=NODEMESH,
        kind=NodeStatus.KIND,
        metadata=Metadata(name=node, namespace=ROOT_NAMESPACE),
        spec=NodeStatusSpec(
            applied_revision=applied_revision,
            rejected=_bounded(rejected),
            certificate_expires=expires,
            trusted_roots=tuple(sorted(in_use.roots)),
            issuers=tuple(sorted(in_use.issuers)),
            revoked=revoked,
            workers=workers,
            faults=_shown(faults),
        ),
    )
    return {keys.render(keys.NodeStatusKey(node)): status}


def _shown(faults: Sequence[str]) -> tuple[str, ...]:
    if len(faults) <= MAX_FAULTS:
        return tuple(faults)
    shown = faults[: MAX_FAULTS - 1]
    return (*shown, f"{len(faults) - len(shown)} more faults; this node's /config lists them all")


def _bounded(rejected: Sequence[Rejection]) -> tuple[Rejection, ...]:
    if len(rejected) <= MAX_REJECTIONS:
        return tuple(rejected)
    shown = rejected[: MAX_REJECTIONS - 1]
    more = f"{len(rejected) - len(shown)} more keys are rejected; this node's /config lists them all"
    return (*shown, Rejection(key="", reason=more))
