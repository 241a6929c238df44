"""Live enforcement: may what is open still be?

Admitted streams are remembered, and the requests that are under way in them; when policies change they are
judged again, and those no longer allowed are cut, at once or after the grace that the mesh gives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.decisions import identity_text
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.tables import LocalPort, Tables
from registry.model.decision import Outcome
from registry.model.identity import Identity
from registry.rules import AuthRequest, Denied, Permit, WorkloadPolicies, authorize

# The reason code of a denial of what is open already, which no header carries.
CUT = "cut"


@dataclass(frozen=True, slots=True)
class Admitted:
    """The right to dial a workload, or to ask it something: only `Admission` makes one. `decision` is its id.

    `source` is None when the caller has proven nothing. `spoken` is what the caller's proxy says that it
    carries, if it does.
    """

    permit: Permit
    source: Identity | None
    local: LocalPort
    request: AuthRequest
    decision: str
    spoken: Sniffed | None = None

    @property
    def reads_http(self) -> bool:
        """Whether each of its requests is judged by itself."""
        return self.request.opening

    @property
    def port(self) -> int:
        """The workload's port."""
        return self.request.port


@dataclass(frozen=True, slots=True)
class Sentence:
    """The denial of an open stream: it is cut when the worker's clock says `due`."""

    due: float
    policy: str
    reason: str
    decision: str


@dataclass(eq=False, slots=True)
class OpenStream:
    """An admitted stream and how to cut it; `sentence` while it is denied and its grace lasts."""

    admitted: Admitted
    cut: Callable[[str], None]
    sentence: Sentence | None = None


class OpenStreams:
    """The admitted streams that are open; decides over them again when other tables are in force."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._open: set[OpenStream] = set()
        self._sentenced = trio.Event()

    def opened(self, admitted: Admitted, cut: Callable[[str], None]) -> OpenStream:
        """Remember a stream that now carries payload; say `closed` with what this gives."""
        stream = OpenStream(admitted, cut)
        self._open.add(stream)
        return stream

    def closed(self, stream: OpenStream) -> None:
        """Forget a stream, and how to cut it: whoever had it opened is in there, and holds it in turn."""
        self._open.discard(stream)
        stream.cut = _nothing_to_cut

    def judge_again(self) -> None:
        """Deny every open stream that the tables now in force do not allow: cut it now, or after the grace.

        One whose workload is gone is cut at once: whoever has its port now was not called.
        """
        tables = self._context.enforced.tables
        due = self._context.clock() + tables.enforcement_grace
        for stream in list(self._open):
            # Cutting one may end others.
            if stream in self._open:
                self._judge(stream, tables, due)

    def judge(self, stream: OpenStream) -> None:
        """Judge one stream again that was admitted before it was opened."""
        tables = self._context.enforced.tables
        if tables.local(stream.admitted.port) is not stream.admitted.local:
            self._judge(stream, tables, self._context.clock() + tables.enforcement_grace)

    def _judge(self, stream: OpenStream, tables: Tables, due: float) -> None:
        admitted = stream.admitted
        local = tables.local(admitted.port)
        if local is None or local.workload.identity != admitted.local.workload.identity:
            self._cut(stream, self._sentence(stream, Denied("", "workload_withdrawn"), -math.inf))
            return
        decision = authorize(policies_of_open(local), admitted.request)
        if isinstance(decision, Denied):
            self._deny(stream, decision, due)
        elif stream.sentence is not None:
            self._log("stream allowed again", stream, stream.sentence)
            stream.sentence = None

    async def cut_after_grace(self) -> None:
        """Cut denied streams as their grace ends; runs until cancelled."""
        while True:
            self._sentenced = trio.Event()
            next_due = self._cut_due()
            with trio.move_on_after(next_due - self._context.clock()):
                await self._sentenced.wait()

    def _cut_due(self) -> float:
        """Cut every stream whose grace has ended; gives when the next one's does."""
        now, next_due = self._context.clock(), math.inf
        for stream in list(self._open):
            sentence = stream.sentence
            if sentence is None or stream not in self._open:
                continue
            if sentence.due <= now:
                self._cut(stream, sentence)
            else:
                next_due = min(next_due, sentence.due)
        return next_due

    def _deny(self, stream: OpenStream, denied: Denied, due: float) -> None:
        """Cut an open stream when `due`, or when an earlier denial of it was."""
        before, sentence = stream.sentence, self._sentence(stream, denied, due)
        if sentence.due <= self._context.clock():
            self._cut(stream, sentence)
            return
        stream.sentence = sentence
        if before is None or before.policy != sentence.policy:
            self._log("stream denied", stream, sentence)
        self._sentenced.set()

    def _sentence(self, stream: OpenStream, denied: Denied, due: float) -> Sentence:
        """Give the sentence for a denial; one that stands already keeps its id and is never put off."""
        if stream.sentence is not None:
            due = min(due, stream.sentence.due)
            return Sentence(due, denied.policy, denied.reason, stream.sentence.decision)
        admitted = stream.admitted
        sentence = Sentence(due, denied.policy, denied.reason, self._context.new_decision_id())
        self._context.decisions.note(
            admitted.source,
            admitted.request,
            destination=admitted.local.workload.name,
            outcome=Outcome.DENIED,
            reason=CUT,
            policy=denied.policy,
            decision=sentence.decision,
            now=self._context.clock(),
        )
        return sentence

    def _cut(self, stream: OpenStream, sentence: Sentence) -> None:
        self._open.discard(stream)
        workload = stream.admitted.local.workload.name
        self._context.telemetry.add(telemetry.STREAMS_CUT, workload=workload)
        self._context.telemetry.denied(
            side="destination",
            reason=CUT,
            policy=sentence.policy,
            source=identity_text(stream.admitted.source),
            destination=workload,
        )
        self._log("stream cut", stream, sentence)
        stream.cut(f"policy: {sentence.policy or sentence.reason}")

    def _log(self, event: str, stream: OpenStream, sentence: Sentence) -> None:
        admitted = stream.admitted
        self._context.log.warning(
            event,
            reason=sentence.reason,
            policy=sentence.policy,
            id=sentence.decision,
            source=identity_text(admitted.source),
            source_ip=admitted.request.source_ip,
            destination=admitted.local.workload.name,
            port=admitted.port,
            grace_seconds=round(max(0.0, sentence.due - self._context.clock()), 3),
        )


def policies_of_open(local: LocalPort) -> WorkloadPolicies:
    """Give what holds for what is open, and for the requests in it.

    A namespace that a policy closed by never parsing is closed to new streams only: the edit that broke it
    must not hurt those that were admitted before.
    """
    policies = local.policies
    return policies if policies.closed_by is None else replace(policies, closed_by=None)


def _nothing_to_cut(_outcome: str) -> None:
    """Stand for how to cut a stream that has ended."""
