"""What the nodes say of themselves, beside what the registry enrolled them for.

Pure: from keys and values to typed states. A value that does not parse never hides a node: it becomes
a remark.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from registry.errors import InvalidResource
from registry.model.enrolment import Enrolment, EnrolmentSpec
from registry.model.parse import parse_as
from registry.model.resource import Resource
from registry.model.workload import Node, NodeSpec, NodeStatus, NodeStatusSpec, Workload
from registry.store import keys
from registry.store.base import KeyValue

NODES = "nodes/"
ENROLMENTS = "enrolments/"

R = TypeVar("R", bound=Resource)


@dataclass(slots=True)
class NodeState:
    """A node: `live` while its record is there, which its lease decides, whatever the record holds."""

    name: str
    live: bool = False
    record: NodeSpec | None = None
    status: NodeStatusSpec | None = None
    enrolment: EnrolmentSpec | None = None
    workloads: list[Workload] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def may_hold(self, identity: str) -> bool:
        """Whether the node is enrolled for an identity, so that the registry would certify it."""
        return self.enrolment is not None and identity in self.enrolment.identities


def read_fleet(items: Iterable[KeyValue]) -> dict[str, NodeState]:
    """Sort the values under ``nodes/`` and ``enrolments/`` by node; the result is ordered by name."""
    fleet: dict[str, NodeState] = {}
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
                if (record := _read(Node, item, node)) is not None:
                    node.record = record.spec
            case keys.NodeStatusKey():
                if (status := _read(NodeStatus, item, node)) is not None:
                    node.status = status.spec
            case keys.WorkloadKey(_, namespace, name):
                workload = _read(Workload, item, node)
                if workload is None:
                    continue
                if (workload.name, workload.spec.node) != (f"{namespace}/{name}", key.node):
                    node.remarks.append(f"{item.key}: names {workload.name} on {workload.spec.node} inside")
                else:
                    node.workloads.append(workload)
            case keys.EnrolmentKey():
                if (enrolment := _read(Enrolment, item, node)) is not None:
                    node.enrolment = enrolment.spec
    return dict(sorted(fleet.items()))


def _read(kind: type[R], item: KeyValue, node: NodeState) -> R | None:
    try:
        return parse_as(kind, item.value, where=item.key)
    except InvalidResource as error:
        node.remarks.append(error.describe())
        return None
