"""Admission: may this caller reach this port of this host?

Every stream that ends at a workload of this host passes here, tunnelled or local. Whether it may still is
asked again of those that are open (`node_proxy.dataplane.open_streams`). Every decision has an id and goes
to the decision log.
"""

from dataclasses import dataclass

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import identity_text
from node_proxy.dataplane.open_streams import Admitted, OpenStreams
from node_proxy.dataplane.reason import (
    DENIED,
    MESH_DEFAULT,
    NO_WORKLOAD,
    PLAINTEXT_REFUSED,
    Reason,
    render_reason,
)
from node_proxy.dataplane.tables import LocalPort
from registry.model.decision import Outcome
from registry.model.identity import Identity, WorkloadIdentity
from registry.rules import AuthRequest, Denied, Permit, authorize

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
    """Decides over the tables in force; `streams` are those admitted streams that are open."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self.streams = OpenStreams(context)

    def admit(
        self, *, source: Identity | None, port: int, serving: str | None, call: Call = UNKNOWN_CALL
    ) -> Admitted | Refusal:
        """Judge a new stream to `port`.

        Args:
            source: who calls, proven; a node speaks for processes of no workload: nobody is authenticated.
                None came past the mesh, and proves nothing.
            port: the workload's port.
            serving: the identity whose certificate the caller asked for and verified; a port of another
                workload is then not found, so that a stale caller never reaches whom it did not mean.
                None when the caller asked for none.
            call: what else is known of the call.
        """
        local = self._context.enforced.tables.local(port)
        request = AuthRequest(
            source if isinstance(source, WorkloadIdentity) else None,
            port,
            source_ip=call.source_ip,
            remote_ip=call.remote_ip,
            destination_ip=call.destination_ip,
            sni=call.sni,
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
        self._note(
            source, request, local.workload.name, Outcome.PERMITTED, PERMITTED, decision.policy, number
        )
        return Admitted(decision, source, local, request, number)

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
        self._note(source, request, workload, Outcome.DENIED, code, refusal.policy, refusal.decision)
        context.telemetry.add(telemetry.STREAMS_REFUSED, reason=code, workload=workload)
        context.telemetry.denied(
            side="destination",
            reason=code,
            policy=refusal.policy,
            source=identity_text(source),
            destination=workload,
        )
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
