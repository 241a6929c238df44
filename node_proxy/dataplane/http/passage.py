"""One request at the destination: judged, counted, and passed on to the workload; its answer passed back."""

import math
from typing import TYPE_CHECKING, Final

import trio

from node_proxy.dataplane.admission import Refusal
from node_proxy.dataplane.http.answering import AnswerBroken, pass_answer, pass_upgrade
from node_proxy.dataplane.http.deadline_fields import read_deadline
from node_proxy.dataplane.http.exchange import ClientExchange, ExchangeBroken, MessageRefused, ServerExchange
from node_proxy.dataplane.http.hygiene import (
    ROUTE_FIELD,
    answer_at_destination,
    clean_trailers,
    request_at_destination,
)
from node_proxy.dataplane.http.local_answer import local_answer
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead, first
from node_proxy.dataplane.http.request_view import IDEMPOTENT, view_request
from node_proxy.dataplane.http.workload_upstream import TooManyConnections, WorkloadUpstream
from node_proxy.dataplane.limiter import Limited
from node_proxy.dataplane.open_streams import Admitted, OpenStream
from node_proxy.dataplane.reason import (
    DENIED,
    DIAL_FAILED,
    OVERFLOW,
    RATE_LIMITED,
    TIMEOUT,
    UPSTREAM_INVALID,
    UPSTREAM_RESET,
    Reason,
)
from node_proxy.errors import DialError, NodeProxyError
from registry.rules import HttpRequest
from registry.rules.paths import forwardable

if TYPE_CHECKING:
    from node_proxy.dataplane.http.guarded import Guarded

CONTINUE: Final = 100
SWITCHING_PROTOCOLS: Final = 101
# How long a body waits for the 100 that its caller wants to hear first (RFC 9110 section 10.1.1: some servers
# never say it). Precedent: curl.
CONTINUE_TIMEOUT: Final = 1.0
# What of a body is sent together with the head, when it is there.
GATHERED: Final = 64 * 1024


