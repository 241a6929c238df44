"""Admission: may this caller reach this port of this host?

Every stream that ends at a workload of this host passes here, tunnelled or local, and where its HTTP is read
every request in it. Whether it may still is asked again of those that are open
(`node_proxy.dataplane.open_streams`). Every decision has an id and goes to the decision log.
"""

from dataclasses import dataclass, replace

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import identity_text
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.limiter import Limiter
from node_proxy.dataplane.open_streams import Admitted, OpenStreams, policies_of_open
from node_proxy.dataplane.quiet import Quiet
from node_proxy.dataplane.reason import (
    DENIED,
    MAX_SHOWN,
    MESH_DEFAULT,
    NO_WORKLOAD,
    PLAINTEXT_REFUSED,
    RATE_LIMITED,
    Reason,
    render_reason,
)
from node_proxy.dataplane.shaping import Shaper
from node_proxy.dataplane.tables import LocalPort
from registry.model.decision import Outcome
from registry.model.identity import Identity, WorkloadIdentity
from registry.model.service import PortProtocol
from registry.rules import AuthRequest, Denied, HttpRequest, Permit, authorize

# The reason code of a permit, which no header carries.
PERMITTED = "permitted"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stream is not admitted: the HTTP status to answer with and the text of nodemesh-reason."""

    status: int
    code: str
    policy: str = ""
    decision: str = ""
    detail: str = ""

    @property
    def reason(self) -> Reason:
        """What the caller's proxy is told."""
        policy = self.policy or (MESH_DEFAULT if self.code == DENIED else "")
        return Reason(self.code, policy, self.decision)

    @property
    def header(self) -> str:
        """The value of the nodemesh-reason header."""
        return render_reason(self.reason)


@dataclass(frozen=True, slots=True)
class Call:
    """Where a call comes from and what it named, as policies see it.

    `remote_ip` is the caller's own address, where its host has said one that is believed.
    """

    source_ip: str | None = None
    remote_ip: str | None = None
    destination_ip: str | None = None
    sni: str | None = None


UNKNOWN_CALL = Call()


