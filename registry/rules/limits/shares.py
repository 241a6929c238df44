"""How one limit is shared by the nodes that count for it, by what each of them is asked for. Pure.

Every node computes the shares by itself from what it knows of all; with the same knowledge all come to the
same, and the shares add up to the whole. Whoever says too much of its demand gets what is fair, no more.
"""

from collections.abc import Mapping
from typing import Final

# Of the limit, given to all alike whatever they are asked for: a node to which the first requests have just
# come has something for them until the others know. It is half of what a limit may be off (10 %).
FLOOR: Final = 0.05
# What a node gets above its demand while others lack: what is asked for is never the same twice.
HEADROOM: Final = 1.05


def water_fill(demands: Mapping[str, float], limit: float) -> dict[str, float]:
    """Divide `limit` by max-min fairness.

    Nobody gets more than it demands while another lacks; what is left over goes to all alike. The parts add
    up to `limit`, whatever the demands. Demands that are no numbers, or below 0, count as 0.
    """
    if not demands:
        return {}
    floor = limit * FLOOR / len(demands)
    wanted = {name: max(0.0, _sane(demand) * HEADROOM - floor) for name, demand in demands.items()}
    left = limit - floor * len(demands)
    shares = dict.fromkeys(demands, floor)
    # From the least demand on: once a fair part of what is left is less than a demand, it is for all others.
    waiting = len(wanted)
    for name in sorted(wanted, key=lambda each: (wanted[each], each)):
        part = min(wanted[name], left / waiting)
        shares[name] += part
        left -= part
        waiting -= 1
    spare = left / len(shares)
    return {name: share + spare for name, share in shares.items()}


def even_share(nodes: int) -> float:
    """Give a node's share when it knows nothing of the others but how many they are, itself included."""
    return 1.0 / max(1, nodes)


def _sane(demand: float) -> float:
    return demand if 0.0 <= demand < float("inf") else 0.0
