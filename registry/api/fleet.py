"""What the nodes say of themselves, beside what the registry enrolled them for.

A value that does not parse, or is not signed by whom it should be, never hides a node: it becomes a remark,
and counts as little as it does for the nodes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from registry.ca.authority import Authority
from registry.errors import InvalidResource
from registry.model.enrolment import Enrolment, EnrolmentSpec
from registry.model.parse import parse_as
from registry.model.resource import Resource
from registry.model.revocation import RevocationList
from registry.model.workload import Node, NodeSpec, NodeStatus, NodeStatusSpec, Workload
from registry.store import keys
from registry.store.base import KeyValue, Store
from registry.store.signed import Signatures, SignedByNode, rule_for, unsigned
from registry.store.standing import objection

NODES = "nodes/"
ENROLMENTS = "enrolments/"

R = TypeVar("R", bound=Resource)


@dataclass(slots=True)
class NodeState:
    """A node: `live` while its record is there, which its lease decides, whatever the record holds.

    `objections` say of workloads, by ``namespace/name``, why they get no traffic whatever their health.
    """

    name: str
    live: bool = False
    record: NodeSpec | None = None
    status: NodeStatusSpec | None = None
    enrolment: EnrolmentSpec | None = None
    workloads: list[Workload] = field(default_factory=list)
    objections: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def may_hold(self, identity: str) -> bool:
        """Whether the node is enrolled for an identity, so that the registry would certify it."""
        enrolment = self.enrolment
        return enrolment is not None and not enrolment.pending and identity in enrolment.identities


class FleetReader:
    """Reads the fleet, verifying each value once for as long as it stands."""

    def __init__(self, *, store: Store, authority: Authority) -> None:
        self._store = store
        self._authority = authority
        self._signatures = Signatures(trust_domain=authority.trust_domain, roots=())

    async def read(self) -> dict[str, NodeState]:
        """Read every node that is enrolled or alive."""
        enrolments = await self._store.list(ENROLMENTS)
        nodes = await self._store.list(NODES)
        return await self.judge((*enrolments.items, *nodes.items))

    async def judge(self, items: Sequence[KeyValue]) -> dict[str, NodeState]:
        """Sort values that were read by node, and judge them."""
        trust = await self._authority.refresh()
        self._signatures.trust(trust.roots)
        # More than a second's work in a large mesh that is looked at for the first time.
        await trio.to_thread.run_sync(self._signatures.examine, items)
        return read_fleet(items, Vouched(self._signatures, trust.revocations))


@dataclass(frozen=True, slots=True)
class Vouched:
    """What decides whose word counts."""

    signatures: Signatures
    revocations: RevocationList


def read_fleet(items: Iterable[KeyValue], vouched: Vouched | None = None) -> dict[str, NodeState]:
    """Sort the values under ``nodes/`` and ``enrolments/`` by node; the result is ordered by name.

    Without `vouched` all that parses counts.
    """
    fleet: dict[str, NodeState] = {}
    # Enrolments first: whose word counts depends on them.
    items = sorted(items, key=lambda item: not item.key.startswith(ENROLMENTS))
    for item in items:
        key = keys.parse(item.key)
        match key:
            case keys.NodeRecordKey() | keys.NodeStatusKey() | keys.WorkloadKey() | keys.EnrolmentKey():
                node = fleet.setdefault(key.node, NodeState(key.node))
            case _:
                continue
        match key:
            case keys.NodeRecordKey():
                node.live = True
                if (record := _read(Node, item, node, vouched)) is not None:
                    node.record = record.spec
            case keys.NodeStatusKey():
                if (status := _read(NodeStatus, item, node, vouched)) is not None:
                    node.status = status.spec
            case keys.WorkloadKey(_, namespace, name):
                workload = _read(Workload, item, node, vouched)
                if workload is None:
                    continue
                if (workload.name, workload.spec.node) != (f"{namespace}/{name}", key.node):
                    node.remarks.append(f"{item.key}: names {workload.name} on {workload.spec.node} inside")
                else:
                    node.workloads.append(workload)
            case keys.EnrolmentKey():
                if (enrolment := _read(Enrolment, item, node, vouched)) is not None:
                    node.enrolment = enrolment.spec
    return dict(sorted(fleet.items()))


def _read(kind: type[R], item: KeyValue, node: NodeState, vouched: Vouched | None) -> R | None:
    try:
        resource = unsigned(parse_as(kind, item.value, where=item.key))
        rule = rule_for(keys.parse(item.key))
        if vouched is None or rule is None:
            return resource
        # The nodes asked for a certificate that was valid when the value was new.
        signer = vouched.signatures.require(item.key, item.value, at=None)
    except InvalidResource as error:
        node.remarks.append(error.describe())
        return None
    if isinstance(rule, SignedByNode):
        why = objection(
            resource,
            node=node.name,
            signer=signer,
            enrolment=node.enrolment,
            revocations=vouched.revocations,
        )
        if why:
            node.remarks.append(f"{item.key}: {why}")
            if not isinstance(resource, Workload):
                return None
            node.objections[resource.name] = why
    return resource
