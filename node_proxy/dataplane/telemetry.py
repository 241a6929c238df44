"""Counters and gauges of one worker, kept as plain numbers and sent to the agent as Samples.

A name and its labels cost one dictionary look-up per connection, none per byte.
"""

from collections import defaultdict
from dataclasses import dataclass

from node_proxy.control import Report, Sample

Labels = tuple[tuple[str, str], ...]

CONNECTIONS_OPENED = "nodemesh_connections_opened_total"
CONNECTIONS_CLOSED = "nodemesh_connections_closed_total"
CONNECTIONS_OPEN = "nodemesh_connections_open"
BYTES_SENT = "nodemesh_sent_bytes_total"
BYTES_RECEIVED = "nodemesh_received_bytes_total"
STREAMS_REFUSED = "nodemesh_streams_refused_total"
STREAMS_CUT = "nodemesh_streams_cut_total"
AUDITED = "nodemesh_policy_audited_total"
CONNECT_RETRIES = "nodemesh_connect_retries_total"
ENDPOINT_EJECTIONS = "nodemesh_endpoint_ejections_total"
TUNNELS_OPEN = "nodemesh_tunnels_open"
TUNNELS_REFUSED = "nodemesh_tunnels_refused_total"
TUNNELS_OPENED = "nodemesh_tunnels_opened_total"
CRASHES = "nodemesh_crashes_total"
LIMIT_REACHED = "nodemesh_limit_reached_total"


@dataclass(slots=True)
class Traffic:
    """Bytes moved: `sent` from the workload's socket to the far side, `received` the other way."""

    sent: int = 0
    received: int = 0


class Telemetry:
    """The worker's numbers. Label values come from configuration, never from callers' bytes."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter, or to a gauge when `amount` may be negative."""
        self._values[name, tuple(sorted(labels.items()))] += amount

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or a counter that is kept elsewhere."""
        self._values[name, tuple(sorted(labels.items()))] = value

    def connection_closed(self, traffic: Traffic, outcome: str, **labels: str) -> None:
        """Count the end of a connection: ``done``, ``refused``, or cut for whatever reason the log gives."""
        self.add(CONNECTIONS_OPEN, -1, **labels)
        self.add(CONNECTIONS_CLOSED, outcome=outcome if outcome in ("done", "refused") else "cut", **labels)
        self.add(BYTES_SENT, traffic.sent, **labels)
        self.add(BYTES_RECEIVED, traffic.received, **labels)

    def report(self) -> Report:
        """Give all numbers as they stand."""
        return Report(
            samples=tuple(
                Sample(name=name, labels=labels, value=value)
                for (name, labels), value in self._values.items()
            )
        )