class Passage:
    """A request on its way. `run` answers it, whatever becomes of it."""

    def __init__(self, guarded: "Guarded", upstream: WorkloadUpstream, exchange: ServerExchange) -> None:
        self._guarded = guarded
        self._upstream = upstream
        self._exchange = exchange
        self._client: ClientExchange | None = None
        # For the answer, whoever gives it.
        self._fields: tuple[tuple[bytes, bytes], ...] = ()
        # Why it was ended here: by a policy, or by its deadline.
        self._cut: Reason | None = None
        # What was wrong with the caller's body.
        self._bad_body: ExchangeBroken | MessageRefused | None = None
        self._go_on: trio.Event | None = None
        self._informed = False

    async def run(self) -> None:
        """Answer the request. Cancellation gives up on the workload's answer.

        Raises:
            MessageRefused: its body is no HTTP, and nothing was answered.
        """
        guarded, head = self._guarded, self._exchange.head
        http = view_request(head)
        verdict = guarded.shared.admission.admit_request(guarded.admitted, http)
        try:
            if isinstance(verdict, Refusal):
                await self._answer(verdict.status, verdict.reason, detail="denied by policy")
            elif (limited := self._limit(http)) is not None:
                detail = f"too many requests, by the limit {limited.name}"
                await self._answer(429, Reason(RATE_LIMITED), detail=detail)
            else:
                guarded.learned(verdict)
                await self._run_admitted(verdict)
        except ExchangeBroken:
            # The caller is gone.
            return

    def moved(self) -> None:
        """Nothing is timed by the bytes here: silence is for the caller's proxy to measure."""

    def cut(self, outcome: str) -> None:
        """End the request because a policy denies it now."""
        self._end(Reason(DENIED), outcome)

    def due(self, _now: float) -> float:
        """End the request because its caller no longer waits."""
        self._end(Reason(TIMEOUT), "deadline")
        return math.inf

    def _end(self, reason: Reason, why: str) -> None:
        self._cut = reason
        if self._client is not None:
            self._client.reset(why)
        if self._exchange.responded:
            self._exchange.reset(why)

    async def _run_admitted(self, admitted: Admitted) -> None:
        shared, exchange = self._guarded.shared, self._exchange
        streams = shared.admission.streams
        opened: OpenStream = streams.opened(admitted, self.cut)
        seconds = read_deadline(exchange.head.fields)
        moment = None if seconds is None else shared.timers.begin(self, shared.timers.now() + seconds)
        try:
            await self._pass_on()
        except AnswerBroken:
            # The caller has been told by a reset.
            return
        finally:
            if moment is not None:
                shared.timers.end(self, moment)
            streams.closed(opened)
            if self._client is not None:
                self._client.reset("the request is over")

    async def _pass_on(self) -> None:
        head = self._head_for_workload()
        body, whole = self._gather()
        if whole:
            # This task is cancelled when the caller is gone: nothing else has to be watched.
            await self._ask_and_answer(head, body, None)
            return
        failure: NodeProxyError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._ask_and_answer(head, body, nursery)
            except (ExchangeBroken, AnswerBroken, MessageRefused) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if isinstance(self._bad_body, MessageRefused) and not self._exchange.responded:
            # The connection answers for it, and says so to who counts such things.
            raise self._bad_body

    async def _ask_and_answer(self, head: RequestHead, body: bytes, sending: trio.Nursery | None) -> None:
        """Ask the workload, at most twice, and pass on what it says; `sending` sends the rest of the body."""
        for last in (False, True):
            reused = False
            try:
                self._client, reused = await self._upstream.request(head, body, end=sending is None)
                if self._cut is not None:
                    # While the workload was dialled.
                    self._client.reset("ended here")
                if sending is not None and not last:
                    self._go_on = trio.Event() if head.expects_continue else None
                    sending.start_soon(self._send_body, self._client)
                answer = await self._wait_head(self._client)
            except DialError as error:
                code = OVERFLOW if isinstance(error, TooManyConnections) else DIAL_FAILED
                await self._answer(503, Reason(code), detail=_DIAL_DETAIL[code])
                return
            except ExchangeBroken as error:
                if not last and sending is None and self._may_ask_again(error, reused=reused):
                    continue
                await self._answer_broken()
                return
            except MessageRefused:
                await self._answer(502, Reason(UPSTREAM_INVALID), detail="the workload's answer is no HTTP")
                return
            await self._pass_back(answer, self._client)
            return

    def _may_ask_again(self, error: ExchangeBroken, *, reused: bool) -> bool:
        """Whether the workload had closed a connection that was idle just when it was asked."""
        if self._cut is not None or self._informed:
            return False
        return reused and (error.untouched or self._exchange.head.method in IDEMPOTENT)

    async def _wait_head(self, client: ClientExchange) -> ResponseHead:
        while True:
            head = await client.response()
            if head.status >= 200 or head.status == SWITCHING_PROTOCOLS:
                return head
            self._informed = True
            if head.status == CONTINUE and self._go_on is not None:
                self._go_on.set()
            await self._exchange.inform(self._cleaned(head))

    async def _pass_back(self, head: ResponseHead, client: ClientExchange) -> None:
        head = self._cleaned(head)
        head.fields.extend(self._fields)
        self._guarded.answered(head.status)
        if head.status == SWITCHING_PROTOCOLS:
            await pass_upgrade(self._exchange, client, head, self)
        else:
            await pass_answer(self._exchange, client, head, self)

    async def _answer_broken(self) -> None:
        """Answer for a workload that gave none, by whoever's fault."""
        bad = self._bad_body
        if self._cut is not None:
            status = 504 if self._cut.code == TIMEOUT else 403
            await self._answer(status, self._cut)
        elif bad is not None:
            # Either there is nobody to be answered, or `_pass_on` says what was wrong.
            return
        else:
            detail = "the workload ended its connection without an answer"
            await self._answer(502, Reason(UPSTREAM_RESET), detail=detail)

    # The request.

    def _head_for_workload(self) -> RequestHead:
        head, guarded = self._exchange.head, self._guarded
        fields = request_at_destination(
            head.fields,
            authority=head.authority,
            address=guarded.address,
            identity=guarded.identity,
            in_mesh=guarded.in_mesh,
            trusted=guarded.trusted,
        )
        return head.changed(target=_forwardable(head.target), authority=head.authority, fields=fields)

    def _limit(self, http: HttpRequest) -> Limited | None:
        """Count the request; gives the limit that it is too many by."""
        guarded = self._guarded
        limiter = guarded.shared.admission.limiter
        if limiter is None:
            return None
        route = (first(self._exchange.head.fields, ROUTE_FIELD) or b"") if guarded.in_mesh else b""
        counted = limiter.check(
            guarded.admitted.local.workload.services,
            http,
            caller=guarded.identity,
            route=route.decode("ascii", "replace"),
        )
        self._fields = counted.headers
        return counted if isinstance(counted, Limited) else None

    def _gather(self) -> tuple[bytes, bool]:
        """Take what is there of the body already; gives it, and whether that is all."""
        head, body = self._exchange.head, self._exchange.body
        if head.length == 0:
            return b"", True
        if head.expects_continue:
            return b"", False
        parts: list[bytes] = []
        size = 0
        while size < GATHERED:
            found = body.receive_nowait()
            if found is None:
                return b"".join(parts), False
            if not found:
                return b"".join(parts), not body.trailers
            parts.append(found)
            size += len(found)
        return b"".join(parts), False

    async def _send_body(self, client: ClientExchange) -> None:
        if self._go_on is not None:
            with trio.move_on_after(CONTINUE_TIMEOUT):
                await self._go_on.wait()
        body = self._exchange.body
        try:
            while data := await body.receive():
                await _send(client, data)
        except _WorkloadDeaf:
            # It may have answered all the same.
            return
        except (ExchangeBroken, MessageRefused) as error:
            self._bad_body = error
            client.reset("the request's body broke")
            return
        try:
            await client.end(clean_trailers(body.trailers))
        except ExchangeBroken:
            return

    # Answers.

    def _cleaned(self, head: ResponseHead) -> ResponseHead:
        return ResponseHead(head.status, answer_at_destination(head.fields), head.length, head.upgrade)

    async def _answer(self, status: int, reason: Reason, *, detail: str = "") -> None:
        """Answer instead of the workload; break off what was answered in part."""
        exchange = self._exchange
        self._guarded.answered(status)
        if exchange.responded:
            exchange.reset(reason.code)
            return
        fields: Fields = list(self._fields)
        head, body = local_answer(exchange.head, status, reason, fields=fields, detail=detail)
        await exchange.respond(head, body, end=True)


class _WorkloadDeaf(Exception):
    """The workload takes no more of the body."""


async def _send(client: ClientExchange, data: bytes) -> None:
    try:
        await client.send(data)
    except ExchangeBroken as error:
        raise _WorkloadDeaf from error


_DIAL_DETAIL: Final = {
    DIAL_FAILED: "the workload does not take the connection",
    OVERFLOW: "the workload's connections for this caller are all in use",
}


def _forwardable(target: bytes) -> bytes:
    """Give what is sent on for a target, which is what was judged."""
    return forwardable(target.decode("utf-8", "surrogateescape")).encode("ascii", "replace")
