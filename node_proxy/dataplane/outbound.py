"""Outbound: connections of this host's workloads to services of the mesh.

A connection comes with the service it is meant for and with the caller's identity, and is handed over to
an `OutboundConnection`. What these have in common lives here.
"""

import socket

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.answers import AnswerDeadlines
from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.callers import UnknownCaller
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.dialler import TunnelDialler
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.outbound_connection import (
    Caller,
    OutboundConnection,
    OutboundShared,
    caller_fields,
)
from node_proxy.dataplane.reason import Reason
from node_proxy.dataplane.tables import Route
from node_proxy.dataplane.way import PLAIN, Way
from node_proxy.tunnel.pool import MAX_AGE, TunnelPool

# Tunnels opened together, as after a restart, must not end together.
AGE_JITTER = (0.8, 1.0)
UNKNOWN_DESTINATION = Reason("unknown_destination")
UNKNOWN_CALLER = Reason("unknown_caller")


class Outbound:
    """The callers' side of a worker."""

    def __init__(self, context: WorkerContext, nursery: trio.Nursery, admission: Admission) -> None:
        self._context = context
        self._dialler = TunnelDialler(context)
        self.shared = OutboundShared(
            context=context,
            nursery=nursery,
            admission=admission,
            pool=TunnelPool(
                nursery,
                self._dialler.open,
                max_age=lambda: MAX_AGE * context.rng.uniform(*AGE_JITTER),
            ),
            balancer=Balancer(context),
            answers=AnswerDeadlines(context.clock),
        )

    @property
    def open_connections(self) -> int:
        """Connections that have not ended."""
        return self.shared.open_connections

    def connected(
        self,
        sock: socket.socket,
        route: Route | None,
        caller: Caller | UnknownCaller,
        target: str,
        way: Way = PLAIN,
    ) -> None:
        """Take a tuned connection to `route`; refuse it without a route, or of a caller not to be served."""
        if route is None:
            self.refuse(sock, UNKNOWN_DESTINATION, caller, target, way)
        elif isinstance(caller, UnknownCaller):
            self.refuse(sock, UNKNOWN_CALLER, caller, target, way)
        else:
            OutboundConnection(self.shared, sock, route, caller, way).start()

    def refuse(
        self, sock: socket.socket, reason: Reason, caller: Caller | UnknownCaller, target: str, way: Way
    ) -> None:
        """Refuse a connection that leads nowhere, or of a caller not to be served."""
        self._context.telemetry.add(telemetry.STREAMS_REFUSED, reason=reason.code, workload="")
        self._context.log.warning(
            "stream refused",
            side="source",
            reason=reason.code,
            destination=target,
            source=caller.text if isinstance(caller, Caller) else None,
            **caller_fields(caller.process),
        )
        way.refused(sock, Refused.DENIED if reason is UNKNOWN_CALLER else Refused.UNKNOWN, reason)

    def retire_tunnels(self) -> None:
        """Use new credentials from now on; streams in present tunnels go on."""
        self.shared.pool.retire_all()

    def cut_untrusted(self) -> None:
        """Cut the tunnels whose peer may not stay."""
        self._dialler.cut_untrusted()

    async def watch_answers(self) -> None:
        """Time out attempts whose peer does not answer; runs until cancelled."""
        await self.shared.answers.watch()
