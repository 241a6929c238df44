"""Inbound: tunnels from other hosts, and the streams in them that ask for workloads of this host.

TLS first, then CONNECT, then admission, then the dial, and only then 200: a caller that hears 200 has
a workload at the other end. Never an open proxy: the authority must name this host and a registered port.
"""

import socket
from dataclasses import replace

import trio

from node_proxy.address import canonical, join_address
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Call, Refusal
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import ANY_PORT
from node_proxy.dataplane.forwarded import FORWARDED_HEADER, parse_forwarded
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.sniff import Sniffed, read_spoken
from node_proxy.dataplane.inbound_stream import InboundStream, parse_authority
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.reason import BAD_AUTHORITY, MAX_SHOWN, NOT_THIS_HOST
from node_proxy.dataplane.workload_dial import Origin
from node_proxy.errors import HandshakeError, PeerIdentityError, TunnelClosed
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.events import RequestRejected, StreamRequested
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.peer import Peer
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.tls import accept_tls, refuse
from node_proxy.tunnel.tls_stream import TlsStream
from registry.model.identity import Identity
from registry.rules import AuthRequest

# A handshake takes two round trips; slower than this is an attack or a dead link.
HANDSHAKE_TIMEOUT = 10.0
# Each holds a TLS state of some 40 KiB; a slow-handshake attack gets no further than this.
MAX_HANDSHAKES = 512
# Peers of our make end their tunnels at half that age; for the others we do.
MAX_AGE = 7200.0


class Inbound:
    """The tunnel listener's side of a worker."""

    def __init__(
        self, context: WorkerContext, nursery: trio.Nursery, admission: Admission, guard: Guard
    ) -> None:
        self.context = context
        self.admission = admission
        self.guard = guard
        self.nursery = nursery
        self._handshakes = 0
        self._tunnels: dict[TunnelConnection, Peer] = {}

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

    def cut_untrusted(self) -> None:
        """Close every tunnel whose peer the credentials now in force object to, with all its streams."""
        contexts = self.context.enforced.contexts
        for tunnel, peer in list(self._tunnels.items()):
            if (objection := contexts.objection(peer)) and tunnel.closed is None:
                self.context.tunnel_cut("inbound", peer, objection, streams=tunnel.protocol.open_streams)
                tunnel.close(TunnelClosed(objection.detail))

    async def _serve(self, sock: socket.socket) -> None:
        address = peer_address(sock)
        peer = join_address(*address) if address else "gone"
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                tls, proven = await self._handshake(sock)
        except trio.TooSlowError:
            self._refused(peer, "timeout", f"no handshake within {HANDSHAKE_TIMEOUT:.0f} s")
        except (PeerIdentityError, HandshakeError) as error:
            self._refused(peer, error.reason, str(error))
        else:
            await self._keep(tls, proven, address[0] if address else None)

    async def _handshake(self, sock: socket.socket) -> tuple[TlsStream, Peer]:
        try:
            tls = await accept_tls(sock, self.context.enforced.contexts.server())
        finally:
            self._handshakes -= 1
        try:
            return tls, self.context.enforced.contexts.peer(tls)
        except (HandshakeError, PeerIdentityError) as error:
            await refuse(tls, error)
            raise

    async def _keep(self, tls: TlsStream, proven: Peer, source_ip: str | None) -> None:
        source = proven.identity
        serving = self.context.enforced.contexts.identity_of(tls.asked_name)
        call = Call(source_ip=source_ip, sni=tls.asked_name)
        peer = InboundPeer(self, proven, serving, call)
        tunnel = TunnelConnection(
            tls,
            TunnelProtocol(Role.SERVER, budget=self.context.budget, calm=Calm(self.context.clock())),
            poller=self.context.reactor,
            buffer=self.context.tunnel_buffer,
            clock=self.context.clock,
            on_request=peer.on_request,
            on_rejected=peer.on_rejected,
        )
        self._tunnels[tunnel] = proven
        numbers = self.context.telemetry
        numbers.add(telemetry.TUNNELS_OPENED, side="inbound")
        numbers.add(telemetry.TUNNELS_OPEN, side="inbound")
        try:
            tunnel.start()
            await tunnel.keep_alive(max_age=MAX_AGE)
        finally:
            del self._tunnels[tunnel]
            numbers.add(telemetry.TUNNELS_OPEN, -1, side="inbound")
            self.context.log.info(
                "tunnel closed", side="inbound", source=str(source), outcome=str(tunnel.closed)
            )

    def _refused(self, peer: str, reason: str, detail: str) -> None:
        self.context.telemetry.add(telemetry.TUNNELS_REFUSED, side="inbound", reason=reason)
        self.context.log.warning("tunnel refused", side="inbound", peer=peer, reason=reason, detail=detail)


