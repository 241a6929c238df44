"""What is told of requests that the mesh has answered itself: a count for each, and not a log line for each.

A service that is down refuses thousands a second. For each caller, service and reason there is a line a
second at most, which says how many it stands for.
"""

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.caller import Caller, caller_fields
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.quiet import Quiet
from node_proxy.dataplane.reason import DENIED, Reason


class Refusals:
    """Tells of a worker's."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._quiet = Quiet()

    def note(
        self, *, status: int, reason: Reason, detail: str, caller: Caller, service: str, port: int, route: str
    ) -> None:
        """Note one."""
        if reason.code == DENIED:
            # The policy's name is the peer's word: good for the log, and no label of ours.
            self._context.telemetry.denied(
                side="source", reason=DENIED, policy="", source=caller.text, destination=service
            )
        left_out = self._quiet.ask((caller.text, service, reason.code), self._context.clock())
        if left_out is None:
            return
        self._context.log.warning(
            "request refused",
            side="source",
            status=status,
            reason=reason.code,
            policy=reason.policy,
            id=reason.decision,
            detail=detail,
            source=caller.text,
            destination=f"{service}:{port}",
            route=route,
            left_out=left_out,
            **caller_fields(caller.process),
        )


class RequestNumbers:
    """Counts requests by service, route and code."""

    def __init__(self, numbers: telemetry.Telemetry, side: str) -> None:
        self._numbers = numbers
        self._side = side
        self._keys: dict[tuple[str, str, int], tuple[str, telemetry.Labels]] = {}

    def count(self, service: str, route: str, code: int) -> None:
        """Count one; `code` is the status, 0 when there was no answer."""
        key = self._keys.get((service, route, code))
        if key is None:
            text = str(code) if 100 <= code <= 599 or code == 0 else "other"
            labels = (("code", text), ("route", route), ("service", service), ("side", self._side))
            key = self._keys[service, route, code] = (telemetry.REQUESTS, labels)
        self._numbers.count(key)
