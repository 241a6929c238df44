"""Faults: errors made on purpose, for a share of the requests to a service. Pure.

Off until a BackendPolicy says otherwise. What is drawn here is done by the forwarder: first the delay, then
the abort.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from registry.model.backend_policy import Fault
from registry.model.duration import seconds
from registry.rules.routing.call import HttpCall
from registry.rules.routing.matching import compile_matches

# What an abort without a status of HTTP is to those who do not speak gRPC.
ABORT_STATUS: Final = 503


@dataclass(frozen=True, slots=True)
class Drawn:
    """What happens to one request: seconds of delay, then an answer with `status` if any, and by whose name.

    `grpc_status` is what gRPC calls are told instead; None leaves it to `status`.
    """

    delay: float = 0.0
    delayed_by: str = ""
    status: int | None = None
    grpc_status: int | None = None
    aborted_by: str = ""


@dataclass(frozen=True, slots=True)
class _Compiled:
    fault: Fault
    matches: Callable[[HttpCall], bool]


class Faults:
    """The faults of one service; false when it has none."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(_Compiled(each, compile_matches(each.matches)) for each in faults)

    def __bool__(self) -> bool:
        return bool(self._faults)

    def draw(self, call: HttpCall, rng: random.Random) -> Drawn | None:
        """Draw for one request. Delays add up, the first abort ends it; None when nothing happens."""
        delay, delayed_by = 0.0, ""
        for each in self._faults:
            fault = each.fault
            if not each.matches(call):
                continue
            if fault.delay is not None and _hit(fault.delay.percent, rng):
                delay += seconds(fault.delay.duration)
                delayed_by = delayed_by or fault.name
            if fault.abort is not None and _hit(fault.abort.percent, rng):
                status = fault.abort.http_status or ABORT_STATUS
                return Drawn(delay, delayed_by, status, fault.abort.grpc_status, fault.name)
        return Drawn(delay, delayed_by) if delayed_by else None


def _hit(percent: float, rng: random.Random) -> bool:
    return percent >= 100 or rng.random() * 100 < percent
