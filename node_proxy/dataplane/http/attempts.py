"""The tries of one request: one after the other, or two at once, until an answer is worth giving.

Which failures are tried again, and when, is decided by `registry.rules.balancing.retrying`.
"""

import math
from collections.abc import Set as AbstractSet

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.http.attempt import SWITCHING_PROTOCOLS, Attempt
from node_proxy.dataplane.http.errand import Errand, Means, NoAnswer
from node_proxy.dataplane.http.grpc import GrpcStatus, status_in
from node_proxy.dataplane.http.local_answer import REASON_FIELD
from node_proxy.dataplane.http.message import Fields, ResponseHead, first
from node_proxy.dataplane.reason import DIAL_FAILED, NO_ENDPOINT, TIMEOUT, Reason, parse_reason
from node_proxy.snapshot import Endpoint
from registry.rules.balancing.outcome import Outcome, outcome_of
from registry.rules.balancing.retrying import Again, Tried, Why, decide, hedge_after


class Attempts:
    """Asks endpoints until one answers, or until there is no more point in it."""

    def __init__(self, means: Means, errand: Errand) -> None:
        self._means = means
        self._errand = errand
        self._tried: set[Endpoint] = set()
        self._number = 0
        # All that were begun and not finished, by whom the request must not be left.
        self._running: list[Attempt] = []

    async def ask(self, nursery: trio.Nursery | None) -> tuple[Attempt, ResponseHead] | NoAnswer:
        """Give the attempt that was answered, with the head of the answer; the caller finishes it.

        Args:
            nursery: for what needs a task of its own: a body that is still to come, and hedges. None when the
                body is whole and nothing is hedged.
        """
        while True:
            # Another endpoint if there is one, else one of those that were asked already.
            first = self._begin(self._tried) or self._begin(frozenset())
            if first is None:
                return self._nowhere()
            attempt, found = await self._ask(first, nursery)
            if isinstance(found, ResponseHead) and self._is_final(found):
                return attempt, found
            tried = found.tried if isinstance(found, NoAnswer) else self._judge(found)
            if tried.outcome is Outcome.UNREACHED and isinstance(found, ResponseHead):
                self._means.balancer.failed(attempt.endpoint, "its proxy does not reach it")
            again = self._decide(tried) if tried.outcome.failed or self._may_repeat(tried) else None
            if again is None:
                return found if isinstance(found, NoAnswer) else (attempt, found)
            await self._give_up(attempt, found, tried)
            if again.delay:
                await trio.sleep(again.delay)

    def abandon(self) -> None:
        """Give up whatever is under way: the caller is gone, or has its answer."""
        for attempt in list(self._running):
            self._finish(attempt, Outcome.ABANDONED)

    def finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """Let go of the attempt that was answered."""
        self._finish(attempt, outcome)

    def _begin(self, passed_over: AbstractSet[Endpoint]) -> Attempt | None:
        errand = self._errand
        endpoint = self._means.balancer.choose(errand.target.route, passed_over, errand.keys)
        if endpoint is None:
            return None
        self._number += 1
        attempt = Attempt(self._means, errand, endpoint, self._number)
        self._running.append(attempt)
        return attempt

    async def _ask(
        self, first: Attempt, nursery: trio.Nursery | None
    ) -> tuple[Attempt, ResponseHead | NoAnswer]:
        errand = self._errand
        if nursery is not None and errand.body.ends_with_head and not errand.body.lost:
            after = hedge_after(errand.plan.retries, method=errand.head.method, replayable=True)
            if after is not None:
                return await self._ask_two(first, after, nursery)
        found = await first.ask(nursery)
        if isinstance(found, NoAnswer):
            self._finish(first, found.tried.outcome)
        return first, found

    async def _ask_two(
        self, first: Attempt, after: float, nursery: trio.Nursery
    ) -> tuple[Attempt, ResponseHead | NoAnswer]:
        """Ask a second endpoint too if the first takes long; the first good answer wins."""
        send, receive = trio.open_memory_channel[tuple[Attempt, ResponseHead | NoAnswer]](2)

        async def ask(attempt: Attempt, scope: trio.CancelScope) -> None:
            with scope:
                found = await attempt.ask(None)
                if isinstance(found, NoAnswer):
                    self._finish(attempt, found.tried.outcome)
                send.send_nowait((attempt, found))

        scopes = {first: trio.CancelScope()}
        nursery.start_soon(ask, first, scopes[first])
        with trio.move_on_after(after):
            return await receive.receive()
        now = self._means.context.clock()
        second = None
        if self._number <= self._errand.plan.retries.attempts and self._means.balancer.budget(
            self._errand.target.route
        ).take(now):
            second = self._begin({*self._tried, first.endpoint})
        if second is None:
            return await receive.receive()
        self._means.context.telemetry.add(telemetry.HEDGES, service=self._errand.target.route.service)
        scopes[second] = trio.CancelScope()
        nursery.start_soon(ask, second, scopes[second])
        attempt, found = await receive.receive()
        if isinstance(found, NoAnswer) or self._judge(found).outcome.failed:
            # The other may do better; what it does is then what counts.
            if not isinstance(found, NoAnswer):
                self._finish(attempt, Outcome.SERVER_ERROR)
            self._tried.add(attempt.endpoint)
            return await receive.receive()
        loser = second if attempt is first else first
        scopes[loser].cancel()
        self._finish(loser, Outcome.ABANDONED)
        return attempt, found

    def _is_final(self, head: ResponseHead) -> bool:
        """Whether an answer is surely not tried again; most are not, and need no closer look."""
        retries = self._errand.plan.retries
        if head.status >= 500 or self._errand.grpc:
            return False
        return head.status not in retries.codes and head.status not in retries.said

    def _judge(self, head: ResponseHead) -> Tried:
        grpc = status_in(head.fields) if self._errand.grpc else None
        if head.status == SWITCHING_PROTOCOLS:
            return Tried(Outcome.SUCCESS, status=head.status)
        if (head.status == 503 or grpc == GrpcStatus.UNAVAILABLE) and _is_unsent(head.fields):
            return Tried(Outcome.UNREACHED, untouched=True, status=head.status, grpc_status=grpc)
        return Tried(outcome_of(head.status, grpc), status=head.status, grpc_status=grpc)

    def _may_repeat(self, tried: Tried) -> bool:
        retries = self._errand.plan.retries
        return tried.status in retries.codes or tried.status in retries.said or bool(tried.grpc_status)

    def _decide(self, tried: Tried) -> Again | None:
        means, errand = self._means, self._errand
        now = means.context.clock()
        service = errand.target.route.service
        decision = decide(
            errand.plan.retries,
            means.balancer.budget(errand.target.route),
            tried,
            number=self._number,
            method=errand.head.method,
            replayable=not errand.body.lost,
            now=now,
            rng=means.context.rng,
            left=errand.deadline - now if errand.deadline < math.inf else None,
        )
        if isinstance(decision, Again):
            means.context.telemetry.add(
                telemetry.REQUEST_RETRIES, service=service, reason=decision.reason.value
            )
            return decision
        if decision.why is not Why.FINAL:
            means.context.telemetry.add(telemetry.RETRIES_WITHHELD, service=service, why=decision.why.value)
        return None

    async def _give_up(self, attempt: Attempt, found: ResponseHead | NoAnswer, tried: Tried) -> None:
        """Let go of an attempt whose failure is tried again."""
        if not isinstance(found, NoAnswer):
            attempt.discard_answer()
        if not (isinstance(found, NoAnswer) and found.again):
            self._tried.add(attempt.endpoint)
        self._finish(attempt, tried.outcome)
        # Only one at a time may read the body.
        await attempt.wait_pumped()

    def _nowhere(self) -> NoAnswer:
        if self._means.context.clock() >= self._errand.deadline:
            return NoAnswer(504, Reason(TIMEOUT), "", Tried(Outcome.TIMEOUT))
        tried = Tried(Outcome.UNREACHED, untouched=True)
        return NoAnswer(503, Reason(NO_ENDPOINT), "none is registered", tried)

    def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt in self._running:
            self._running.remove(attempt)
        attempt.finish(outcome)


def _is_unsent(fields: Fields) -> bool:
    """Whether an answer is one of the endpoint's proxy, which had no connection to send the request on.

    A connection to the endpoint that is used again may have lost its workload since.
    """
    said = first(fields, REASON_FIELD)
    return said is not None and parse_reason(said.decode("ascii", "replace")).code == DIAL_FAILED
