"""One connection of a workload to a service: endpoints are tried until one accepts.

No byte of the workload is read before an endpoint has accepted, so every earlier failure may be retried
on another endpoint without harm.
"""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVarTuple

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Call, Refusal
from node_proxy.dataplane.answers import AnswerDeadlines
from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.caller import Caller as Caller
from node_proxy.dataplane.caller import caller_fields as caller_fields
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.forwarded import FORWARDED_HEADER, render_forwarded
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.http.sniff import PROTOCOL_HEADER, Sniffed
from node_proxy.dataplane.local_relay import LocalRelay
from node_proxy.dataplane.open_streams import Admitted, OpenStream
from node_proxy.dataplane.reason import DENIED, INVALID_BACKEND, MAX_SHOWN, OTHER, Reason, parse_reason
from node_proxy.dataplane.relay import StreamRelay
from node_proxy.dataplane.socket_side import SocketSide
from node_proxy.dataplane.tables import Route, Tables
from node_proxy.dataplane.tcp_policy import connection_keys, lead, most_attempts
from node_proxy.dataplane.tcp_policy import routable_address as routable_address
from node_proxy.dataplane.way import PLAIN, Way
from node_proxy.dataplane.workload_dial import Origin, WorkloadDial
from node_proxy.errors import DialError, HandshakeError, LocalProtocolError, NodeProxyError, NoEndpoint
from node_proxy.snapshot import Endpoint
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.handlers import TUNNEL_CLOSED
from node_proxy.tunnel.http2 import CANCEL, REFUSED_STREAM
from node_proxy.tunnel.pool import TunnelKey, TunnelPool
from registry.rules.balancing.deadlines import compile_timeouts
from registry.rules.balancing.outcome import Outcome

# Answers that another endpoint may well give differently; 403 is the same everywhere.
RETRIED_STATUS = frozenset({404, 429, 502, 503, 504})
# A workload of this very host: on loopback it answers at once.
LOCAL_DIAL_TIMEOUT = 2.0
# Why a connection ended here, before any peer was asked or by our own fault.
NOWHERE = Reason("no_endpoint")
BROKEN = Reason("internal_error")

Ts = TypeVarTuple("Ts")


@dataclass(slots=True)
class OutboundShared:
    """What all outbound connections of a worker use; `open_connections` counts them."""

    context: WorkerContext
    nursery: trio.Nursery
    admission: Admission
    pool: TunnelPool
    balancer: Balancer
    answers: AnswerDeadlines
    open_connections: int = 0


