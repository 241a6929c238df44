"""One try of a request at one endpoint, from the connection to the head of the answer."""

import math
from typing import Final

import trio

from node_proxy.dataplane.http.deadline_fields import with_deadline
from node_proxy.dataplane.http.errand import Errand, Means, NoAnswer
from node_proxy.dataplane.http.exchange import ClientExchange, ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.hygiene import request_at_source
from node_proxy.dataplane.http.message import HTTP_11, ResponseHead, Version
from node_proxy.dataplane.http.stream_opening import StreamUnanswered
from node_proxy.dataplane.http.upstream_key import UpstreamKey
from node_proxy.dataplane.http.upstreams import Overflow, Upstream
from node_proxy.dataplane.reason import (
    BAD_REQUEST,
    DENIED,
    NO_ENDPOINT,
    OTHER,
    OVERFLOW,
    TIMEOUT,
    TOO_LARGE,
    UPSTREAM_INVALID,
    UPSTREAM_RESET,
    Reason,
    parse_reason,
)
from node_proxy.errors import LocalProtocolError, NodeProxyError, TunnelRefused
from node_proxy.snapshot import Endpoint
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.retrying import Tried

# How long a body waits for the 100 that its caller wants to hear first (RFC 9110 section 10.1.1: some servers
# never say it). Precedent: curl.
CONTINUE_TIMEOUT: Final = 1.0
# Pieces of an answer that is not wanted: what has come with its head. A longer one costs its connection.
MOST_DISCARDED: Final = 4
CONTINUE: Final = 100
SWITCHING_PROTOCOLS: Final = 101