class Admission:
    """Decides over the tables in force; `streams` are those admitted streams that are open.

    Args:
        context: the worker's.
        limiter: counts what is admitted; None where nothing is limited.
    """

    def __init__(self, context: WorkerContext, limiter: Limiter | None = None) -> None:
        self._context = context
        self.limiter = limiter
        self.streams = OpenStreams(context)
        self._quiet = Quiet()

    def admit(
        self,
        *,
        source: Identity | None,
        port: int,
        serving: str | None,
        call: Call = UNKNOWN_CALL,
        spoken: Sniffed | None = None,
    ) -> Admitted | Refusal:
        """Judge a new stream to `port`.

        Where its HTTP is read, it is admitted if any request in it might be; each is judged then
        (`admit_request`).

        Args:
            source: who calls, proven; a node speaks for processes of no workload: nobody is authenticated.
                None came past the mesh, and proves nothing.
            port: the workload's port.
            serving: the identity whose certificate the caller asked for and verified; a port of another
                workload is then not found, so that a stale caller never reaches whom it did not mean.
                None when the caller asked for none.
            call: what else is known of the call.
            spoken: what the caller's proxy says that it carries; on a port that is declared as HTTP its word
                does not count.
        """
        local = self._context.enforced.tables.local(port)
        request = AuthRequest(
            source if isinstance(source, WorkloadIdentity) else None,
            port,
            source_ip=call.source_ip,
            remote_ip=call.remote_ip,
            destination_ip=call.destination_ip,
            sni=call.sni,
            opening=local is not None and _reads_http(local, port, spoken),
        )
        number = self._context.new_decision_id()
        if local is None or serving not in (None, local.workload.identity):
            return self.refuse(source, request, Refusal(404, NO_WORKLOAD, decision=number))
        decision = authorize(local.policies, request)
        self._audit(decision, local)
        if isinstance(decision, Denied):
            strict = source is None and local.policies.require_identity(port)
            code = PLAINTEXT_REFUSED if strict else DENIED
            refusal = Refusal(403, code, decision.policy, number, decision.reason)
            return self.refuse(source, request, refusal, local.workload.name)
        services = local.workload.services
        if (
            self.limiter is not None
            and self.limiter.concerns(services)
            and (limited := self.limiter.refuses_connection(services, identity_text(request.source)))
        ):
            refusal = Refusal(429, RATE_LIMITED, decision=number, detail=f"too many connections to {limited}")
            return self.refuse(source, request, refusal, local.workload.name)
        self._note(
            source, request, local.workload.name, Outcome.PERMITTED, PERMITTED, decision.policy, number
        )
        return Admitted(decision, source, local, request, number, spoken)

    def shaper(self, admitted: Admitted) -> Shaper | None:
        """Give what paces the bytes of an admitted stream; None if nothing does."""
        services = admitted.local.workload.services
        if self.limiter is None or not self.limiter.concerns(services):
            return None
        return self.limiter.shaper(services, identity_text(admitted.request.source))

    def admit_bytes(self, admitted: Admitted) -> Admitted | Refusal:
        """Judge a stream again that was admitted for its requests and turns out to have none."""
        source, number = admitted.source, self._context.new_decision_id()
        request = replace(admitted.request, opening=False)
        local = self._context.enforced.tables.local(request.port)
        if local is None or local.workload.identity != admitted.local.workload.identity:
            return self.refuse(source, request, Refusal(404, NO_WORKLOAD, decision=number))
        decision = authorize(local.policies, request)
        self._audit(decision, local)
        if isinstance(decision, Denied):
            refusal = Refusal(403, DENIED, decision.policy, number, decision.reason)
            return self.refuse(source, request, refusal, local.workload.name)
        return Admitted(decision, source, local, request, admitted.decision, Sniffed.TCP)

    def admit_request(self, admitted: Admitted, http: HttpRequest) -> Admitted | Refusal:
        """Judge a request in an admitted stream, by the policies in force now."""
        source, before = admitted.source, admitted.local
        local = self._context.enforced.tables.local(admitted.port)
        if local is None or local.workload.identity != before.workload.identity:
            return self._refuse_request(admitted, http, NO_WORKLOAD, Denied("", "workload_withdrawn"))
        request = admitted.request.asking(http)
        if local is before and not local.policies.asked.layer7:
            # What was decided of the stream holds for whatever is in it.
            return Admitted(admitted.permit, source, local, request, admitted.decision, admitted.spoken)
        decision = authorize(policies_of_open(local), request)
        self._audit(decision, local)
        if isinstance(decision, Denied):
            return self._refuse_request(admitted, http, DENIED, decision)
        number = self._context.new_decision_id()
        self._note(
            source, request, local.workload.name, Outcome.PERMITTED, PERMITTED, decision.policy, number
        )
        return Admitted(decision, source, local, request, number, admitted.spoken)

    def _refuse_request(self, admitted: Admitted, http: HttpRequest, code: str, decision: Denied) -> Refusal:
        number, context = self._context.new_decision_id(), self._context
        status = 404 if code == NO_WORKLOAD else 403
        refusal = Refusal(status, code, decision.policy, number, decision.reason)
        source, workload = admitted.source, admitted.local.workload.name
        self._count_refusal(source, admitted.request.asking(http), refusal, workload)
        context.telemetry.add(telemetry.REQUESTS_REFUSED, reason=code, workload=workload)
        sort = (source, workload, admitted.port, code, decision.policy)
        left_out = self._quiet.ask(sort, context.clock())
        if left_out is not None:
            context.log.warning(
                "request refused",
                side="destination",
                status=status,
                reason=code,
                policy=decision.policy,
                id=number,
                detail=decision.reason,
                source=identity_text(source),
                source_ip=admitted.request.source_ip,
                destination=workload,
                port=admitted.port,
                method=http.method[:MAX_SHOWN],
                path=http.path[:MAX_SHOWN],
                host=http.host[:MAX_SHOWN],
                left_out=left_out,
            )
        return refusal

    def refuse(
        self,
        source: Identity | None,
        request: AuthRequest,
        refusal: Refusal,
        workload: str = "",
        *,
        authority: str | None = None,
    ) -> Refusal:
        """Log and count a refusal, of `workload` or of what is none; gives it back.

        `authority` is what the peer asked for, where the request does not say it.
        """
        context, code = self._context, refusal.code
        self._count_refusal(source, request, refusal, workload)
        context.telemetry.add(telemetry.STREAMS_REFUSED, reason=code, workload=workload)
        context.log.warning(
            "stream refused",
            side="destination",
            status=refusal.status,
            reason=code,
            policy=refusal.policy,
            id=refusal.decision,
            detail=refusal.detail,
            source=identity_text(source),
            source_ip=request.source_ip,
            destination=workload,
            port=request.port,
            **({} if authority is None else {"authority": authority}),
        )
        return refusal

    def _count_refusal(
        self, source: Identity | None, request: AuthRequest, refusal: Refusal, workload: str
    ) -> None:
        self._note(source, request, workload, Outcome.DENIED, refusal.code, refusal.policy, refusal.decision)
        self._context.telemetry.denied(
            side="destination",
            reason=refusal.code,
            policy=refusal.policy,
            source=identity_text(source),
            destination=workload,
        )

    def _note(
        self,
        source: Identity | None,
        request: AuthRequest,
        workload: str,
        outcome: Outcome,
        reason: str,
        policy: str,
        decision: str,
    ) -> None:
        context = self._context
        context.decisions.note(
            source,
            request,
            destination=workload,
            outcome=outcome,
            reason=reason,
            policy=policy,
            decision=decision,
            now=context.clock(),
        )

    def _audit(self, decision: Permit | Denied, local: LocalPort) -> None:
        for policy in decision.audited:
            self._context.telemetry.add(telemetry.AUDITED, policy=policy, workload=local.workload.name)


def _reads_http(local: LocalPort, port: int, spoken: Sniffed | None) -> bool:
    """Whether the requests of a stream are judged one by one."""
    protocol = local.workload.protocols.get(port, PortProtocol.TCP)
    return protocol.http or (protocol is PortProtocol.AUTO and spoken is not Sniffed.TCP)