class OutboundConnection:
    """From accept to the last byte; a stream handler while it waits for the peer's answer."""

    def __init__(
        self,
        shared: OutboundShared,
        sock: socket.socket,
        route: Route,
        caller: Caller,
        way: Way = PLAIN,
        spoken: Sniffed | None = None,
    ) -> None:
        self._shared = shared
        self._sock = sock
        self._way = way
        self._route = route
        self._caller = caller
        # What the caller speaks, on ports that do not say; the destination is told.
        self._spoken = spoken
        self._numbers = shared.context.telemetry.outbound(route.service)
        self._attempts = 0
        self._tried: set[Endpoint] = set()
        self._failures: list[str] = []
        # Whether the last attempt failed for want of an answer.
        self._late = False
        self._endpoint: Endpoint | None = None
        self._tunnel: TunnelConnection | None = None
        self._stream_id = 0
        self._started = shared.context.clock()
        # Seconds that one endpoint has, and when those of the present one are over.
        self._patience = 0.0
        self._until = 0.0
        # Whether it counts among the service's connections.
        self._counted = False

    def start(self) -> None:
        """Try the first endpoint; with a tunnel in the pool no task is needed."""
        self._shared.open_connections += 1
        self._numbers.begin()
        led = lead(self._shared.context, self._route, self._caller.identity)
        if led is None:
            nowhere = NoEndpoint(self._route.service, ("its TCPRoute leads to no service",))
            self._give_up(nowhere, reason=Reason(INVALID_BACKEND))
            return
        self._route = led
        self._patience = compile_timeouts(led.policy.timeouts).connect
        if reason := self._shared.balancer.admit_connection(led):
            self._give_up(NoEndpoint(led.service, (reason.code,)), reason=reason)
            return
        self._counted = True
        self._try_next()

    def timed_out(self) -> None:
        """Give up on a peer that did not answer."""
        if self._tunnel is not None:
            self._tunnel.reset_stream(self._stream_id, CANCEL)
            self._attempt_failed("no answer in time", eject=True, late=True)

    def _start(self, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        self._shared.nursery.start_soon(self._contain, task, *args)

    async def _contain(self, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Run a step of this connection; a bug in it ends the connection and leaves the books right."""
        error = await self._shared.context.contain(task, *args)
        if error is None:
            return
        self._shared.answers.end(self)
        if self._endpoint is not None:
            self._drop_endpoint()
            self._give_up(LocalProtocolError(f"internal error: {error!r}"), reason=BROKEN)

    # Attempts.

    def _try_next(self) -> None:
        endpoint = None
        balancer, policy = self._shared.balancer, self._route.policy
        if self._attempts < most_attempts(policy):
            keys = connection_keys(policy, self._sock, self._caller.text)
            endpoint = balancer.choose(self._route, self._tried, keys)
        if endpoint is None:
            self._give_up(NoEndpoint(f"{self._route.service}:{self._route.port}", tuple(self._failures)))
            return
        self._attempts += 1
        self._endpoint = endpoint
        self._until = self._shared.context.clock() + self._patience
        balancer.begin(self._route, endpoint)
        if endpoint.node == self._shared.context.node:
            self._call_locally(endpoint)
            return
        key = self._key(endpoint)
        if tunnel := self._shared.pool.get_nowait(key):
            self._ask(tunnel, endpoint)
        else:
            self._start(self._ask_when_open, key, endpoint)

    def _key(self, endpoint: Endpoint) -> TunnelKey:
        return TunnelKey(
            address=endpoint.address,
            port=endpoint.tunnel_port,
            source=self._caller.text,
            destination=endpoint.identity,
            server_name=endpoint.server_name,
        )

    async def _ask_when_open(self, key: TunnelKey, endpoint: Endpoint) -> None:
        try:
            with trio.fail_after(self._patience):
                tunnel = await self._shared.pool.get(key)
        except trio.TooSlowError:
            self._attempt_failed("no tunnel in time", eject=True, late=True)
        except NodeProxyError as error:
            late = isinstance(error, HandshakeError) and error.reason == "timeout"
            self._attempt_failed(str(error), eject=True, late=late)
        else:
            self._ask(tunnel, endpoint)

    def _ask(self, tunnel: TunnelConnection, endpoint: Endpoint) -> None:
        self._tunnel = tunnel
        self._shared.answers.begin(self, self._until)
        address = routable_address(self._sock)
        headers = [(FORWARDED_HEADER, render_forwarded(*address))] if address else []
        if self._spoken is not None:
            headers.append((PROTOCOL_HEADER, self._spoken.value.encode("ascii")))
        stream_id = tunnel.open_stream(endpoint.at, self, headers)
        if self._tunnel is tunnel:
            # Else the tunnel broke under the request, and the next attempt is under way already.
            self._stream_id = stream_id

    def _attempt_failed(
        self, why: str, *, eject: bool = False, again: bool = False, late: bool = False
    ) -> None:
        """Go on to another endpoint; the same one may be tried once more if `again`."""
        endpoint = self._drop_endpoint(Outcome.UNREACHED if eject else Outcome.ABANDONED)
        self._late = late
        self._shared.answers.end(self)
        self._tunnel = None
        self._failures.append(f"{endpoint.workload} at {endpoint.at}: {why}")
        if not again:
            self._tried.add(endpoint)
        if eject:
            self._shared.balancer.failed(endpoint, why)
        self._shared.context.telemetry.add(telemetry.CONNECT_RETRIES, service=self._route.service)
        self._try_next()

    def _give_up(self, error: NodeProxyError, *, reason: Reason = NOWHERE, detail: str = "") -> None:
        """End the connection; `reason` is the destination's if its proxy was asked and refused."""
        context, route = self._shared.context, self._route
        context.telemetry.add(telemetry.STREAMS_REFUSED, reason=reason.code, workload=route.service)
        if reason.code == DENIED:
            # The policy's name is the peer's word: good for the log, and no label of ours.
            context.telemetry.denied(
                side="source",
                reason=DENIED,
                policy="",
                source=self._caller.text,
                destination=route.service,
            )
        context.log.warning(
            "stream refused",
            side="source",
            reason=reason.code,
            policy=reason.policy,
            id=reason.decision,
            detail=detail or str(error),
            source=self._caller.text,
            destination=f"{route.service}:{route.port}",
            **caller_fields(self._caller.process),
        )
        self._way.refused(self._sock, self._why(reason), reason)
        self._count_closed(telemetry.Traffic(), "refused")

    def _why(self, reason: Reason) -> Refused:
        if reason.code == DENIED:
            return Refused.DENIED
        if reason is BROKEN:
            return Refused.FAILED
        return Refused.LATE if self._late else Refused.UNREACHABLE

    # The peer's answer.

    def on_accepted(self) -> None:
        """Relay from now on."""
        tunnel, endpoint = self._tunnel, self._endpoint
        if tunnel is None or endpoint is None:
            return
        self._shared.answers.end(self)
        self._shared.balancer.accepted(self._route, endpoint)
        context = self._shared.context
        relay = StreamRelay(
            SocketSide(self._sock, context.reactor),
            tunnel,
            self._stream_id,
            buffer=context.relay_buffer,
            backlog=context.backlog,
            on_closed=self._relay_closed,
        )
        tunnel.set_handler(self._stream_id, relay)
        self._way.granted(self._sock)
        relay.start()

    def on_refused(self, status: int, reason: str) -> None:
        """Try another endpoint if that can help; a denial is the same everywhere."""
        if status in RETRIED_STATUS:
            self._attempt_failed(f"{status} {reason}", eject=status == 503)
            return
        self._shared.answers.end(self)
        self._drop_endpoint()
        told = parse_reason(reason)
        if status == 403 and told.code == OTHER:
            # Another make's proxy.
            told = Reason(DENIED)
        shown = reason[:MAX_SHOWN]
        self._give_up(NoEndpoint(self._route.service, (shown,)), reason=told, detail=f"{status} {shown}")

    def on_reset(self, code: int) -> None:
        """Try again: nothing of the workload was sent yet.

        A draining peer refuses, a restarting one closes the tunnel: on a new tunnel it may well accept.
        """
        self._attempt_failed(
            f"reset before an answer ({code})", again=code in (TUNNEL_CLOSED, REFUSED_STREAM)
        )

    def on_data(self, _data: memoryview) -> None:
        """Payload before an answer: the protocol resets such a stream itself."""

    def on_ended(self) -> None:
        """An end before an answer is followed by a reset or a refusal."""

    def on_writable(self) -> None:
        """Nothing is sent before an answer."""

    # Calls within this host.

    def _call_locally(self, endpoint: Endpoint) -> None:
        verdict = self._shared.admission.admit(
            source=self._caller.identity,
            port=endpoint.port,
            serving=endpoint.identity,
            call=Call(
                # As if it came through a tunnel: where a policy's caller runs must not change what it says.
                source_ip=endpoint.address,
                destination_ip=endpoint.address,
                sni=endpoint.server_name,
            ),
            spoken=self._spoken,
        )
        if isinstance(verdict, Admitted) and verdict.reads_http:
            # It has become a port of HTTP since this connection was routed: bytes may not pass by its rules.
            self._attempt_failed("the port's requests are judged one by one now")
        elif isinstance(verdict, Admitted):
            self._start(self._dial_locally, endpoint, verdict, self._shared.context.enforced.tables)
        elif verdict.status in RETRIED_STATUS:
            self._attempt_failed(verdict.header)
        else:
            self._refused_locally(verdict)

    def _refused_locally(self, verdict: Refusal) -> None:
        self._drop_endpoint()
        error = NoEndpoint(self._route.service, (verdict.header,))
        self._give_up(error, reason=verdict.reason, detail=f"{verdict.status} {verdict.header}")

    async def _dial_locally(self, endpoint: Endpoint, admitted: Admitted, tables: Tables) -> None:
        context = self._shared.context
        # On loopback it has no address that would tell a workload anything; that of its host does.
        source = routable_address(self._sock) or (endpoint.address, 0)
        origin = Origin(source, (endpoint.address, admitted.port), host=endpoint.address)
        dial = WorkloadDial(context, admitted, origin)
        try:
            sock = await dial.complete(timeout=min(LOCAL_DIAL_TIMEOUT, self._patience))
        except DialError as error:
            self._attempt_failed(str(error), eject=True)
            return
        if context.enforced.tables is not tables:
            # What was decided under the former policies must be decided anew.
            sock.close()
            self._call_locally(endpoint)
            return
        self._shared.balancer.accepted(self._route, endpoint)
        relay = LocalRelay(
            self._sock,
            sock,
            poller=context.reactor,
            buffer=context.relay_buffer,
            on_closed=lambda relay, outcome: self._local_closed(relay, outcome, stream),
            shaper=self._shared.admission.shaper(admitted),
        )
        stream = self._shared.admission.streams.opened(admitted, relay.cut)
        self._way.granted(self._sock)
        relay.start()

    def _local_closed(self, relay: LocalRelay, outcome: str, stream: OpenStream) -> None:
        self._shared.admission.streams.closed(stream)
        self._closed(relay.traffic, outcome)

    # The end.

    def _relay_closed(self, relay: StreamRelay, outcome: str) -> None:
        self._closed(relay.traffic, outcome)

    def _closed(self, traffic: telemetry.Traffic, outcome: str) -> None:
        context, endpoint = self._shared.context, self._drop_endpoint()
        self._count_closed(traffic, outcome)
        context.log.info(
            "connection closed",
            side="outbound",
            source=self._caller.text,
            destination=endpoint.workload,
            identity=endpoint.identity,
            service=self._route.service,
            port=self._route.port,
            endpoint=endpoint.at,
            node=endpoint.node,
            attempts=self._attempts,
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            seconds=round(context.clock() - self._started, 6),
            outcome=outcome,
            **caller_fields(self._caller.process),
        )

    def _count_closed(self, traffic: telemetry.Traffic, outcome: str) -> None:
        self._shared.open_connections -= 1
        if self._counted:
            self._shared.balancer.disconnected(self._route)
        self._numbers.end(traffic, outcome)

    def _drop_endpoint(self, outcome: Outcome = Outcome.ABANDONED) -> Endpoint:
        endpoint = self._endpoint
        if endpoint is None:
            raise LocalProtocolError("an attempt ended twice")
        self._shared.balancer.end(self._route, endpoint, outcome=outcome)
        self._endpoint = None
        return endpoint
