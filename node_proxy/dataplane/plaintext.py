"""Plaintext: what other hosts send to workloads' ports past the mesh, redirected here by nftables.

PeerAuthentication decides whether callers of a workload must have proven who they are. STRICT: a reset, so
that nobody gets around the mesh by dialling the port. PERMISSIVE: the policies decide as over any caller
without an identity, and what they admit is counted apart and judged again when they change.
"""

import socket
from collections.abc import Callable

import trio

from node_proxy.address import canonical
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.accept import original_destination
from node_proxy.dataplane.admission import Admission, Call, Refusal
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import ANY_PORT
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.guarded import Guarded
from node_proxy.dataplane.http.socket_channel import SocketChannel
from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.reason import DIAL_FAILED, NOT_REDIRECTED
from node_proxy.dataplane.socket_side import abort_socket
from node_proxy.dataplane.workload_dial import Origin, WorkloadDial
from node_proxy.errors import DialError
from registry.rules import AuthRequest

# As for a workload that is called through a tunnel.
DIAL_TIMEOUT = 5.0
# Strangers' connections, each of two descriptors and up to 64 KiB each way that the other side has not taken.
MAX_CONNECTIONS = 4096


class Plaintext:
    """The plaintext listener's side of a worker; `open_connections` have not ended.

    Args:
        context: the worker's.
        nursery: owns the dials.
        admission: decides.
        guard: serves what is HTTP.
        called: says what a redirected connection was meant for.
    """

    def __init__(
        self,
        context: WorkerContext,
        nursery: trio.Nursery,
        admission: Admission,
        guard: Guard,
        *,
        called: Callable[[socket.socket], tuple[str, int] | None] = original_destination,
    ) -> None:
        self._called = called
        self.context = context
        self.admission = admission
        self.guard = guard
        self.nursery = nursery
        self.open_connections = 0

    def accepted(self, sock: socket.socket) -> None:
        """Take a tuned connection from the plaintext listener."""
        try:
            host, port = sock.getpeername()[:2]
            own, own_port = sock.getsockname()[:2]
        except OSError:
            # It has ended already.
            sock.close()
            return
        called = self._called(sock)
        caller = canonical(host), port
        if called is None or called == (canonical(own), own_port):
            # To this very port, or by a rule that is none of ours: nobody knows what was meant.
            self._refuse(sock, caller[0], NOT_REDIRECTED)
        elif self.open_connections >= MAX_CONNECTIONS:
            self.context.telemetry.add(telemetry.LIMIT_REACHED, limit="plaintext")
            abort_socket(sock)
        else:
            self._judge(sock, Origin(caller, called))

    def _judge(self, sock: socket.socket, origin: Origin) -> None:
        (source, _), (destination, port) = origin.source, origin.destination
        if not is_own_address(destination):
            # This host is a router, and the call is for another.
            self._refuse(sock, source, NOT_REDIRECTED)
            return
        verdict = self.admission.admit(
            source=None,
            port=port,
            serving=None,
            call=Call(source_ip=source, destination_ip=destination),
        )
        if isinstance(verdict, Refusal):
            abort_socket(sock)
        else:
            PlaintextConnection(self, sock, verdict, origin).start()

    def _refuse(self, sock: socket.socket, source: str, code: str) -> None:
        refusal = Refusal(404, code, decision=self.context.new_decision_id())
        self.admission.refuse(None, AuthRequest(None, ANY_PORT, source_ip=source), refusal)
        abort_socket(sock)


