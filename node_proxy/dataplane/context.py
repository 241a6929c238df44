"""What every part of a worker needs and none of them owns."""

import itertools
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVarTuple

from structlog.typing import FilteringBoundLogger

from node_proxy.buckets import Buckets
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.decisions import DecisionLog
from node_proxy.dataplane.reactor import Reactor
from node_proxy.dataplane.relay import READ_SIZE
from node_proxy.dataplane.tables import Tables
from node_proxy.dataplane.telemetry import Telemetry
from node_proxy.tunnel.connection import BUFFER_SIZE
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.peer import Objection, Peer
from node_proxy.tunnel.tls import TlsContexts
from node_proxy.tunnel.windows import WindowBudget

Ts = TypeVarTuple("Ts")


@dataclass(slots=True)
class Enforced:
    """What the agent said last: each is immutable and replaced as a whole."""

    tables: Tables
    contexts: TlsContexts


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """One worker's seams and shared buffers.

    `index` is this worker's place among so many `workers` of the node, which share out its limits.
    `tunnel_buffer` and `relay_buffer` may be shared by all connections because each is used up within
    one call of the reactor. `mark` is the SO_MARK of our own sockets, 0 for none.
    """

    node: str
    trust_domain: str
    mark: int
    clock: Callable[[], float]
    log: FilteringBoundLogger
    rng: random.Random
    enforced: Enforced
    reactor: Reactor = field(default_factory=Reactor)
    telemetry: Telemetry = field(default_factory=Telemetry)
    decisions: DecisionLog = field(default_factory=DecisionLog)
    budget: WindowBudget = field(default_factory=WindowBudget)
    backlog: Backlog = field(default_factory=Backlog)
    buckets: Buckets = field(default_factory=lambda: Buckets(None))
    index: int = 0
    workers: int = 1
    tunnel_buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER_SIZE))
    relay_buffer: bytearray = field(default_factory=lambda: bytearray(FRAME_HEADER + READ_SIZE))
    _decision_numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _worker_id: str = field(default_factory=lambda: secrets.token_hex(4))

    async def contain(self, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> Exception | None:
        """Run a task of one connection; a bug in it costs that connection and not the worker.

        Gives the error that was the bug, for the connection to end itself by.
        """
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001 - the one catch around a connection
            self.crashed()
            return error
        return None

    def crashed(self) -> None:
        """Count and log the exception being handled, which is a bug of ours."""
        self.telemetry.add(telemetry.CRASHES, part="task")
        self.log.exception("connection crashed")

    def tunnel_cut(self, side: str, peer: Peer, objection: Objection, *, streams: int) -> None:
        """Count and log that a tunnel is cut because its peer's certificate holds no longer."""
        self.telemetry.add(telemetry.TUNNELS_CUT, side=side, reason=objection.reason)
        self.log.warning(
            "tunnel cut",
            side=side,
            reason=objection.reason,
            detail=objection.detail,
            peer=str(peer.identity),
            peer_node=peer.facts.node,
            serial=f"{peer.facts.serials[0]:x}",
            streams=streams,
        )

    def new_decision_id(self) -> str:
        """Give an id by which a decision can be found: in the logs of both ends, and by ``authz explain``."""
        return f"{self._worker_id}-{next(self._decision_numbers):x}"