class Attempt:
    """One try; `finish` must be called, whatever became of it."""

    __slots__ = (
        "_began",
        "_clock",
        "_due",
        "_errand",
        "_finished",
        "_go_on",
        "_idle",
        "_late",
        "_moment",
        "_moved",
        "_number",
        "_pumped",
        "_pumping",
        "_seconds",
        "_shared",
        "_upstream",
        "client",
        "endpoint",
    )

    def __init__(self, shared: Means, errand: Errand, endpoint: Endpoint, number: int) -> None:
        self._shared = shared
        self._errand = errand
        self.endpoint = endpoint
        self._number = number
        self._clock = shared.context.clock
        self._began = self._clock()
        self._upstream: Upstream | None = None
        self.client: ClientExchange | None = None
        # Whether our own clock ended it, and when that is due.
        self._late = False
        self._due = math.inf
        self._moment: int | None = None
        self._moved = self._began
        self._idle = math.inf
        self._seconds: float | None = None
        self._finished = False
        self._pumping: trio.CancelScope | None = None
        self._pumped: trio.Event | None = None
        self._go_on: trio.Event | None = None
        shared.balancer.begin(errand.target.route, endpoint)

    async def ask(self, nursery: trio.Nursery | None) -> ResponseHead | NoAnswer:
        """Send the request, and wait for the head of the answer.

        Args:
            nursery: sends the body if there is more of it to come; needed then.
        """
        errand = self._errand
        now = self._clock()
        key = errand.reach.key(self.endpoint, errand.target.version(errand.head.version))
        upstream = self._shared.upstreams.take_nowait(key)
        if upstream is None:
            opened = await self._open(key, now)
            if isinstance(opened, NoAnswer):
                return opened
            upstream = opened
            now = self._clock()
        self._upstream = upstream
        self._watch(errand.plan.timeouts.try_deadline(now, errand.deadline))
        try:
            await self._send(upstream, key.version, now, nursery)
            return await self._wait_head()
        except ExchangeBroken as error:
            return self._broken(error)
        except MessageRefused as error:
            return NoAnswer(502, Reason(UPSTREAM_INVALID), error.reason, Tried(Outcome.RESET))

    def moved(self) -> None:
        """Start the idle time anew."""
        self._moved = self._clock()

    def due(self, now: float) -> float:
        """Give up, if nothing has moved for too long or there is no more time."""
        self._moment = None
        when = min(self._due, self._moved + self._idle)
        if now < when:
            # Ours to remember, since `finish` must end it.
            self._moment = self._shared.timers.begin(self, when)
            return math.inf
        self._late = True
        if self.client is not None:
            self.client.reset("timeout")
        elif self._upstream is not None:
            # It is still being sent.
            self._upstream.opened.channel.abort()
        exchange = self._errand.exchange
        if exchange is not None and exchange.responded:
            exchange.reset("timeout")
        return math.inf

    @property
    def late(self) -> Outcome | None:
        """What it is that our own clock ended it; None if it did not.

        A caller that does not wait says nothing of the endpoint.
        """
        if not self._late:
            return None
        errand = self._errand
        impatient = errand.impatient and self._clock() >= errand.deadline
        return Outcome.ABANDONED if impatient else Outcome.TIMEOUT

    def finish(self, outcome: Outcome) -> None:
        """Let go of everything, once; what has not ended is given up."""
        if self._finished:
            return
        self._finished = True
        if self._pumping is not None:
            self._pumping.cancel()
        if self._moment is not None:
            self._shared.timers.end(self, self._moment)
        if self.client is not None:
            self.client.reset("the request is over")
        if self._seconds is None and outcome is Outcome.TIMEOUT:
            self._seconds = self._clock() - self._began
        route = self._errand.target.route
        self._shared.balancer.end(route, self.endpoint, outcome=outcome, seconds=self._seconds)
        if self._upstream is not None:
            self._shared.upstreams.give_back(
                self._upstream, requests=self._errand.target.requests_per_connection
            )

    def discard_answer(self) -> None:
        """Read over an answer that is there already, so that its connection can be used again."""
        client = self.client
        if client is None:
            return
        try:
            for _ in range(MOST_DISCARDED):
                if not client.body.receive_nowait():
                    return
        except (ExchangeBroken, MessageRefused):
            return

    async def wait_pumped(self) -> None:
        """Wait until nothing reads the request's body any more; after `finish`."""
        if self._pumped is not None:
            await self._pumped.wait()

    async def _open(self, key: UpstreamKey, now: float) -> Upstream | NoAnswer:
        errand, balancer = self._errand, self._shared.balancer
        left = min(errand.plan.timeouts.connect, errand.deadline - now)
        try:
            with trio.fail_after(max(0.0, left)) if left < math.inf else trio.CancelScope():
                upstream = await self._shared.upstreams.take(key, errand.caller, errand.target.route)
        except trio.TooSlowError:
            why = f"no connection within {left:.3g} s"
        except TunnelRefused as error:
            if error.status == 503:
                balancer.failed(self.endpoint, str(error))
            return self._refused(error)
        except Overflow as error:
            return NoAnswer(503, Reason(OVERFLOW), str(error), Tried(Outcome.ABANDONED, untouched=True))
        except NodeProxyError as error:
            return self._unreached(error)
        else:
            balancer.reached(self.endpoint)
            return upstream
        if self._clock() >= errand.deadline:
            return NoAnswer(504, Reason(TIMEOUT), why, Tried(Outcome.ABANDONED, untouched=True))
        balancer.failed(self.endpoint, why)
        return NoAnswer(503, Reason(NO_ENDPOINT), why, Tried(Outcome.UNREACHED, untouched=True))

    def _unreached(self, error: NodeProxyError) -> NoAnswer:
        again = isinstance(error, StreamUnanswered) and error.again
        if not again:
            self._shared.balancer.failed(self.endpoint, str(error))
        tried = Tried(Outcome.UNREACHED, untouched=True)
        return NoAnswer(503, Reason(NO_ENDPOINT), str(error), tried, again=again)

    def _refused(self, error: TunnelRefused) -> NoAnswer:
        """Say what a refused CONNECT is to the caller: a denial is the same everywhere."""
        told = parse_reason(error.reason)
        if error.status == 403:
            # Another make's proxy gives no reason.
            told = told if told.code != OTHER else Reason(DENIED)
            return NoAnswer(403, told, "", Tried(Outcome.ABANDONED))
        status = 429 if error.status == 429 else 503
        told = told if told.code != OTHER else Reason(NO_ENDPOINT)
        return NoAnswer(status, told, str(error), Tried(Outcome.UNREACHED, untouched=True))

    async def _send(
        self, upstream: Upstream, version: Version, now: float, nursery: trio.Nursery | None
    ) -> None:
        errand, body = self._errand, self._errand.body
        head = errand.head
        fields = request_at_source(head.fields, route=errand.route, attempt=self._number)
        if errand.deadline < math.inf or errand.grpc:
            left = errand.deadline - now if errand.deadline < math.inf else None
            fields = with_deadline(fields, left)
        whole = body.ends_with_head
        waits = head.expects_continue and not whole
        sent = head.changed(target=head.target, authority=head.authority, fields=fields)
        sent.version = version
        sent.expects_continue = waits
        if version is not HTTP_11:
            sent.upgrade = b""
        ready = body.begin()
        self.client = await upstream.connection.request(sent, ready, end=whole)
        if whole:
            return
        if nursery is None:
            raise LocalProtocolError("a body that comes later needs a nursery")
        self._go_on = trio.Event() if waits else None
        self._pumping, self._pumped = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._pump, self.client)

    async def _pump(self, client: ClientExchange) -> None:
        try:
            with self._pumping or trio.CancelScope():
                if self._go_on is not None:
                    with trio.move_on_after(CONTINUE_TIMEOUT):
                        await self._go_on.wait()
                await self._errand.body.send_rest(client)
        finally:
            if self._pumped is not None:
                self._pumped.set()

    async def _wait_head(self) -> ResponseHead:
        client = self.client
        if client is None:
            raise ExchangeBroken("nothing was asked", untouched=True)
        while True:
            head = await client.response()
            if head.status >= 200 or head.status == SWITCHING_PROTOCOLS:
                self._seconds = self._clock() - self._began
                self._await_body(head)
                return head
            if head.status == CONTINUE:
                if self._go_on is not None:
                    self._go_on.set()
            elif self._errand.exchange is not None:
                await self._errand.exchange.inform(head)

    def _await_body(self, head: ResponseHead) -> None:
        """From now on the answer's body is waited for: the time of the try is over, that of silence begins.

        What follows an upgrade is no request any more, and lasts as long as it lasts.
        """
        self._idle = self._errand.plan.timeouts.idle
        if self._moment is not None or self._idle < math.inf:
            self.moved()
            self._watch(math.inf if head.status == SWITCHING_PROTOCOLS else self._errand.deadline)

    def _watch(self, due: float) -> None:
        self._due = due
        if self._moment is not None:
            self._shared.timers.end(self, self._moment)
            self._moment = None
        when = min(due, self._moved + self._idle)
        if when < math.inf:
            self._moment = self._shared.timers.begin(self, when)

    def _broken(self, error: ExchangeBroken) -> NoAnswer:
        failure = self._errand.body.failure
        if isinstance(failure, MessageRefused):
            reason = Reason(TOO_LARGE if failure.status in (413, 431) else BAD_REQUEST)
            tried = Tried(Outcome.ABANDONED)
            return NoAnswer(failure.status, reason, failure.detail, tried, callers=True)
        if failure is not None:
            return NoAnswer(400, Reason(BAD_REQUEST), "", Tried(Outcome.ABANDONED), callers=True)
        if outcome := self.late:
            self._seconds = self._clock() - self._began
            return NoAnswer(504, Reason(TIMEOUT), "", Tried(outcome))
        return NoAnswer(
            502, Reason(UPSTREAM_RESET), str(error), Tried(Outcome.RESET, untouched=error.untouched)
        )
