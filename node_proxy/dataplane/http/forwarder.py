"""The callers' side of HTTP: every request is led by the routes to an endpoint, and its answer back.

What is decided here for each request: faults, the deadline, whether the service may be asked at all. What
routes say is `leading`, trying endpoints `attempts`, what passes between caller and endpoint `answering`.
"""

from dataclasses import dataclass
from typing import Final

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.http.answering import AnswerBroken, pass_answer, pass_upgrade
from node_proxy.dataplane.http.attempt import SWITCHING_PROTOCOLS, Attempt
from node_proxy.dataplane.http.attempts import Attempts
from node_proxy.dataplane.http.deadline_fields import read_deadline
from node_proxy.dataplane.http.errand import Errand, Means, NoAnswer
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused, ServerExchange
from node_proxy.dataplane.http.faults import Drawn
from node_proxy.dataplane.http.grpc import is_grpc, status_in
from node_proxy.dataplane.http.kept_body import KeptBody, KeptBytes
from node_proxy.dataplane.http.leading import Led, LocalAnswer, call_of, lead
from node_proxy.dataplane.http.local_answer import local_answer
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.dataplane.http.mirroring import Mirroring
from node_proxy.dataplane.http.refusals import Refusals, RequestNumbers
from node_proxy.dataplane.http.targets import Targets
from node_proxy.dataplane.http.upstream_key import KeyRing
from node_proxy.dataplane.reason import BAD_REQUEST, FAULT, TIMEOUT, TOO_LARGE, Reason
from node_proxy.dataplane.tables import Route
from registry.rules.balancing.keys import NO_KEYS, find_keys, session_cookie
from registry.rules.balancing.outcome import Outcome, outcome_of

