"""One connection of a caller to a workload's HTTP port, from the dial to the end of its last request."""

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Refusal
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import identity_text
from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import MessageRefused, ServerExchange
from node_proxy.dataplane.http.h1_server import serve_h1
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.joining import join
from node_proxy.dataplane.http.limits import LIMIT_REASONS, HttpLimits
from node_proxy.dataplane.http.message import Version
from node_proxy.dataplane.http.passage import Passage
from node_proxy.dataplane.http.refusals import RequestNumbers
from node_proxy.dataplane.http.sniff import PREFACE, Sniffed, sniff
from node_proxy.dataplane.http.socket_channel import SocketChannel
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.http.workload_upstream import WorkloadUpstream
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.quiet import Quiet
from node_proxy.dataplane.workload_dial import Origin
from registry.model.identity import WorkloadIdentity
from registry.model.service import PortProtocol
from registry.rules.patterns import text_test

# A caller that says nothing for so long on a port of `protocol: auto` waits for the workload to speak first,
# as clients of databases and of SMTP do.
SNIFF_TIMEOUT: Final = 0.5


@dataclass(slots=True)
class GuardShared:
    """What all guarded connections of a worker use; `open` are those that have not ended."""

    context: WorkerContext
    admission: Admission
    timers: Timers
    draining: Callable[[], bool]
    limits: HttpLimits
    numbers: RequestNumbers
    open: set["Guarded"] = field(default_factory=set)
    quiet: Quiet = field(default_factory=Quiet)


