"""What the proxies' own logs and the taps say happened."""

from collections import Counter
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


def conversations(nodes: Iterable[Node]) -> dict[Talk, int]:
    """Count the connections that the serving nodes let in, each for many requests."""
    talks = Counter(
        Talk(record["source"], record["identity"], record["node"])
        for node in nodes
        for record in node.events("connection opened")
    )
    return dict(sorted(talks.items()))


def callers_seen(node: Node, workload: str) -> set[str]:
    """Which identities a serving node saw calling one of its workloads, by their certificates."""
    return {
        record["source"] for record in node.events("connection opened") if record["destination"] == workload
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
