"""Outbound: connections of this host's workloads to services of the mesh.

Accept, find the service and the caller's identity, then hand over to an `OutboundConnection`, which
picks endpoints and opens streams. What is common to all of them lives here: the pool of tunnels,
ejections, loads, and the deadline of answers.
"""

import math
import socket
from collections import defaultdict
from collections.abc import Set as AbstractSet

import trio

from node_proxy.address import join_address
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.ejection import Ejections
from node_proxy.dataplane.outbound_connection import Caller, OutboundConnection
from node_proxy.dataplane.socket_side import abort_socket
from node_proxy.dataplane.tables import Route
from node_proxy.errors import HandshakeError, NodeProxyError, PeerIdentityError, TunnelClosed
from node_proxy.snapshot import Endpoint
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.pool import TunnelKey, TunnelPool
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.sockets import connect
from node_proxy.tunnel.tls import connect_tls, require_identity
from registry.rules import pick

# TCP and TLS to a peer: three round trips.
TUNNEL_TIMEOUT = 5.0
# The peer's dial of its workload has 5 s; its answer then needs one way back.
ANSWER_TIMEOUT = 6.0
# How late a missed answer may be noticed.
ANSWER_CHECK_INTERVAL = 0.5


class Outbound:
    """The callers' side of a worker."""

    def __init__(self, context: WorkerContext, nursery: trio.Nursery, admission: Admission) -> None:
        self.context = context
        self.admission = admission
        self.nursery = nursery
        self.pool = TunnelPool(nursery, self._open_tunnel)
        self.ejections = Ejections()
        self.open_connections = 0
        self._loads: defaultdict[tuple[str, int], int] = defaultdict(int)
        # In the order of their deadlines, since all wait equally long.
        self._unanswered: dict[OutboundConnection, float] = {}

    def connected(self, sock: socket.socket, route: Route | None, caller: Caller | None, target: str) -> None:
        """Take a tuned connection of a workload to `route`; refuse it when there is no route or no caller."""
        if route is None or caller is None:
            reason = "unknown_destination" if route is None else "unknown_caller"
            self.context.telemetry.add(telemetry.STREAMS_REFUSED, reason=reason, workload="")
            self.context.log.warning(
                "stream refused",
                side="source",
                reason=reason,
                destination=target,
                source=caller and caller.text,
            )
            abort_socket(sock)
            return
        OutboundConnection(self, sock, route, caller).start()

    # What connections use.

    def choose(self, route: Route, tried: AbstractSet[Endpoint]) -> Endpoint | None:
        """Pick an endpoint that was not tried: healthy, not ejected, the less loaded of two."""
        now = self.context.clock()
        return pick(
            route.endpoints,
            load=lambda endpoint: self._loads.get((endpoint.address, endpoint.port), 0),
            rng=self.context.rng,
            exclude=tried,
            ejected=lambda endpoint: self.ejections.ejected(endpoint, now),
        )

    def load(self, endpoint: Endpoint, change: int) -> None:
        """Count a connection to an endpoint, or its end."""
        key = (endpoint.address, endpoint.port)
        self._loads[key] += change
        if not self._loads[key]:
            del self._loads[key]

    def failed(self, endpoint: Endpoint, cause: str) -> None:
        """Eject an endpoint that could not be reached."""
        seconds = self.ejections.failed(endpoint, self.context.clock())
        self.context.telemetry.add(
            telemetry.ENDPOINT_EJECTIONS, node=endpoint.node, workload=endpoint.workload
        )
        self.context.log.warning(
            "endpoint ejected",
            node=endpoint.node,
            workload=endpoint.workload,
            address=endpoint.at,
            cause=cause,
            seconds=seconds,
        )

    def key(self, endpoint: Endpoint, caller: Caller) -> TunnelKey:
        """Say which tunnel leads to an endpoint for a caller."""
        return TunnelKey(
            address=endpoint.address,
            port=endpoint.tunnel_port,
            source=caller.text,
            destination=endpoint.identity,
            server_name=endpoint.server_name,
        )

    def await_answer(self, connection: OutboundConnection) -> None:
        """Call the connection's `timed_out` unless it says `answered` in time."""
        self._unanswered[connection] = self.context.clock() + ANSWER_TIMEOUT

    def answered(self, connection: OutboundConnection) -> None:
        """Stop the clock of a connection."""
        self._unanswered.pop(connection, None)

    async def watch_answers(self) -> None:
        """Time out attempts whose peer does not answer; runs until cancelled."""
        while True:
            await trio.sleep(ANSWER_CHECK_INTERVAL)
            now = self.context.clock()
            late = [connection for connection, deadline in self._unanswered.items() if deadline <= now]
            for connection in late:
                # One that times out may break its tunnel, and others of the list try again at once.
                if self._unanswered.get(connection, math.inf) <= now:
                    del self._unanswered[connection]
                    connection.timed_out()

    # Tunnels.

    async def _open_tunnel(self, key: TunnelKey) -> TunnelConnection:
        peer = join_address(key.address, key.port)
        try:
            with trio.fail_after(TUNNEL_TIMEOUT):
                tunnel = await self._handshake(key)
        except trio.TooSlowError:
            error: NodeProxyError = HandshakeError(
                f"no tunnel within {TUNNEL_TIMEOUT:.0f} s", reason="timeout"
            )
            self._tunnel_refused(key, peer, "timeout", error)
            raise error from None
        except (PeerIdentityError, HandshakeError) as error:
            self._tunnel_refused(key, peer, error.reason, error)
            raise
        except NodeProxyError as error:
            self._tunnel_refused(key, peer, "connect", error)
            raise
        except Exception as error:
            # The pool's callers understand our errors only; theirs is the connection that this costs.
            self.context.crashed()
            raise TunnelClosed(f"internal error: {error!r}") from error
        self.context.telemetry.add(telemetry.TUNNELS_OPENED, side="outbound")
        return tunnel

    async def _handshake(self, key: TunnelKey) -> TunnelConnection:
        context = self.context
        client = self.context.enforced.contexts.client(key.source)
        sock = await connect(key.address, key.port, timeout=TUNNEL_TIMEOUT, mark=context.mark)
        tls = await connect_tls(sock, client, server_name=key.server_name)
        try:
            require_identity(tls, key.destination, trust_domain=context.trust_domain)
        except PeerIdentityError:
            tls.close()
            raise
        tunnel = TunnelConnection(
            tls,
            TunnelProtocol(Role.CLIENT, budget=context.budget, calm=Calm(context.clock())),
            poller=context.reactor,
            buffer=context.tunnel_buffer,
            clock=context.clock,
        )
        try:
            await tunnel.wait_established()
        except BaseException:
            tunnel.close(TunnelClosed("given up before it was established"))
            raise
        return tunnel

    def _tunnel_refused(self, key: TunnelKey, peer: str, reason: str, error: NodeProxyError) -> None:
        self.context.telemetry.add(telemetry.TUNNELS_REFUSED, side="outbound", reason=reason)
        self.context.log.warning(
            "tunnel refused",
            side="outbound",
            peer=peer,
            reason=reason,
            detail=str(error),
            source=key.source,
            destination=key.destination,
        )
