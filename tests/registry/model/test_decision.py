import json
from typing import Any

import pytest

from registry.errors import InvalidResource
from registry.model.decision import MAX_DECISIONS, MAX_IDS, NodeDecisions
from registry.model.parse import parse_as, render

RECORD: dict[str, Any] = {
    "outcome": "denied",
    "reason": "denied",
    "source": "spiffe://nodemesh.local/ns/default/sa/web",
    "port": 80,
    "count": 1,
    "firstSeen": "2026-03-01T12:00:00Z",
    "lastSeen": "2026-03-01T12:00:00Z",
}


def read(*records: dict[str, Any]) -> NodeDecisions:
    """Read what a node wrote."""
    document = {
        "apiVersion": "nodemesh/v1",
        "kind": "NodeDecisions",
        "metadata": {"name": "web-1", "namespace": "nodemesh-system"},
        "spec": {"decisions": records},
    }
    return parse_as(NodeDecisions, json.dumps(document).encode(), where="nodes/web-1/decisions")


def test_what_is_not_known_is_left_out() -> None:
    """A record without addresses, policy or ids is read, and written back without them."""
    decisions = read(RECORD)
    assert json.loads(render(decisions))["spec"]["decisions"] == [RECORD]


@pytest.mark.parametrize(
    "changes",
    [{"ids": ["x"] * (MAX_IDS + 1)}, {"count": 0}, {"outcome": "perhaps"}, {"port": "80"}, {"more": 1}],
)
def test_a_node_cannot_write_just_anything(changes: dict[str, Any]) -> None:
    """A record beyond the bounds, or with fields of its own, is refused."""
    with pytest.raises(InvalidResource, match=r"spec\.decisions\[0\]"):
        read(RECORD | changes)


def test_the_number_of_records_is_bounded() -> None:
    """More records than a node may write are refused."""
    assert len(read(*[RECORD] * MAX_DECISIONS).spec.decisions) == MAX_DECISIONS
    with pytest.raises(InvalidResource, match=r"spec\.decisions"):
        read(*[RECORD] * (MAX_DECISIONS + 1))