class PlaintextConnection:
    """One admitted connection, from the dial of its workload to the last byte.

    Nothing of the caller is read before the workload has a connection.
    """

    def __init__(self, host: Plaintext, sock: socket.socket, admitted: Admitted, origin: Origin) -> None:
        self._host = host
        # None once a relay has it, or it is closed.
        self._sock: socket.socket | None = sock
        self._admitted = admitted
        self._origin = origin
        self._dial = WorkloadDial(host.context, admitted, origin)
        self._relay: LocalRelay | None = None
        self._started = host.context.clock()
        self._numbers = host.context.telemetry.inbound(
            admitted.local.workload.name, security=telemetry.PLAINTEXT
        )
        # From here on, so that a policy that changes during the dial is obeyed as well.
        self._open = host.admission.streams.opened(admitted, self.cut)
        host.open_connections += 1

    def start(self) -> None:
        """Connect to the workload; one of this host mostly answers at once."""
        try:
            sock, connected = self._dial.start()
        except DialError as error:
            self._refuse(error)
            return
        if connected:
            self._connected(sock)
        else:
            self._host.nursery.start_soon(self._contain_dial, sock)

    def cut(self, outcome: str) -> None:
        """End the connection now, whether or not it carries payload already."""
        if self._relay is not None:
            self._relay.cut(outcome)
        elif self._sock is not None:
            self._drop()

    async def _contain_dial(self, sock: socket.socket) -> None:
        if await self._host.context.contain(self._finish_dial, sock):
            self._drop()

    async def _finish_dial(self, sock: socket.socket) -> None:
        try:
            await self._dial.finish(sock, timeout=DIAL_TIMEOUT)
        except DialError as error:
            self._refuse(error)
        else:
            self._connected(sock)

    def _connected(self, sock: socket.socket) -> None:
        caller, self._sock = self._sock, None
        if caller is None:
            # Cut in the meantime.
            sock.close()
            return
        context = self._host.context
        if self._admitted.reads_http:
            self._hand_over(caller, sock)
            return
        self._relay = LocalRelay(
            caller,
            sock,
            poller=context.reactor,
            buffer=context.relay_buffer,
            on_closed=self._closed,
            shaper=self._host.admission.shaper(self._admitted),
        )
        self._numbers.begin()
        self._relay.start()

    def _hand_over(self, caller: socket.socket, sock: socket.socket) -> None:
        """Let the guard serve the connection; it says itself what is open."""
        host = self._host
        channel = SocketChannel(caller, host.context.reactor)
        guarded = host.guard.take(channel, self._admitted, self._origin, sock, security=telemetry.PLAINTEXT)
        host.admission.streams.closed(self._open)
        host.nursery.start_soon(self._serve, guarded)

    async def _serve(self, guarded: Guarded) -> None:
        try:
            await self._host.context.contain(guarded.run)
        finally:
            self._host.open_connections -= 1

    def _refuse(self, error: DialError) -> None:
        if self._sock is None:
            return
        workload = self._admitted.local.workload.name
        self._host.context.telemetry.add(telemetry.STREAMS_REFUSED, reason=DIAL_FAILED, workload=workload)
        self._host.context.log.warning(
            "stream refused",
            side="destination",
            reason=DIAL_FAILED,
            id=self._admitted.decision,
            detail=str(error),
            source="",
            source_ip=self._origin.source[0],
            destination=workload,
            port=self._admitted.port,
        )
        self._drop()

    def _drop(self) -> None:
        """End what carries no payload yet."""
        sock, self._sock = self._sock, None
        if sock is not None:
            abort_socket(sock)
            self._host.open_connections -= 1
            self._host.admission.streams.closed(self._open)

    def _closed(self, relay: LocalRelay, outcome: str) -> None:
        context, admitted = self._host.context, self._admitted
        # Else they would hold each other, and only the garbage collector could free them.
        self._relay = None
        self._host.open_connections -= 1
        self._host.admission.streams.closed(self._open)
        # The relay counts what its caller sent; here, as with tunnels, `sent` is what the workload did.
        traffic = telemetry.Traffic(sent=relay.traffic.received, received=relay.traffic.sent)
        self._numbers.end(traffic, outcome)
        context.log.info(
            "connection closed",
            side="inbound",
            security=telemetry.PLAINTEXT,
            source="",
            source_ip=self._origin.source[0],
            destination=admitted.local.workload.name,
            identity=admitted.local.workload.identity,
            port=admitted.port,
            policy=admitted.permit.policy,
            id=admitted.decision,
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            seconds=round(context.clock() - self._started, 6),
            outcome=outcome,
        )


def is_own_address(address: str) -> bool:
    """Whether an IP literal is an address of this host."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