class Guarded:
    """Finds out what the caller speaks, and passes on each request that is let in (`Passage`).

    Args:
        shared: the guard's.
        channel: where the caller is.
        admitted: the right to dial.
        origin: who calls, as the workload is told.
        dialled: the workload's connection.
        security: how the caller came to this host; None when it is of this host, and counted elsewhere.
    """

    def __init__(
        self,
        shared: GuardShared,
        channel: Channel,
        admitted: Admitted,
        origin: Origin | None,
        dialled: socket.socket,
        *,
        security: str | None,
    ) -> None:
        self.shared = shared
        self.context = shared.context
        self.admitted = admitted
        self.identity = str(admitted.source) if isinstance(admitted.source, WorkloadIdentity) else ""
        self.address = (origin.source[0] if origin else None) or admitted.request.source_ip or "0.0.0.0"  # noqa: S104 - nobody listens there: it says that the address is not known
        self.in_flight = 0
        self._channel = channel
        self._origin = origin
        # None once a channel has it.
        self._dialled: socket.socket | None = dialled
        self._upstream: WorkloadUpstream | None = None
        self._security = security
        self._outcome = "done"
        self._started = self.context.clock()
        self._codes: Counter[int] = Counter()
        self._trust: tuple[object, bool] = (None, False)
        self._scope = trio.CancelScope()
        self._numbers = None
        if security is not None:
            workload = admitted.local.workload.name
            self._numbers = self.context.telemetry.inbound(workload, security=security)
            self._numbers.begin()
        # From here on, so that a policy that changes before `run` is obeyed as well.
        self._open = shared.admission.streams.opened(admitted, self.cut)
        shared.open.add(self)

    async def run(self) -> None:
        """Serve until the caller, the workload or a policy ends it. Cancellation resets both sides."""
        try:
            with self._scope:
                # The tables may have changed between the judgement and now.
                self.shared.admission.streams.judge(self._open)
                # It may be kept for hours: who is there is to be seen before it ends.
                self._log("connection opened")
                await self._serve()
        except ChannelBroken as error:
            self._outcome = self._outcome if self._outcome != "done" else str(error)
        except BaseException:
            self._outcome = "cancelled"
            raise
        finally:
            self._end()

    def cut(self, outcome: str) -> None:
        """End everything now."""
        self._outcome = outcome
        self._channel.abort()
        self._scope.cancel()

    def close_if_idle(self) -> None:
        """End a connection between two requests."""
        if not self.in_flight:
            self._outcome = "drained"
            self._channel.close()

    @property
    def trusted(self) -> bool:
        """Whether a service before the workload believes the caller about those it calls for."""
        tables = self.context.enforced.tables
        if self._trust[0] is not tables:
            self._trust = tables, self._is_trusted()
        return self._trust[1]

    @property
    def in_mesh(self) -> bool:
        """Whether a proxy of the mesh has sent what comes here."""
        return self.admitted.source is not None

    def learned(self, verdict: Admitted) -> None:
        """Keep what was decided of a request, where that is what holds for the connection as a whole.

        So policies that are edited cost the next request a look, and not each one from then on.
        """
        local = verdict.local
        if local is not self.admitted.local and not local.policies.asked.layer7:
            self.admitted = replace(self.admitted, permit=verdict.permit, local=local)

    def answered(self, code: int) -> None:
        """Count an answer."""
        self._codes[code] += 1
        self.shared.numbers.count(self.admitted.local.workload.name, "", code)

    # Serving.

    async def _serve(self) -> None:
        spoken, first = await self._find_out()
        match spoken:
            case Sniffed.TCP:
                await self._carry(first)
            case Sniffed.HTTP_1:
                await self._serve_requests(Version.HTTP_11, first)
            case Sniffed.HTTP_2:
                await self._serve_requests(Version.HTTP_2, first)

    async def _find_out(self) -> tuple[Sniffed, bytes]:
        """Find what the caller speaks; gives that, and what was read of it."""
        admitted = self.admitted
        if not admitted.reads_http:
            return Sniffed.TCP, b""
        declared = admitted.local.workload.protocols.get(admitted.port) is not PortProtocol.AUTO
        if admitted.spoken in (Sniffed.HTTP_1, Sniffed.HTTP_2):
            return admitted.spoken, b""
        patience = self.shared.limits.idle_seconds if declared else SNIFF_TIMEOUT
        first = b""
        found: Sniffed | None = None
        with trio.move_on_after(patience):
            while found is None and (data := await self._channel.receive()):
                first += data
                found = _preface(first) if declared else sniff(first)
        if declared:
            # Whatever it is, it is read as HTTP/1 and refused if it is none.
            return found or Sniffed.HTTP_1, first
        return found or Sniffed.TCP, first

    async def _serve_requests(self, version: Version, first: bytes) -> None:
        shared, sock = self.shared, self._dialled
        if sock is None:
            return
        self._dialled = None
        async with trio.open_nursery() as nursery:
            self._upstream = WorkloadUpstream(
                self.context,
                self.admitted,
                self._origin,
                sock,
                version=version,
                limits=shared.limits,
                shaper=self.shared.admission.shaper(self.admitted),
                nursery=nursery,
            )
            serve = (
                partial(serve_h2, backlog=self.context.backlog)
                if version is Version.HTTP_2
                else partial(serve_h1, timers=shared.timers)
            )
            await serve(
                self._channel,
                self._handle,
                limits=shared.limits,
                draining=shared.draining,
                first_bytes=first,
                on_refused=self._refused,
            )
            self._upstream.close()
            nursery.cancel_scope.cancel()

    async def _handle(self, exchange: ServerExchange) -> None:
        if self._upstream is None:
            return
        self.in_flight += 1
        try:
            await Passage(self, self._upstream, exchange).run()
        finally:
            self.in_flight -= 1

    async def _carry(self, first: bytes) -> None:
        """Carry what is no HTTP, if it may be at all."""
        if self.admitted.reads_http:
            verdict = self.shared.admission.admit_bytes(self.admitted)
            if isinstance(verdict, Refusal):
                self._outcome = "refused"
                self._channel.abort()
                return
            self.admitted = self._open.admitted = verdict
        sock, self._dialled = self._dialled, None
        if sock is None:
            return
        workload = SocketChannel(
            sock, self.context.reactor, shaper=self.shared.admission.shaper(self.admitted)
        )
        self.in_flight += 1
        await join(self._channel, workload, first)

    def _is_trusted(self) -> bool:
        source, tables = self.admitted.source, self.context.enforced.tables
        if not isinstance(source, WorkloadIdentity) or source.trust_domain != self.context.trust_domain:
            return False
        caller = f"{source.namespace}/{source.account}"
        policies = (tables.backend_policies.get(name) for name in self.admitted.local.workload.services)
        return any(
            text_test(policy.trusted_forwarders)(caller)
            for policy in policies
            if policy is not None and policy.trusted_forwarders
        )

    # What went wrong, and the end.

    def _refused(self, error: MessageRefused) -> None:
        """Log and count what is no HTTP that is passed on: it was answered, and went no further."""
        context, workload = self.context, self.admitted.local.workload.name
        context.telemetry.add(telemetry.REQUESTS_REFUSED, reason=error.reason, workload=workload)
        if error.reason in LIMIT_REASONS:
            context.telemetry.add(telemetry.LIMIT_REACHED, limit=error.reason)
        self.answered(error.status)
        left_out = self.shared.quiet.ask((self.identity, workload, error.reason), context.clock())
        if left_out is not None:
            context.log.warning(
                "request refused",
                side="destination",
                status=error.status,
                reason=error.reason,
                detail=error.detail,
                source=identity_text(self.admitted.source),
                source_ip=self.admitted.request.source_ip,
                destination=workload,
                port=self.admitted.port,
                left_out=left_out,
            )

    def _end(self) -> None:
        shared, admitted = self.shared, self.admitted
        # As where bytes are relayed: `sent` is what the workload did.
        traffic = telemetry.Traffic(sent=self._channel.sent, received=self._channel.received)
        shared.open.discard(self)
        shared.admission.streams.closed(self._open)
        self._channel.close()
        if self._upstream is not None:
            self._upstream.close()
        if self._dialled is not None:
            self._dialled.close()
        if self._numbers is not None:
            self._numbers.end(traffic, self._outcome)
        self._log(
            "connection closed",
            policy=admitted.permit.policy,
            requests=self._codes.total(),
            failed=sum(count for code, count in self._codes.items() if code >= 500),
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            seconds=round(self.context.clock() - self._started, 6),
            outcome=self._outcome,
        )

    def _log(self, event: str, **facts: object) -> None:
        admitted = self.admitted
        self.context.log.info(
            event,
            side="inbound",
            security=self._security,
            source=identity_text(admitted.source),
            source_ip=admitted.request.source_ip,
            destination=admitted.local.workload.name,
            identity=admitted.local.workload.identity,
            port=admitted.port,
            id=admitted.decision,
            **facts,
        )


def _preface(first: bytes) -> Sniffed | None:
    """Tell HTTP/2 from whatever else, which is for the reader of HTTP/1; None while it may be either."""
    if first.startswith(PREFACE):
        return Sniffed.HTTP_2
    return None if PREFACE.startswith(first) else Sniffed.HTTP_1
