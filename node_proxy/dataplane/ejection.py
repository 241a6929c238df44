"""Passive health: endpoints that failed to connect are passed over for a while. Pure.

Active health checks say how a workload is in general; this says within one attempt that it cannot be
reached from here. The first failure already ejects, since a refused connect on a healthy host is no
accident; the time doubles with each failure in a row, and one success clears it. What fails while it is
ejected was under way before, as a rule a crowd of requests at once, and counts no more.
Source: Envoy's outlier detection, `consecutive_local_origin_failure` and `base_ejection_time`.
"""

from dataclasses import dataclass

from node_proxy.snapshot import Endpoint

FIRST_EJECTION = 1.0
LONGEST_EJECTION = 30.0
# Endpoints that vanish from the mesh leave their entries behind; far more than any service has.
MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class _Failures:
    in_a_row: int
    until: float


class Ejections:
    """Which endpoints are ejected; times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str, int], _Failures] = {}

    def failed(self, endpoint: Endpoint, now: float) -> float | None:
        """Count a failed connect; gives the seconds for which that ejects the endpoint, None if it was."""
        key = (endpoint.node, endpoint.address, endpoint.port)
        known = self._failures.get(key)
        if known is None:
            if len(self._failures) >= MAX_REMEMBERED:
                self._failures.clear()
            known = self._failures[key] = _Failures(0, 0.0)
        elif now < known.until:
            return None
        known.in_a_row += 1
        seconds = min(LONGEST_EJECTION, FIRST_EJECTION * 2.0 ** min(known.in_a_row - 1, 10))
        known.until = now + seconds
        return seconds

    def succeeded(self, endpoint: Endpoint) -> bool:
        """Clear what is held against an endpoint; gives whether anything was."""
        if not self._failures:
            return False
        return self._failures.pop((endpoint.node, endpoint.address, endpoint.port), None) is not None

    def ejected(self, endpoint: Endpoint, now: float) -> bool:
        """Whether to pass over an endpoint."""
        return now < self.until(endpoint)

    def until(self, endpoint: Endpoint) -> float:
        """Give the time until which to pass over an endpoint; 0 if nothing is held against it."""
        known = self._failures.get((endpoint.node, endpoint.address, endpoint.port))
        return 0.0 if known is None else known.until
