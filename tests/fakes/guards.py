"""A guard for tests that is made as a worker makes it."""

from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.timers import Timers


def guard_of(
    context: WorkerContext,
    admission: Admission,
    *,
    timers: Timers | None = None,
    limits: HttpLimits | None = None,
) -> Guard:
    """Give a guard that never drains; without `timers` nothing of it is ever due."""
    return Guard(
        context,
        admission,
        timers=Timers(context.clock, context.crashed) if timers is None else timers,
        draining=lambda: False,
        limits=limits,
    )