# Seconds for all of a body that is waited for before anybody is asked: it is kept meanwhile, and all callers'
# bodies share the room for that. Precedent: nginx's client_body_timeout.
SMALL_BODY_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What the forwarders of a worker share; the bytes that they keep are bounded together."""

    means: Means
    targets: Targets
    mirroring: Mirroring
    kept: KeptBytes
    numbers: RequestNumbers
    refusals: Refusals


class Forwarder:
    """Answers the requests of one connection of a caller.

    Args:
        shared: the worker's.
        route: the service port that was called.
        caller: who calls.
        address: the caller's, where it leads to it.
    """

    def __init__(self, shared: Forwarding, route: Route, caller: Caller, address: str | None) -> None:
        self._shared = shared
        self._means = shared.means
        self._route = route
        self._caller = caller
        self._address = address
        self._keys = KeyRing(caller.text, address)

    async def handle(self, exchange: ServerExchange) -> None:
        """Answer one request. Cancellation leaves nothing of it under way."""
        context, request = self._means.context, exchange.head
        led = lead(
            context.enforced.tables,
            self._shared.targets,
            context.rng,
            called=self._route,
            caller=self._caller,
            request=request,
        )
        try:
            if isinstance(led, LocalAnswer):
                await self._answer(exchange, led)
            else:
                await self._forward(exchange, led)
        except ExchangeBroken:
            # The caller is gone.
            self._count(led.route, 0)
            exchange.reset("the caller is gone")

    async def _forward(self, exchange: ServerExchange, led: Led) -> None:
        means, target = self._means, led.target
        errand = self._errand(exchange, led)
        if target.faults and (drawn := target.faults.draw(call_of(exchange.head), means.context.rng)):
            fault = await self._suffer(drawn, errand)
            if fault is not None:
                await self._answer(exchange, fault)
                return
        try:
            # Before it takes the place of another: a caller may be slow to send what it wants to ask.
            if failure := await self._read_body(errand):
                await self._answer(exchange, failure)
                return
            if refused := means.balancer.admit(target.route):
                await self._answer(exchange, LocalAnswer(503, refused, route=led.route))
                return
            try:
                await self._ask(exchange, led, errand)
            finally:
                means.balancer.release(target.route)
        finally:
            errand.body.forget()

    async def _ask(self, exchange: ServerExchange, led: Led, errand: Errand) -> None:
        for backend in led.mirrors:
            self._mirror(errand, backend.service, backend.port)
        if errand.body.ends_with_head and errand.plan.retries.hedge_after is None:
            await self._try(exchange, led, errand, None)
            return
        failure: ExchangeBroken | MessageRefused | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._try(exchange, led, errand, nursery)
            except (ExchangeBroken, MessageRefused) as error:
                # The caller's doing, which must not leave as part of a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _errand(self, exchange: ServerExchange, led: Led) -> Errand:
        request, target = exchange.head, led.target
        plan, asked = target.plan(led.rule), read_deadline(request.fields)
        keys = NO_KEYS
        if target.by_key:
            source = (self._address or self._caller.text).encode("ascii")
            keys = find_keys(target.route.policy.load_balancing, request.fields, source)
        return Errand(
            exchange=exchange,
            head=led.head,
            target=target,
            plan=plan,
            route=led.route,
            caller=self._caller,
            reach=self._keys,
            body=KeptBody(exchange.body, request.length, self._shared.kept),
            deadline=plan.timeouts.deadline(self._means.context.clock(), asked),
            impatient=asked is not None and asked < plan.timeouts.request,
            keys=keys,
            grpc=is_grpc(request.fields),
        )

    async def _suffer(self, drawn: Drawn, errand: Errand) -> LocalAnswer | None:
        """Let a fault happen; gives the answer that it is, if it is one."""
        context, service = self._means.context, errand.target.route.service
        if drawn.delay:
            context.telemetry.add(
                telemetry.FAULTS_INJECTED, service=service, fault=drawn.delayed_by, kind="delay"
            )
            left = errand.deadline - context.clock()
            await trio.sleep(max(0.0, min(drawn.delay, left)))
            if left <= drawn.delay:
                return LocalAnswer(504, Reason(TIMEOUT), route=errand.route)
        if drawn.status is None:
            return None
        context.telemetry.add(
            telemetry.FAULTS_INJECTED, service=service, fault=drawn.aborted_by, kind="abort"
        )
        return LocalAnswer(drawn.status, Reason(FAULT), grpc_status=drawn.grpc_status, route=errand.route)

    async def _read_body(self, errand: Errand) -> LocalAnswer | None:
        """Read a small body first: then nobody waits for its caller, and it can be sent again.

        Raises:
            ExchangeBroken: the caller is gone.
        """
        body = errand.body
        if body.whole or errand.head.expects_continue:
            return None
        try:
            body.read_nowait()
            if not body.is_small or body.whole:
                return None
            left = errand.deadline - self._means.context.clock()
            with trio.move_on_after(min(left, SMALL_BODY_TIMEOUT)) as scope:
                await body.read_small()
        except MessageRefused as error:
            code = TOO_LARGE if error.status in (413, 431) else BAD_REQUEST
            return LocalAnswer(error.status, Reason(code), detail=error.detail, route=errand.route)
        if scope.cancelled_caught:
            status = 504 if left <= SMALL_BODY_TIMEOUT else 408
            return LocalAnswer(status, Reason(TIMEOUT), route=errand.route)
        return None

    def _mirror(self, errand: Errand, service: str, port: int) -> None:
        context = self._means.context
        target = self._shared.targets.find(context.enforced.tables, service, port)
        copy = errand.body.copy() if target is not None else None
        if target is None or copy is None:
            context.telemetry.add(telemetry.MIRRORED, service=service, outcome="skipped")
            return
        self._shared.mirroring.send(
            Errand(
                exchange=None,
                head=errand.head,
                target=target,
                plan=target.plan(None),
                route="",
                caller=self._caller,
                reach=self._keys,
                body=copy,
                grpc=errand.grpc,
            )
        )

    async def _try(
        self, exchange: ServerExchange, led: Led, errand: Errand, nursery: trio.Nursery | None
    ) -> None:
        attempts = Attempts(self._means, errand)
        try:
            found = await attempts.ask(nursery)
            if isinstance(found, NoAnswer):
                await self._give_none(exchange, led, found)
            else:
                attempt, head = found
                attempts.finish(attempt, await self._give(exchange, led, errand, attempt, head))
        finally:
            attempts.abandon()

    async def _give(
        self, exchange: ServerExchange, led: Led, errand: Errand, attempt: Attempt, head: ResponseHead
    ) -> Outcome:
        """Give the caller the answer of an endpoint; gives what that was good for."""
        client = attempt.client
        if client is None:
            return Outcome.ABANDONED
        head.fields = led.answer_fields(exchange.head.fields, head.fields)
        if errand.target.by_key:
            balancing = errand.target.route.policy.load_balancing
            if cookie := session_cookie(balancing, attempt.endpoint.at, errand.keys):
                head.fields = [*head.fields, (b"set-cookie", cookie)]
        self._count(led.route, head.status)
        try:
            if head.status == SWITCHING_PROTOCOLS:
                await pass_upgrade(exchange, client, head, attempt)
                return Outcome.SUCCESS
            trailers = await pass_answer(exchange, client, head, attempt)
        except ExchangeBroken:
            return attempt.late or Outcome.ABANDONED
        except AnswerBroken:
            return attempt.late or Outcome.RESET
        grpc = status_in(trailers or head.fields) if errand.grpc else None
        return outcome_of(head.status, grpc)

    async def _give_none(self, exchange: ServerExchange, led: Led, none: NoAnswer) -> None:
        detail = none.detail if none.callers else ""
        self._note(led.route, none.status, none.reason, none.detail)
        await self._send(exchange, LocalAnswer(none.status, none.reason, detail=detail, route=led.route))

    async def _answer(self, exchange: ServerExchange, answer: LocalAnswer) -> None:
        if answer.reason is not None and answer.reason.code != FAULT:
            self._note(answer.route, answer.status, answer.reason, answer.detail)
        await self._send(exchange, answer)

    async def _send(self, exchange: ServerExchange, answer: LocalAnswer) -> None:
        self._count(answer.route, answer.status)
        if answer.reason is None:
            await exchange.respond(ResponseHead(answer.status, list(answer.fields), length=0), end=True)
            return
        head, body = local_answer(
            exchange.head,
            answer.status,
            answer.reason,
            fields=list(answer.fields),
            detail=answer.detail,
            grpc_status=answer.grpc_status,
        )
        await exchange.respond(head, body, end=True)

    def _count(self, route: str, code: int) -> None:
        self._shared.numbers.count(self._route.service, route, code)

    def _note(self, route: str, status: int, reason: Reason, detail: str) -> None:
        self._shared.refusals.note(
            status=status,
            reason=reason,
            detail=detail,
            caller=self._caller,
            service=self._route.service,
            port=self._route.port,
            route=route,
        )
