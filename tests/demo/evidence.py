"""What the proxies' own logs and the taps say happened."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.support.mesh import Node

IDENTITIES = "spiffe://nodemesh.local/ns/"


@dataclass(frozen=True, order=True)
class Talk:
    """Who called whom: identities as SPIFFE IDs, and the node that served."""

    source: str
    destination: str
    node: str


@dataclass
class Amount:
    """How much was said."""

    connections: int = 0
    sent: int = 0
    received: int = 0


def conversations(nodes: Iterable[Node]) -> dict[Talk, Amount]:
    """Sum up the closed connections, as the calling nodes logged them after proving the peer."""
    talks: defaultdict[Talk, Amount] = defaultdict(Amount)
    for node in nodes:
        for record in node.events("connection closed"):
            if record["side"] == "outbound" and record["identity"]:
                amount = talks[Talk(record["source"], record["identity"], record["node"])]
                amount.connections += 1
                amount.sent += record["bytes_sent"]
                amount.received += record["bytes_received"]
    return dict(sorted(talks.items()))


def callers_seen(node: Node, workload: str) -> set[str]:
    """Which identities a serving node saw calling one of its workloads, by their certificates."""
    return {
        record["source"]
        for record in node.events("connection closed")
        if record["side"] == "inbound" and record["destination"] == workload
    }


def refusals(node: Node, policy: str, event: str = "stream refused") -> list[dict[str, Any]]:
    """What a node refused or cut because of a policy."""
    return [record for record in node.events(event) if record.get("policy") == policy]


def short(identity: str) -> str:
    """An identity of this mesh without what all of them share."""
    return identity.removeprefix(IDENTITIES).replace("/sa/", "/")


def hexdump(data: bytes, width: int = 16) -> str:
    """Bytes as one reads them in a capture."""
    rows = (data[at : at + width] for at in range(0, len(data), width))
    return "\n".join(
        f"{row.hex(' '):<{3 * width}} {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for row in rows
    )
