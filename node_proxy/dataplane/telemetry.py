"""Counters and gauges of one worker, kept as plain numbers and sent to the agent as Samples.

Nothing is counted per byte.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from node_proxy.control import Report, Sample

Labels = tuple[tuple[str, str], ...]

CONNECTIONS_OPENED = "nodemesh_connections_opened_total"
CONNECTIONS_CLOSED = "nodemesh_connections_closed_total"
CONNECTIONS_OPEN = "nodemesh_connections_open"
BYTES_SENT = "nodemesh_sent_bytes_total"
BYTES_RECEIVED = "nodemesh_received_bytes_total"
STREAMS_REFUSED = "nodemesh_streams_refused_total"
DENIALS = "nodemesh_denials_total"
STREAMS_CUT = "nodemesh_streams_cut_total"
AUDITED = "nodemesh_policy_audited_total"
CONNECT_RETRIES = "nodemesh_connect_retries_total"
ENDPOINT_EJECTIONS = "nodemesh_endpoint_ejections_total"
TUNNELS_OPEN = "nodemesh_tunnels_open"
TUNNELS_REFUSED = "nodemesh_tunnels_refused_total"
TUNNELS_CUT = "nodemesh_tunnels_cut_total"
TUNNELS_OPENED = "nodemesh_tunnels_opened_total"
CRASHES = "nodemesh_crashes_total"
BACKLOG = "nodemesh_backlog_bytes"
LIMIT_REACHED = "nodemesh_limit_reached_total"
# Refused by a service's policy; `kind` is requests or connections, `limit` the name of a limit of requests.
RATE_LIMITED = "nodemesh_rate_limited_total"
OWNER_LOOKUPS = "nodemesh_owner_lookups_total"
CALLERS = "nodemesh_callers_total"
# Of a service at the callers' side: 0 closed, 1 half open, 2 open, summed over the workers.
BREAKER_STATE = "nodemesh_circuit_breaker_state"
# Requests and connections that a service's policy did not let through, by `limit`: connections, requests,
# pending, breaker.
SERVICE_LIMITED = "nodemesh_service_limit_reached_total"
# Requests, by `side` (source or destination), `service` (workload at the destination), `route` and `code`.
REQUESTS = "nodemesh_requests_total"
# Refused by policies, or because they are no HTTP that is passed on; by `reason`.
REQUESTS_REFUSED = "nodemesh_requests_refused_total"
REQUEST_RETRIES = "nodemesh_request_retries_total"
# Failed requests that were not tried again, by what stood against it.
RETRIES_WITHHELD = "nodemesh_request_retries_withheld_total"
HEDGES = "nodemesh_request_hedges_total"
FAULTS_INJECTED = "nodemesh_faults_injected_total"
MIRRORED = "nodemesh_requests_mirrored_total"
# Client connections to workloads, and bytes of bodies that are kept to be sent again.
UPSTREAMS_OPEN = "nodemesh_upstream_connections_open"
BODIES_KEPT = "nodemesh_request_bodies_kept_bytes"

# How a connection came to this host.
MTLS = "mtls"
PLAINTEXT = "plaintext"

# Sets of labels that the denials of one worker are counted under. Each is a line of some 250 bytes in every
# scrape and a series in Prometheus, and who is denied is for the callers to choose, within the identities
# that the mesh has given out: the rest is counted together, and the decision log tells them apart.
MAX_DENIAL_LABELS = 200
# Stands for policy, source and destination of the denials beyond.
OTHER = "other"


@dataclass(slots=True)
class Traffic:
    """Bytes moved: `sent` from the workload's socket to the far side, `received` the other way."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class ConnectionNumbers:
    """What is counted for every connection, as attributes, because it is the one thing counted so often."""

    opened: int = 0
    done: int = 0
    refused: int = 0
    cut: int = 0
    sent: int = 0
    received: int = 0

    def begin(self) -> None:
        """Count a connection that begins."""
        self.opened += 1

    def end(self, traffic: Traffic, outcome: str) -> None:
        """Count its end: ``done``, ``refused``, or cut for whatever reason the log gives."""
        match outcome:
            case "done":
                self.done += 1
            case "refused":
                self.refused += 1
            case _:
                self.cut += 1
        self.sent += traffic.sent
        self.received += traffic.received

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Give the numbers under their names."""
        ended = {"done": self.done, "refused": self.refused, "cut": self.cut}
        yield Sample(name=CONNECTIONS_OPENED, labels=labels, value=self.opened)
        yield Sample(name=CONNECTIONS_OPEN, labels=labels, value=self.opened - sum(ended.values()))
        for outcome, count in ended.items():
            yield Sample(name=CONNECTIONS_CLOSED, labels=(("outcome", outcome), *labels), value=count)
        yield Sample(name=BYTES_SENT, labels=labels, value=self.sent)
        yield Sample(name=BYTES_RECEIVED, labels=labels, value=self.received)


class Telemetry:
    """The worker's numbers. Label values come from configuration, never from callers' bytes."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = defaultdict(float)
        self._connections: dict[Labels, ConnectionNumbers] = {}
        self._denials: dict[Labels, float] = {}

    def add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter, or to a gauge when `amount` may be negative."""
        self._values[name, tuple(sorted(labels.items()))] += amount

    def count(self, key: tuple[str, Labels]) -> None:
        """Count one under a name and labels in their order, made once by who counts often."""
        self._values[key] += 1

    def denied(self, *, side: str, reason: str, policy: str, source: str, destination: str) -> None:
        """Count a denial; `side` and `reason` must come from closed sets."""
        labels = _denial(side, reason, policy, source, destination)
        if labels not in self._denials and len(self._denials) >= MAX_DENIAL_LABELS:
            labels = _denial(side, reason, OTHER, OTHER, OTHER)
        self._denials[labels] = self._denials.get(labels, 0) + 1

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or a counter that is kept elsewhere."""
        self._values[name, tuple(sorted(labels.items()))] = value

    def inbound(self, workload: str, *, security: str) -> ConnectionNumbers:
        """Give the numbers of the connections to a workload that came by ``mtls`` or in ``plaintext``."""
        return self._numbers((("security", security), ("side", "inbound"), ("workload", workload)))

    def outbound(self, service: str) -> ConnectionNumbers:
        """Give the numbers of the connections of this host's workloads to a service."""
        return self._numbers((("side", "outbound"), ("workload", service)))

    def leaving(self, side: str, service: str) -> ConnectionNumbers:
        """Give the numbers of what leaves the mesh from here: ``external`` services, or ``passthrough``."""
        return self._numbers((("side", side), ("workload", service)))

    def _numbers(self, labels: Labels) -> ConnectionNumbers:
        numbers = self._connections.get(labels)
        if numbers is None:
            numbers = self._connections[labels] = ConnectionNumbers()
        return numbers

    def report(self) -> Report:
        """Give all numbers as they stand."""
        return Report(
            samples=(
                *(
                    Sample(name=name, labels=labels, value=value)
                    for (name, labels), value in self._values.items()
                ),
                *(
                    Sample(name=DENIALS, labels=labels, value=value)
                    for labels, value in self._denials.items()
                ),
                *(
                    sample
                    for labels, numbers in self._connections.items()
                    for sample in numbers.samples(labels)
                ),
            )
        )


def _denial(side: str, reason: str, policy: str, source: str, destination: str) -> Labels:
    return (
        ("destination", destination),
        ("policy", policy),
        ("reason", reason),
        ("side", side),
        ("source", source),
    )
