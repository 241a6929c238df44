"""How much a service is asked to bear at once: connections, requests in flight, requests that wait. Pure.

The limits are of a node. Each of its workers has an equal part, and at least one: with fewer allowed than
there are workers, a node may have as many as it has workers. Callers are spread evenly over workers, but a
worker that has more than its part of the load is at its limit before the node is.
"""

import math
from typing import Final

from registry.model.backend_policy import ConnectionLimits

# Requests that wait for one of a limited number of connections, where the policy does not say: Envoy's
# `max_pending_requests`. Each holds a task and a head of up to 64 KiB.
DEFAULT_PENDING: Final = 1024


def part_of(limit: int | None, index: int, workers: int) -> float:
    """Give one worker's part of a node's limit; infinity without a limit."""
    if limit is None:
        return math.inf
    return max(1, limit // workers + (index < limit % workers))


class Bounds:
    """What is under way from one worker to one service."""

    def __init__(self, limits: ConnectionLimits, *, index: int = 0, workers: int = 1) -> None:
        self._index = index
        self._workers = workers
        self.connections = 0
        self.requests = 0
        self.pending = 0
        self.change(limits)

    def change(self, limits: ConnectionLimits) -> None:
        """Put other limits in force; what is beyond them already is left alone."""
        pending = DEFAULT_PENDING if limits.pending is None else limits.pending
        self._connections = part_of(limits.connections, self._index, self._workers)
        self._requests = part_of(limits.requests, self._index, self._workers)
        self._pending = part_of(pending, self._index, self._workers)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not (self.connections or self.requests or self.pending)

    def connect(self) -> bool:
        """Count a connection if there may be one more."""
        if self.connections >= self._connections:
            return False
        self.connections += 1
        return True

    def request(self) -> bool:
        """Count a request if there may be one more."""
        if self.requests >= self._requests:
            return False
        self.requests += 1
        return True

    def wait(self) -> bool:
        """Count a request that waits for a connection if there may be one more."""
        if self.pending >= self._pending:
            return False
        self.pending += 1
        return True
