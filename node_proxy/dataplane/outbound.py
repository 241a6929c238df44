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
from node_proxy.dataplane.http.callers_side import CallersSide, sniff_socket
from node_proxy.dataplane.http.errand import Means
from node_proxy.dataplane.http.forwarder import Forwarding
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.kept_body import KeptBytes
from node_proxy.dataplane.http.limits import MESH_LIMITS, HttpLimits
from node_proxy.dataplane.http.mirroring import Mirroring
from node_proxy.dataplane.http.openings import Openings
from node_proxy.dataplane.http.refusals import Refusals, RequestNumbers
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.http.targets import Targets
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.http.upstreams import Upstreams
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
from registry.model.service import PortProtocol

# Tunnels opened together, as after a restart, must not end together.
AGE_JITTER = (0.8, 1.0)
UNKNOWN_DESTINATION = Reason("unknown_destination")
UNKNOWN_CALLER = Reason("unknown_caller")


class Outbound:
    """The callers' side of a worker.

    Args:
        context: the worker's.
        nursery: owns what is done in the background.
        admission: decides over calls within this host.
        guard: this host's own side as a destination of HTTP.
        timers: of requests; whoever makes them runs them.
    """

    def __init__(
        self,
        context: WorkerContext,
        nursery: trio.Nursery,
        admission: Admission,
        guard: Guard,
        timers: Timers,
    ) -> None:
        self._context = context
        self._nursery = nursery
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
        limits = HttpLimits()
        openings = Openings(context, nursery, pool=lambda: self.shared.pool, admission=admission, guard=guard)
        self.upstreams = Upstreams(
            context, nursery, openings=openings, balancer=self.shared.balancer, limits=MESH_LIMITS
        )
        means = Means(context, self.shared.balancer, self.upstreams, timers)
        self.kept = KeptBytes()
        forwarding = Forwarding(
            means,
            Targets(),
            Mirroring(means, nursery),
            self.kept,
            RequestNumbers(context.telemetry, "source"),
            Refusals(context),
        )
        self._http = CallersSide(context, forwarding, limits)

    @property
    def open_connections(self) -> int:
        """Connections that have not ended."""
        return self.shared.open_connections + self._http.open_connections

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
        elif route.protocol.http:
            self._nursery.start_soon(self._context.contain, self._http.serve, sock, route, caller, way)
        elif route.protocol is PortProtocol.AUTO:
            self._nursery.start_soon(self._context.contain, self._sniff, sock, route, caller, way)
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

    async def _sniff(self, sock: socket.socket, route: Route, caller: Caller, way: Way) -> None:
        """Find out what a caller speaks, and take its connection as that."""
        self.shared.open_connections += 1
        try:
            # It speaks only after it has heard that it may.
            way.granted(sock)
            spoken = await sniff_socket(sock)
        except BaseException:
            sock.close()
            raise
        finally:
            self.shared.open_connections -= 1
        if spoken is Sniffed.TCP:
            OutboundConnection(self.shared, sock, route, caller, PLAIN, spoken).start()
        else:
            await self._http.serve(sock, route, caller, PLAIN)

    async def drain(self, grace: float) -> None:
        """Take no more requests, and close connections that are idle after `grace` seconds."""
        await self._http.drain(grace)

    def retire_tunnels(self) -> None:
        """Use new credentials from now on; streams in present tunnels go on."""
        self.shared.pool.retire_all()
        self.upstreams.retire_all()

    def cut_untrusted(self) -> None:
        """Cut the tunnels whose peer may not stay."""
        self._dialler.cut_untrusted()

    async def run(self) -> None:
        """Time out attempts whose peer does not answer, and close idle connections; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.shared.answers.watch)
            nursery.start_soon(self.upstreams.sweep)
