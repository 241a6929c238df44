"""Connections that leave the mesh from here: no tunnel, no proxy at the other end.

What they lead to and who may is a `DirectCall`'s to say: `external` or `passthrough`.
"""

import socket
from dataclasses import dataclass
from typing import Protocol

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.outbound_connection import Caller, caller_fields
from node_proxy.dataplane.reason import DENIED, Reason
from node_proxy.dataplane.tls_relay import TlsRelay
from node_proxy.dataplane.way import Way
from node_proxy.tunnel.sockets import connect
from node_proxy.tunnel.tls_stream import TlsStream

# One address: TCP and TLS over half the world. Three of them are tried.
DIAL_TIMEOUT = 5.0
MOST_ADDRESSES = 3

Far = socket.socket | TlsStream


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection is not made: what the caller is told, and what the log says besides."""

    why: Refused
    reason: Reason
    detail: str = ""


class DirectCall(Protocol):
    """Where a connection leads."""

    @property
    def side(self) -> str:
        """The word for it in metrics and logs, of a closed set."""

    @property
    def label(self) -> str:
        """What it is counted under: ``namespace/name``, or nothing."""

    @property
    def target(self) -> str:
        """What it is logged as."""

    def admit(self, caller: Caller) -> Failure | None:
        """Judge a new connection, and note the decision."""

    def objection(self, caller: Caller) -> Failure | None:
        """Say why an admitted connection may not go on, by the tables now in force."""

    async def open(self) -> tuple[Far, str] | Failure:
        """Connect; gives the connection and where to. Cancellation leaves no socket."""


class Direct:
    """The open direct connections of a worker."""

    def __init__(self, context: WorkerContext, nursery: trio.Nursery) -> None:
        self.context = context
        self.nursery = nursery
        self.open_connections = 0
        self.relayed: set[DirectConnection] = set()

    def connected(self, sock: socket.socket, call: DirectCall, caller: Caller, way: Way) -> None:
        """Take a caller's connection."""
        DirectConnection(self, sock, call, caller, way).start()

    def judge_again(self) -> None:
        """Cut what the tables now in force do not allow, now or when the mesh's grace ends."""
        grace = self.context.enforced.tables.enforcement_grace
        for connection in list(self.relayed):
            if connection.cut_unless_allowed(grace) and grace:
                self.nursery.start_soon(self._cut_later, connection, grace)

    async def _cut_later(self, connection: "DirectConnection", grace: float) -> None:
        await trio.sleep(grace)
        connection.cut_unless_allowed(0)


class DirectConnection:
    """From accept to the last byte."""

    def __init__(
        self, direct: Direct, sock: socket.socket, call: DirectCall, caller: Caller, way: Way
    ) -> None:
        self._direct = direct
        self._sock = sock
        self._call = call
        self._caller = caller
        self._way = way
        self._numbers = direct.context.telemetry.leaving(call.side, call.label)
        self._started = direct.context.clock()
        self._at = ""
        self._relay: LocalRelay | TlsRelay | None = None

    def start(self) -> None:
        """Judge, and dial if admitted."""
        self._direct.open_connections += 1
        self._numbers.begin()
        if failure := self._call.admit(self._caller):
            self._refuse(failure)
        else:
            self._direct.nursery.start_soon(self._contain)

    def cut_unless_allowed(self, grace: float) -> bool:
        """Whether the connection may not go on; without grace it is cut if so."""
        relay = self._relay
        failure = self._call.objection(self._caller) if relay is not None and not relay.closed else None
        if relay is None or failure is None:
            return False
        if not grace:
            self._log_refusal("stream cut", failure)
            self._direct.context.telemetry.add(telemetry.STREAMS_CUT, workload=self._call.label)
            relay.cut(f"policy: {failure.reason.policy or failure.reason.code}")
        return True

    async def _contain(self) -> None:
        """Dial; a bug in it ends the connection and leaves the books right."""
        error = await self._direct.context.contain(self._dial)
        if error is not None and self._relay is None:
            self._refuse(Failure(Refused.FAILED, Reason("internal_error"), repr(error)))

    async def _dial(self) -> None:
        opened = await self._call.open()
        if isinstance(opened, Failure):
            self._refuse(opened)
            return
        far, self._at = opened
        # What was decided under former tables may be decided differently now.
        if failure := self._call.objection(self._caller):
            far.close()
            self._refuse(failure)
            return
        context = self._direct.context
        if isinstance(far, TlsStream):
            self._relay = TlsRelay(
                self._sock,
                far,
                poller=context.reactor,
                plain=context.relay_buffer,
                cipher=context.tunnel_buffer,
                on_closed=self._closed,
            )
        else:
            self._relay = LocalRelay(
                self._sock,
                far,
                poller=context.reactor,
                buffer=context.relay_buffer,
                on_closed=self._closed,
            )
        self._direct.relayed.add(self)
        self._way.granted(self._sock)
        self._relay.start()

    def _refuse(self, failure: Failure) -> None:
        context = self._direct.context
        context.telemetry.add(
            telemetry.STREAMS_REFUSED, reason=failure.reason.code, workload=self._call.label
        )
        if failure.why is Refused.DENIED:
            context.telemetry.denied(
                side="source",
                reason=DENIED,
                policy=failure.reason.policy,
                source=self._caller.text,
                destination=self._call.label,
            )
        self._log_refusal("stream refused", failure)
        self._way.refused(self._sock, failure.why, failure.reason)
        self._count_closed(telemetry.Traffic(), "refused")

    def _log_refusal(self, event: str, failure: Failure) -> None:
        self._direct.context.log.warning(
            event,
            side=self._call.side,
            reason=failure.reason.code,
            policy=failure.reason.policy,
            id=failure.reason.decision,
            detail=failure.detail,
            source=self._caller.text,
            destination=self._call.target,
            **caller_fields(self._caller.process),
        )

    def _closed(self, relay: LocalRelay | TlsRelay, outcome: str) -> None:
        traffic = relay.traffic
        self._direct.relayed.discard(self)
        self._count_closed(traffic, outcome)
        self._direct.context.log.info(
            "connection closed",
            side=self._call.side,
            source=self._caller.text,
            destination=self._call.target,
            endpoint=self._at,
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            seconds=round(self._direct.context.clock() - self._started, 6),
            outcome=outcome,
            **caller_fields(self._caller.process),
        )

    def _count_closed(self, traffic: telemetry.Traffic, outcome: str) -> None:
        self._direct.open_connections -= 1
        self._numbers.end(traffic, outcome)


async def dial(address: str, port: int, *, mark: int) -> socket.socket:
    """Connect to one address; how long that may take is the caller's to say.

    Raises:
        DialError: it failed. Cancellation leaves no socket.
    """
    return await connect(address, port, timeout=float("inf"), mark=mark)
