"""Mirroring: copies of requests to another service, whose answers nobody hears.

A copy costs the request nothing: it is sent by a task of its own, once, and there are only so many at a time.
"""

from typing import Final

import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.http.attempt import Attempt
from node_proxy.dataplane.http.errand import Errand, Means
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.message import ResponseHead
from registry.rules.balancing.outcome import Outcome, outcome_of

# At the same time, for each worker: a mirror that hangs must cost no more than this.
MAX_MIRRORED: Final = 256
# For all of a copy: as long as most callers would wait. Seconds.
MIRROR_TIMEOUT: Final = 15.0


class Mirroring:
    """Sends the copies of a worker.

    Args:
        means: the worker's.
        nursery: owns them.
    """

    def __init__(self, means: Means, nursery: trio.Nursery) -> None:
        self._means = means
        self._nursery = nursery
        self._running = 0

    def send(self, errand: Errand) -> None:
        """Send a copy: `errand` is its own, and its body must be whole."""
        context = self._means.context
        if self._running >= MAX_MIRRORED:
            context.telemetry.add(telemetry.LIMIT_REACHED, limit="mirrored_requests")
            errand.body.forget()
            return
        self._running += 1
        self._nursery.start_soon(context.contain, self._send, errand)

    async def _send(self, errand: Errand) -> None:
        route = errand.target.route
        outcome = "failed"
        try:
            with trio.move_on_after(MIRROR_TIMEOUT):
                endpoint = self._means.balancer.choose(route, frozenset(), errand.keys)
                if endpoint is not None and await self._ask(Attempt(self._means, errand, endpoint, 1)):
                    outcome = "answered"
        finally:
            self._running -= 1
            errand.body.forget()
            self._means.context.telemetry.add(telemetry.MIRRORED, service=route.service, outcome=outcome)

    @staticmethod
    async def _ask(attempt: Attempt) -> bool:
        outcome = Outcome.ABANDONED
        try:
            head = await attempt.ask(None)
            if not isinstance(head, ResponseHead):
                outcome = head.tried.outcome
                return False
            outcome = outcome_of(head.status)
            client = attempt.client
            while client is not None and await client.body.receive():
                pass
        except (ExchangeBroken, MessageRefused):
            return False
        finally:
            attempt.finish(outcome)
        return True
