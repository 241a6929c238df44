"""A worker's context for tests: the tables of a small mesh, and what was logged and counted."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import structlog
import structlog.testing

from node_proxy.control import CredentialsUpdate
from node_proxy.dataplane.context import Enforced, WorkerContext
from node_proxy.dataplane.tables import Tables
from node_proxy.snapshot import LocalWorkload, ServiceView, Snapshot
from node_proxy.tunnel.tls import TlsContexts
from registry.model.authorization import AuthorizationPolicy
from registry.model.enrolment import FederatedDomain, Revocation
from registry.model.mesh import DefaultAuthorization
from tests.integration.certificates import TRUST_DOMAIN, Authority, Leaf

NODE = "web-1"
ADDRESS = "10.77.0.1"


def snapshot(
    *,
    revision: int = 1,
    addresses: tuple[str, ...] = (ADDRESS,),
    services: tuple[ServiceView, ...] = (),
    workloads: tuple[LocalWorkload, ...] = (),
    policies: tuple[AuthorizationPolicy, ...] = (),
    default: DefaultAuthorization = DefaultAuthorization.ALLOW,
    closed: dict[str, str] | None = None,
) -> Snapshot:
    """Give the state of a small mesh as node web-1 sees it."""
    return Snapshot(
        revision=revision,
        node=NODE,
        addresses=addresses,
        trust_domain=TRUST_DOMAIN,
        default_authorization=default,
        services=services,
        local=workloads,
        policies=policies,
        closed_namespaces=closed or {},
    )


def tls_contexts(
    authority: Authority,
    *leaves: Leaf,
    federated: tuple[FederatedDomain, ...] = (),
    revocations: tuple[Revocation, ...] = (),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> TlsContexts:
    """Give the TLS of a host that holds `leaves`, the first of them by default."""
    update = CredentialsUpdate(
        credentials=tuple(leaf.credential() for leaf in leaves),
        default_identity=leaves[0].identity,
        roots_pem=authority.root_pem,
        federated=federated,
        revocations=revocations,
    )
    return TlsContexts(update, trust_domain=TRUST_DOMAIN, now=now)


@dataclass
class Scene:
    """A context and what it has said and counted."""

    context: WorkerContext
    logs: structlog.testing.LogCapture

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Give the log lines of one event."""
        return [dict(entry) for entry in self.logs.entries if entry["event"] == event]

    def counted(self, name: str, **labels: str) -> float:
        """Add up a counter over all samples that carry `labels`."""
        return sum(
            sample.value
            for sample in self.context.telemetry.report().samples
            if sample.name == name and labels.items() <= dict(sample.labels).items()
        )

    def enforce(self, state: Snapshot) -> None:
        """Put other tables in force, as a worker does."""
        self.context.enforced.tables = Tables(state, self.context.enforced.tables)


def scene(
    state: Snapshot | None = None,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    contexts: TlsContexts | None = None,
) -> Scene:
    """Give a context that enforces `state`; without `contexts` nothing may do TLS."""
    logs = structlog.testing.LogCapture()
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[logs], wrapper_class=structlog.make_filtering_bound_logger(0)
    )
    context = WorkerContext(
        node=NODE,
        trust_domain=TRUST_DOMAIN,
        mark=0,
        clock=clock,
        log=log,
        rng=random.Random(7),  # noqa: S311 - the same choices in every run
        enforced=Enforced(Tables(state or snapshot()), cast("TlsContexts", contexts)),
    )
    return Scene(context, logs)
