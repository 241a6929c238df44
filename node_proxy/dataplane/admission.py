"""Admission: may this caller reach this port of this host, and may it still?

Every stream that ends at a workload of this host passes here, tunnelled or local. Admitted streams are
remembered, and when policies change they are judged again; those no longer allowed are cut.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.tables import LocalPort
from registry.model.identity import Identity
from registry.rules import Denied, Permit, authorize


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stream is not admitted: the HTTP status to answer with and the text of nodemesh-reason."""

    status: int
    code: str
    policy: str = ""
    decision: str = ""
    detail: str = ""

    @property
    def header(self) -> str:
        """The value of the nodemesh-reason header."""
        if not self.policy and not self.decision:
            return self.code
        return f"{self.code}; policy={self.policy or 'mesh-default'}; id={self.decision}"


@dataclass(frozen=True, slots=True)
class Admitted:
    """The right to dial a workload: only `Admission.admit` makes one."""

    permit: Permit
    source: Identity
    local: LocalPort
    port: int


@dataclass(eq=False, slots=True)
class OpenStream:
    """An admitted stream and how to cut it."""

    admitted: Admitted
    cut: Callable[[str], None]


class Admission:
    """Decides over the tables in force, and again over what is open when they change."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._open: set[OpenStream] = set()

    def admit(self, *, source: Identity, port: int, serving: str | None) -> Admitted | Refusal:
        """Judge a new stream to `port`.

        Args:
            source: who calls, proven.
            port: the workload's port.
            serving: the identity whose certificate the caller asked for and verified; a port of another
                workload is then not found, so that a stale caller never reaches whom it did not mean.
                None when the caller asked for none.
        """
        local = self._context.enforced.tables.local(port)
        if local is None or serving not in (None, local.workload.identity):
            return self._refuse(source, port, Refusal(404, "no_workload"))
        decision = authorize(local.policies, source=source, port=port)
        self._audit(decision, local)
        if isinstance(decision, Denied):
            refusal = Refusal(
                403, "denied", decision.policy, self._context.new_decision_id(), decision.reason
            )
            return self._refuse(source, port, refusal, local)
        return Admitted(decision, source, local, port)

    def opened(self, admitted: Admitted, cut: Callable[[str], None]) -> OpenStream:
        """Remember a stream that now carries payload; say `closed` with what this gives."""
        stream = OpenStream(admitted, cut)
        self._open.add(stream)
        return stream

    def closed(self, stream: OpenStream) -> None:
        """Forget a stream."""
        self._open.discard(stream)

    def judge_again(self) -> None:
        """Cut every open stream that the tables now in force do not allow."""
        tables = self._context.enforced.tables
        for stream in list(self._open):
            admitted = stream.admitted
            local = tables.local(admitted.port)
            if local is None or local.workload.identity != admitted.local.workload.identity:
                self._cut(stream, "workload_withdrawn", policy="")
                continue
            # A namespace that a policy closed by never parsing is closed to new streams only: the edit
            # that broke it must not hurt those that were admitted before.
            policies = replace(local.policies, closed_by=None)
            decision = authorize(policies, source=admitted.source, port=admitted.port)
            if isinstance(decision, Denied):
                self._cut(stream, decision.reason, policy=decision.policy)

    def _cut(self, stream: OpenStream, reason: str, *, policy: str) -> None:
        admitted = stream.admitted
        self._context.telemetry.add(telemetry.STREAMS_CUT, workload=admitted.local.workload.name)
        self._context.log.warning(
            "stream cut",
            reason=reason,
            policy=policy,
            id=self._context.new_decision_id(),
            source=str(admitted.source),
            destination=admitted.local.workload.name,
            port=admitted.port,
        )
        stream.cut(f"policy: {policy or reason}")

    def _audit(self, decision: Permit | Denied, local: LocalPort) -> None:
        for policy in decision.audited:
            self._context.telemetry.add(telemetry.AUDITED, policy=policy, workload=local.workload.name)

    def _refuse(
        self, source: Identity, port: int, refusal: Refusal, local: LocalPort | None = None
    ) -> Refusal:
        workload = local.workload.name if local else ""
        self._context.telemetry.add(telemetry.STREAMS_REFUSED, reason=refusal.code, workload=workload)
        self._context.log.warning(
            "stream refused",
            side="destination",
            status=refusal.status,
            reason=refusal.code,
            policy=refusal.policy,
            id=refusal.decision,
            detail=refusal.detail,
            source=str(source),
            destination=workload,
            port=port,
        )
        return refusal
