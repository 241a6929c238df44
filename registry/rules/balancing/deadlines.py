"""How long a request may take: what routes, policies and callers say, as one deadline. Pure.

Times are seconds of a monotonic clock; infinity is no limit.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from registry.model.backend_policy import BackendTimeouts
from registry.model.duration import Duration, seconds
from registry.rules.routing.values import RouteTimeouts

NO_LIMIT: Final = math.inf
# Without a policy: the peer's dial of its workload has 5 s, and its answer then needs one way back.
CONNECT: Final = 6.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: `request` is for everything, `per_try` for one try, `idle` between two pieces of a body.

    `connect` is for reaching one endpoint.
    """

    request: float = NO_LIMIT
    per_try: float = NO_LIMIT
    idle: float = NO_LIMIT
    connect: float = CONNECT

    def deadline(self, now: float, asked: float | None = None) -> float:
        """Give the time at which a request that begins now must be over.

        Args:
            now: the time.
            asked: the seconds that the caller itself gives it, if it has said so; the smaller wins.
        """
        return now + min(self.request, NO_LIMIT if asked is None else asked)

    def try_deadline(self, now: float, deadline: float) -> float:
        """Give the time at which a try that begins now must have its answer."""
        return min(now + self.per_try, deadline)


@lru_cache(maxsize=1024)
def compile_timeouts(policy: BackendTimeouts, route: RouteTimeouts | None = None) -> Timeouts:
    """Give the timeouts of a service, or of a route to it: what the route says goes first."""
    request, per_try = _limit(policy.request), _limit(policy.per_try)
    if route is not None:
        request = request if route.request is None else route.request
        per_try = per_try if route.backend_request is None else route.backend_request
    connect = _limit(policy.connect) if policy.connect is not None else CONNECT
    return Timeouts(request=request, per_try=per_try, idle=_limit(policy.idle), connect=connect)


def _limit(duration: Duration | None) -> float:
    # As in Gateway API, a duration of zero is none.
    return (seconds(duration) or NO_LIMIT) if duration is not None else NO_LIMIT
