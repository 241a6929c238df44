"""Inbound: tunnels from other hosts, and the streams in them that ask for workloads of this host.

TLS first, then CONNECT, then admission, then the dial, and only then 200: a caller that hears 200 has
a workload at the other end. Never an open proxy: the authority must name this host and a registered port.
"""

import socket

import trio

from node_proxy.address import join_address
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Admitted, Refusal
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.inbound_stream import InboundStream, parse_authority
from node_proxy.errors import HandshakeError, PeerIdentityError
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.events import RequestRejected, StreamRequested
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.tls import accept_tls, peer_identity
from node_proxy.tunnel.tls_stream import TlsStream
from registry.model.identity import Identity

# A handshake takes two round trips; slower than this is an attack or a dead link.
HANDSHAKE_TIMEOUT = 10.0
# Each holds a TLS state of some 40 KiB; a slow-handshake attack gets no further than this.
MAX_HANDSHAKES = 512
# Peers of our make end their tunnels at half that age; for the others we do.
MAX_AGE = 7200.0


class Inbound:
    """The tunnel listener's side of a worker."""

    def __init__(self, context: WorkerContext, nursery: trio.Nursery, admission: Admission) -> None:
        self.context = context
        self.admission = admission
        self.nursery = nursery
        self._handshakes = 0
        self._tunnels: set[TunnelConnection] = set()

    @property
    def tunnels(self) -> int:
        """Tunnels that are open or on the way to it."""
        return len(self._tunnels) + self._handshakes

    @property
    def open_streams(self) -> int:
        """Streams that peers have open here."""
        return sum(tunnel.protocol.open_streams for tunnel in self._tunnels)

    def accepted(self, sock: socket.socket) -> None:
        """Take a tuned connection from the tunnel listener."""
        if self._handshakes >= MAX_HANDSHAKES:
            self.context.telemetry.add(telemetry.LIMIT_REACHED, limit="handshakes")
            sock.close()
            return
        self._handshakes += 1
        self.nursery.start_soon(self.context.contain, self._serve, sock)

    def drain(self) -> None:
        """Send GOAWAY on every tunnel; streams that are open go on."""
        for tunnel in list(self._tunnels):
            tunnel.drain()

    async def _serve(self, sock: socket.socket) -> None:
        peer = _peer_name(sock)
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                tls, source = await self._handshake(sock)
        except trio.TooSlowError:
            self._refused(peer, "timeout", f"no handshake within {HANDSHAKE_TIMEOUT:.0f} s")
        except (PeerIdentityError, HandshakeError) as error:
            self._refused(peer, error.reason, str(error))
        else:
            await self._keep(tls, source)

    async def _handshake(self, sock: socket.socket) -> tuple[TlsStream, Identity]:
        try:
            tls = await accept_tls(sock, self.context.enforced.contexts.server())
        finally:
            self._handshakes -= 1
        try:
            return tls, peer_identity(tls, trust_domain=self.context.trust_domain)
        except PeerIdentityError:
            tls.close()
            raise

    async def _keep(self, tls: TlsStream, source: Identity) -> None:
        peer = InboundPeer(self, source, self.context.enforced.contexts.identity_of(tls.asked_name))
        tunnel = TunnelConnection(
            tls,
            TunnelProtocol(Role.SERVER, budget=self.context.budget, calm=Calm(self.context.clock())),
            poller=self.context.reactor,
            buffer=self.context.tunnel_buffer,
            clock=self.context.clock,
            on_request=peer.on_request,
            on_rejected=peer.on_rejected,
        )
        self._tunnels.add(tunnel)
        numbers = self.context.telemetry
        numbers.add(telemetry.TUNNELS_OPENED, side="inbound")
        numbers.add(telemetry.TUNNELS_OPEN, side="inbound")
        try:
            tunnel.start()
            await tunnel.keep_alive(max_age=MAX_AGE)
        finally:
            self._tunnels.discard(tunnel)
            numbers.add(telemetry.TUNNELS_OPEN, -1, side="inbound")
            self.context.log.info(
                "tunnel closed", side="inbound", source=str(source), outcome=str(tunnel.closed)
            )

    def _refused(self, peer: str, reason: str, detail: str) -> None:
        self.context.telemetry.add(telemetry.TUNNELS_REFUSED, side="inbound", reason=reason)
        self.context.log.warning("tunnel refused", side="inbound", peer=peer, reason=reason, detail=detail)


class InboundPeer:
    """Answers the CONNECTs of one tunnel, whose `source` is proven."""

    def __init__(self, inbound: Inbound, source: Identity, serving: str | None) -> None:
        self._inbound = inbound
        self._source = source
        self._serving = serving

    def on_rejected(self, _tunnel: TunnelConnection, rejected: RequestRejected) -> None:
        """Log what was no CONNECT."""
        self._log_refused(rejected.status, rejected.reason, authority="")

    def on_request(self, tunnel: TunnelConnection, request: StreamRequested) -> None:
        """Judge a CONNECT and dial, or refuse."""
        verdict = self._judge(request.authority)
        if isinstance(verdict, Refusal):
            tunnel.refuse_stream(request.stream_id, verdict.status, verdict.header)
            return
        stream = InboundStream(self._inbound, tunnel, request.stream_id, verdict)
        tunnel.set_handler(request.stream_id, stream)
        stream.dial()

    def _judge(self, authority: str) -> Admitted | Refusal:
        target = parse_authority(authority)
        if target is None:
            return self._log_refused(400, "bad_authority", authority=authority)
        address, port = target
        if address not in self._inbound.context.enforced.tables.addresses:
            return self._log_refused(404, "not_this_host", authority=authority)
        return self._inbound.admission.admit(source=self._source, port=port, serving=self._serving)

    def _log_refused(self, status: int, reason: str, *, authority: str) -> Refusal:
        context = self._inbound.context
        context.telemetry.add(telemetry.STREAMS_REFUSED, reason=reason, workload="")
        context.log.warning(
            "stream refused",
            side="destination",
            status=status,
            reason=reason,
            # Comes from the peer: enough of it to recognise, not enough to fill a disk.
            authority=authority[:256],
            source=str(self._source),
        )
        return Refusal(status, reason)


def _peer_name(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "gone"
    return join_address(host, port)
