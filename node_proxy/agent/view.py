"""What the agent shows of itself: readiness, its own metrics, and what is in force. Reads, never changes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import trio

from node_proxy.agent.certificates import Certificates
from node_proxy.agent.compile import Compiled
from node_proxy.agent.discovery import Discovery
from node_proxy.agent.dns.resolver import Resolver
from node_proxy.agent.enforcement import Enforcement
from node_proxy.agent.listeners import Listeners, bound_address
from node_proxy.agent.metrics import Gauge, exposition
from node_proxy.agent.registration import Registration
from node_proxy.agent.state import MeshState
from node_proxy.agent.workers import WorkerPool
from node_proxy.config import NodeConfig
from registry.model.workload import Rejection


@dataclass(slots=True, kw_only=True)
class View:
    """Looks at the agent's parts; the agent keeps `compiled` up to date."""

    config: NodeConfig
    certificates: Certificates
    state: MeshState
    discovery: Discovery
    registration: Registration
    enforcement: Enforcement
    pool: WorkerPool
    listeners: Listeners
    resolver: Resolver | None
    now: Callable[[], datetime]
    compiled: Compiled | None = None

    def missing(self) -> list[str]:
        """Say what keeps this node from being ready."""
        missing = list(self.certificates.missing)
        if self.compiled is None:
            missing.append("no state yet: etcd does not answer, and there is no cache")
        else:
            missing += self.pool.missing(self.compiled.snapshot.revision)
        if self.enforcement.capture_error:
            missing.append(self.enforcement.capture_error)
        return missing

    def metrics(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return exposition(self.pool.totals.samples(), list(self._gauges()))

    def in_force(self) -> bytes:
        """Write what is in force as JSON; of secrets it holds the names of their files."""
        compiled = self.compiled
        shown = {
            "revision": self.state.revision,
            "appliedRevision": self.pool.applied_revision,
            "staleSeconds": self._stale_seconds(),
            "registered": self.registration.registered,
            "snapshot": compiled.snapshot if compiled else None,
            "excluded": compiled.exclusions if compiled else (),
            "rejected": self.rejected(),
            "faults": compiled.faults if compiled else (),
            "certificates": [
                {
                    "identity": state.identity,
                    "notAfter": state.not_after,
                    "revoked": self.certificates.revoked.get(state.identity, ""),
                    "alarm": state.alarm,
                    "error": state.error,
                }
                for state in self.certificates.states
            ],
            "trust": self.certificates.trusted,
            "listening": {
                "tunnel": [bound_address(each) for each in self.listeners.tunnel],
                "captured": [bound_address(each) for each in self.listeners.captured],
                "plaintext": [bound_address(each) for each in self.listeners.plaintext],
                "explicit": [bound_address(each) for each in self.listeners.explicit],
                "admin": [bound_address(each) for each in self.listeners.admin],
                "dns": [bound_address(each) for each in self.listeners.dns_udp],
            },
            "dns": self.resolver.shown() if self.resolver else None,
            "workers": [
                {"pid": worker.pid, "applied": worker.applied, "restarts": worker.restarts}
                for worker in self.pool.workers
            ],
            "configuration": self.config,
        }
        return msgspec.json.encode(msgspec.to_builtins(shown, enc_hook=str))

    def rejected(self) -> tuple[Rejection, ...]:
        """Give what does not parse, and what parses and cannot be enforced as it is meant."""
        return self.state.rejections() + (self.compiled.rejections if self.compiled else ())

    def _stale_seconds(self) -> float:
        since = self.discovery.stale_since
        return 0.0 if since is None else trio.current_time() - since

    def _gauges(self) -> Iterator[Gauge]:
        compiled = self.compiled
        yield Gauge(
            name="nodemesh_snapshot_revision",
            help="etcd revision of the newest snapshot",
            value=compiled.snapshot.revision if compiled else 0,
        )
        yield Gauge(
            name="nodemesh_applied_revision",
            help="oldest etcd revision that a worker enforces",
            value=self.pool.applied_revision,
        )
        yield Gauge(
            name="nodemesh_store_stale_seconds",
            help="seconds since etcd last answered, 0 while it answers",
            value=self._stale_seconds(),
        )
        yield Gauge(
            name="nodemesh_registered",
            help="whether this node is registered under its lease",
            value=self.registration.registered,
        )
        yield Gauge(
            name="nodemesh_rejected_resources",
            help="newest values that are refused, and rules that cannot be enforced as they are",
            value=len(self.rejected()),
        )
        yield from self._certificate_gauges()
        yield from self._worker_gauges()
        if self.resolver is not None:
            yield from self.resolver.gauges()

    def _certificate_gauges(self) -> Iterator[Gauge]:
        revoked = self.certificates.revoked
        for state in self.certificates.states:
            labels = (("identity", state.identity),)
            if state.not_after is not None:
                yield Gauge(
                    name="nodemesh_certificate_seconds_left",
                    help="seconds until the certificate ends",
                    value=(state.not_after - self.now()) / timedelta(seconds=1),
                    labels=labels,
                )
            yield Gauge(
                name="nodemesh_certificate_revoked",
                help="whether the certificate is revoked, so that no peer accepts it",
                value=state.identity in revoked,
                labels=labels,
            )
            yield Gauge(
                name="nodemesh_certificate_alarm",
                help="share of its life, in percent, that a certificate whose renewal fails has passed",
                value=state.alarm,
                labels=labels,
            )
            yield Gauge(
                name="nodemesh_certificate_renewal_failures",
                help="failed renewals since the last that succeeded",
                value=state.failures,
                labels=labels,
            )

    def _worker_gauges(self) -> Iterator[Gauge]:
        for worker in self.pool.workers:
            labels = (("worker", str(worker.index)),)
            yield Gauge(
                name="nodemesh_worker_up",
                help="whether the worker runs",
                value=worker.pid is not None,
                labels=labels,
            )
            yield Gauge(
                name="nodemesh_worker_restarts_total",
                help="times the worker was replaced",
                value=worker.restarts,
                labels=labels,
            )