class InboundPeer:
    """Answers the CONNECTs of one tunnel, whose other end is `proven`."""

    def __init__(self, inbound: Inbound, proven: Peer, serving: str | None, call: Call) -> None:
        self._inbound = inbound
        self._source: Identity = proven.identity
        self._node = proven.facts.node
        self._serving = serving
        self._call = call

    def on_rejected(self, _tunnel: TunnelConnection, rejected: RequestRejected) -> None:
        """Log what was no CONNECT."""
        self._refuse(rejected.status, rejected.reason, authority="")

    def on_request(self, tunnel: TunnelConnection, request: StreamRequested) -> None:
        """Judge a CONNECT and dial, or refuse."""
        caller = self._caller(request)
        verdict = self._judge(request.authority, caller, read_spoken(request.headers))
        if isinstance(verdict, Refusal):
            tunnel.refuse_stream(request.stream_id, verdict.status, verdict.header)
            return
        origin = _origin(verdict, caller)
        stream = InboundStream(self._inbound, tunnel, request.stream_id, verdict, origin)
        tunnel.set_handler(request.stream_id, stream)
        stream.dial()

    def _caller(self, request: StreamRequested) -> tuple[str, int] | None:
        """Give the address and port that the peer says its caller has, if that is believed."""
        # A Forwarded of several fields is a list (RFC 9110 section 5.3), and a list was not asked for.
        said = [value for name, value in request.headers if name == FORWARDED_HEADER]
        caller = parse_forwarded(said[0]) if len(said) == 1 else None
        if caller is None or caller[0] == self._call.source_ip:
            return caller
        tables = self._inbound.context.enforced.tables
        return caller if tables.is_address_of(self._node, caller[0]) else None

    def _judge(
        self, authority: str, caller: tuple[str, int] | None, spoken: Sniffed | None
    ) -> Admitted | Refusal:
        target = parse_authority(authority)
        if target is None:
            return self._refuse(400, BAD_AUTHORITY, authority=authority)
        address, port = target
        if address not in self._inbound.context.enforced.tables.addresses:
            return self._refuse(404, NOT_THIS_HOST, authority=authority)
        return self._inbound.admission.admit(
            source=self._source,
            port=port,
            serving=self._serving,
            call=replace(self._call, destination_ip=address, remote_ip=caller[0] if caller else None),
            spoken=spoken,
        )

    def _refuse(self, status: int, code: str, *, authority: str) -> Refusal:
        refusal = Refusal(status, code, decision=self._inbound.context.new_decision_id())
        request = AuthRequest(None, ANY_PORT, source_ip=self._call.source_ip, sni=self._call.sni)
        return self._inbound.admission.refuse(self._source, request, refusal, authority=authority[:MAX_SHOWN])


def _origin(admitted: Admitted, caller: tuple[str, int] | None) -> Origin | None:
    request = admitted.request
    if caller is None and request.source_ip is not None:
        # The port that the tunnel comes from is no caller's.
        caller = request.source_ip, 0
    if caller is None or request.destination_ip is None:
        return None
    return Origin(caller, (request.destination_ip, request.port), host=request.source_ip)


def peer_address(sock: socket.socket) -> tuple[str, int] | None:
    """Give where a connection comes from; None when it has ended already."""
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return None
    return canonical(host), port
