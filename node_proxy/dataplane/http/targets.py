"""What the forwarder knows of a service port that requests go to, made ready once for each policy. Pure."""

from dataclasses import dataclass
from typing import Final

from node_proxy.dataplane.http.faults import Faults
from node_proxy.dataplane.http.message import HTTP_2, HTTP_11, Version
from node_proxy.dataplane.tables import Route, Tables
from registry.model.service import PortProtocol
from registry.rules.balancing.deadlines import Timeouts, compile_timeouts
from registry.rules.balancing.retrying import RetryPolicy, compile_retries
from registry.rules.routing import RoutingRule

_VERSIONS: Final = {
    PortProtocol.HTTP: Version.HTTP_11,
    PortProtocol.HTTP2: Version.HTTP_2,
    PortProtocol.GRPC: Version.HTTP_2,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long requests may take, and what is tried again."""

    timeouts: Timeouts
    retries: RetryPolicy


class Target:
    """One service port."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.faults = Faults(route.policy.faults)
        self.by_key = (
            route.policy.load_balancing.hash_on is not None
            or route.policy.load_balancing.sticky_session is not None
        )
        # None where the caller's own decides.
        self._version = _VERSIONS.get(route.protocol)
        self.requests_per_connection = route.policy.connection_limits.requests_per_connection
        self._plans: dict[RoutingRule | None, Plan] = {}

    def version(self, callers: Version) -> Version:
        """Give the version that the workloads are spoken to in; `callers` decides on ports that tell none."""
        if self._version is not None:
            return self._version
        return HTTP_2 if callers is HTTP_2 else HTTP_11

    def plan(self, rule: RoutingRule | None) -> Plan:
        """Give what holds for requests that `rule` leads here; None is no rule."""
        plan = self._plans.get(rule)
        if plan is None:
            policy = self.route.policy
            plan = self._plans[rule] = Plan(
                compile_timeouts(policy.timeouts, rule.timeouts if rule else None),
                compile_retries(policy.retries, rule.retry if rule else None),
            )
        return plan


class Targets:
    """The targets of the tables in force."""

    def __init__(self) -> None:
        self._tables: Tables | None = None
        self._targets: dict[tuple[str, int], Target] = {}

    def find(self, tables: Tables, service: str, port: int) -> Target | None:
        """Find a service port by ``namespace/name``."""
        if tables is not self._tables:
            self._tables = tables
            self._targets.clear()
        key = (service, port)
        target = self._targets.get(key)
        if target is None:
            route = tables.by_name(service, port)
            if route is None:
                return None
            target = self._targets[key] = Target(route)
        return target
