"""Peak-EWMA: what a request to an endpoint is likely to cost. Pure.

That is how long answers took of late, times how many are waited for. The average rises at once to a slower
answer and comes down slowly, so that one who stalls is noticed by the first answer that tells, and asked
again with care. Source: Finagle's `PeakEwma`, as linkerd has it.
"""

import math
from typing import Final

from registry.rules.balancing.candidate import Record

# Seconds after which an old answer counts for a third. Finagle's and linkerd's.
DECAY: Final = 10.0
# Seconds that an endpoint is taken to need as long as nothing came back from it but a request is under way:
# one request finds out, the crowd waits. Among endpoints that all are unknown the least loaded is taken.
UNKNOWN: Final = 1.0


def observe(record: Record, seconds: float, now: float, *, failed: bool = False) -> None:
    """Take in how long an answer took.

    A failure counts only when it is slower than the average: to fail fast must not attract requests.
    """
    latency = record.latency
    if seconds >= latency >= 0 or (latency < 0 and not failed):
        record.latency = seconds
    elif failed:
        return
    else:
        # The longer ago the old value, the less of it is left.
        share = math.exp((record.measured - now) / DECAY)
        record.latency = latency * share + seconds * (1 - share)
    record.measured = now


def cost(record: Record, now: float) -> float:
    """Give what one more request is likely to cost, in seconds of waiting."""
    latency, in_flight = record.latency, record.in_flight
    if latency < 0:
        return UNKNOWN * (in_flight + 1) if in_flight else 0.0
    # Who is not asked is thought better of as time goes by, and so asked again.
    return latency * math.exp((record.measured - now) / DECAY) * (in_flight + 1)


def load(record: Record, _now: float) -> float:
    """Give how many requests are under way: what balancing goes by that knows nothing of time."""
    return record.in_flight
