"""Which endpoint takes a request or a connection, and whether the service is called at all.

What is found out is this worker's: how loaded and how quick each endpoint is, which fail, what is under way.
It is kept while policies and endpoints change, and goes with the service. The rules themselves are pure, in
`registry.rules.balancing`.
"""

from collections.abc import Set as AbstractSet

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.ejection import Ejections
from node_proxy.dataplane.reason import BREAKER_OPEN, OVERFLOW, Reason
from node_proxy.dataplane.service_state import ServiceState
from node_proxy.dataplane.tables import Route
from node_proxy.snapshot import Endpoint
from registry.rules.balancing.breaker import State
from registry.rules.balancing.candidate import Records
from registry.rules.balancing.ejecting import Ejected
from registry.rules.balancing.group import Group
from registry.rules.balancing.keys import NO_KEYS, Keys
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.retrying import RetryBudget
from registry.rules.balancing.settings import Home, compile_settings

_BREAKER_OPEN = Reason(BREAKER_OPEN)
_OVERFLOW = Reason(OVERFLOW)


class Balancer:
    """The services and their endpoints as this worker has found them."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._ejections = Ejections()
        self._records = Records()
        self._services: dict[str, ServiceState] = {}
        self._groups: dict[tuple[str, int], Group[Endpoint]] = {}
        self._tables = context.enforced.tables

    def choose(self, route: Route, tried: AbstractSet[Endpoint], keys: Keys = NO_KEYS) -> Endpoint | None:
        """Choose an endpoint that was not tried, as the service's policy says; None when all were.

        Args:
            route: the service port that is called.
            tried: endpoints that are passed over.
            keys: what the request's hash and its session go by (`registry.rules.balancing.keys.find_keys`).
        """
        endpoints = route.endpoints
        if len(endpoints) == 1:
            # Also who is called by its own address: that is no other service, and has no group.
            return None if endpoints[0] in tried else endpoints[0]
        group = self._group(route)
        return group.choose(now=self._context.clock(), rng=self._context.rng, tried=tried, keys=keys)

    # Requests.

    def admit(self, route: Route) -> Reason | None:
        """Count a request to a service as in flight, or say why it must not be made.

        Without a reason `release` is called once when the request is over, whatever became of it. Once for
        each request, however often it is tried.
        """
        state, now = self._state(route), self._context.clock()
        if reason := self._broken(route, state, now):
            return reason
        if not state.bounds.request():
            return self._reached_limit("requests", route)
        state.budget.requested(now)
        return None

    def release(self, route: Route) -> None:
        """Count a request that was admitted as over."""
        if state := self._services.get(route.service):
            state.bounds.requests -= 1

    def begin(self, _route: Route, endpoint: Endpoint) -> None:
        """Count a try at an endpoint, or a connection to it; `end` is called once."""
        self._records.of((endpoint.address, endpoint.port)).in_flight += 1

    def end(
        self, route: Route, endpoint: Endpoint, *, outcome: Outcome, seconds: float | None = None
    ) -> None:
        """Count the end of what began, and judge the endpoint and its service by it.

        Args:
            route: the service port that was called.
            endpoint: which of its endpoints.
            outcome: how it ended. What the caller itself cut short, by its own deadline too, is ABANDONED:
                no caller may have an endpoint ejected by being impatient.
            seconds: from the beginning to the answer's head; or to when it was given up, if that was for a
                timeout. None if neither says anything.
        """
        record = self._records.of((endpoint.address, endpoint.port))
        record.in_flight -= 1
        if not outcome.counts:
            return
        now = self._context.clock()
        state = self._state(route)
        if state.breaker is not None and state.breaker.record(now, failed=outcome.failed):
            self._breaker_changed(route, state.breaker.state)
        # One that is called by its own address has no others beside it to be compared with.
        if len(route.endpoints) > 1:
            group = self._groups.get((route.service, route.port))
            if group is None or (group.source is not route and self._in_force(route)):
                group = self._group(route)
            for ejected in group.ended(record, outcome, now=now, seconds=seconds):
                self._ejected(group, ejected)

    def budget(self, route: Route) -> RetryBudget:
        """Give the service's retry budget, which `admit` counts requests for."""
        return self._state(route).budget

    # Connections.

    def admit_connection(self, route: Route) -> Reason | None:
        """Count a caller's connection that is passed on as it is, or say why it must not be.

        Without a reason `disconnected` is called once when it has ended.
        """
        state = self._state(route)
        if reason := self._broken(route, state, self._context.clock()):
            return reason
        return None if state.bounds.connect() else self._reached_limit("connections", route)

    def connect(self, route: Route) -> bool:
        """Count a new connection for requests if the service's limit allows one more.

        If so, `disconnected` is called once when it has ended. If not, the request waits for one.
        """
        return self._state(route).bounds.connect()

    def disconnected(self, route: Route) -> None:
        """Count a connection's end."""
        if state := self._services.get(route.service):
            state.bounds.connections -= 1

    def wait(self, route: Route) -> bool:
        """Count a request that waits for a connection, if there may be one more.

        If so, `waited` is called once when it waits no more.
        """
        if self._state(route).bounds.wait():
            return True
        self._reached_limit("pending", route)
        return False

    def waited(self, route: Route) -> None:
        """Count a request that waits no more."""
        if state := self._services.get(route.service):
            state.bounds.pending -= 1

    # Endpoints.

    def ejected(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is passed over now."""
        now = self._context.clock()
        record = self._records.of((endpoint.address, endpoint.port))
        return record.ejected_until > now or self._ejections.ejected(endpoint, now)

    @property
    def loaded(self) -> int:
        """How many tries and connections are counted."""
        return self._records.in_flight()

    def failed(self, endpoint: Endpoint, cause: str) -> None:
        """Eject an endpoint that could not be reached."""
        seconds = self._ejections.failed(endpoint, self._context.clock())
        if seconds is None:
            return
        self._records.changed()
        self._tell_ejected(endpoint, "unreachable", cause, seconds)

    def reached(self, endpoint: Endpoint) -> None:
        """Hold nothing against an endpoint that has accepted."""
        if self._ejections.succeeded(endpoint):
            self._records.changed()

    def accepted(self, route: Route, endpoint: Endpoint) -> None:
        """Take in that an endpoint has accepted a caller's connection."""
        self.reached(endpoint)
        breaker = self._state(route).breaker
        if breaker is not None and breaker.record(self._context.clock(), failed=False):
            self._breaker_changed(route, breaker.state)

    # What is kept.

    def _state(self, route: Route) -> ServiceState:
        if self._context.enforced.tables is not self._tables:
            self._forget()
        state = self._services.get(route.service)
        if state is None:
            context = self._context
            state = ServiceState(route.policy, index=context.index, workers=context.workers)
            self._services[route.service] = state
        elif state.policy is not route.policy and self._in_force(route):
            had = state.breaker
            state.change(route.policy)
            if had is not state.breaker:
                self._breaker_changed(route, State.CLOSED)
        state.ports.add(route.port)
        return state

    def _group(self, route: Route) -> Group[Endpoint]:
        key = (route.service, route.port)
        group = self._groups.get(key)
        if group is not None and group.source is route:
            return group
        if self._context.enforced.tables is not self._tables:
            self._forget()
        tables, policy = self._tables, route.policy
        settings = compile_settings(policy.load_balancing, policy.outlier_ejection)
        home = Home(tables.region, tables.zone)
        lasting = group is None or self._in_force(route)
        if group is not None and group.same(route.endpoints, settings, home):
            # Every change of anything in the mesh gives other tables, and most services stay as they are.
            if lasting:
                group.source = route
            return group
        made = Group(
            route.endpoints,
            self._records,
            settings,
            home=home,
            unreachable_until=self._ejections.until,
            former=group,
            source=route,
            now=self._context.clock(),
        )
        if lasting:
            self._groups[key] = made
        return made

    def _in_force(self, route: Route) -> bool:
        """Whether a route is of the tables in force, rather than of those by which a request began."""
        return self._tables.by_name(route.service, route.port) is route

    def _forget(self) -> None:
        """Drop what is kept for services and endpoints that the mesh has no longer."""
        tables = self._tables = self._context.enforced.tables
        for service, state in list(self._services.items()):
            known = any(tables.by_name(service, port) for port in state.ports)
            if not known and state.bounds.idle:
                del self._services[service]
                if state.breaker is not None:
                    self._context.telemetry.set(telemetry.BREAKER_STATE, 0, service=service)
        kept: list[tuple[str, int]] = []
        for (service, port), group in list(self._groups.items()):
            if tables.by_name(service, port) is None:
                del self._groups[service, port]
            else:
                kept += group.places
        self._records.keep(kept, now=self._context.clock())

    # Telling.

    def _broken(self, route: Route, state: ServiceState, now: float) -> Reason | None:
        breaker = state.breaker
        if breaker is None:
            return None
        before = breaker.state
        allowed = breaker.allow(now)
        if breaker.state is not before:
            self._breaker_changed(route, breaker.state)
        if allowed:
            return None
        self._reached_limit("breaker", route)
        return _BREAKER_OPEN

    def _breaker_changed(self, route: Route, state: State) -> None:
        self._context.telemetry.set(telemetry.BREAKER_STATE, state.value, service=route.service)
        log = self._context.log
        say = log.warning if state is State.OPEN else log.info
        say("circuit breaker", service=route.service, state=state.name.lower())

    def _reached_limit(self, limit: str, route: Route) -> Reason:
        self._context.telemetry.add(telemetry.SERVICE_LIMITED, limit=limit, service=route.service)
        return _OVERFLOW

    def _ejected(self, group: Group[Endpoint], ejected: Ejected) -> None:
        endpoint = group.endpoint_of(ejected.record)
        if endpoint is not None:
            self._tell_ejected(endpoint, ejected.cause, ejected.cause.replace("_", " "), ejected.seconds)

    def _tell_ejected(self, endpoint: Endpoint, kind: str, cause: str, seconds: float) -> None:
        self._context.telemetry.add(
            telemetry.ENDPOINT_EJECTIONS, node=endpoint.node, workload=endpoint.workload, cause=kind
        )
        self._context.log.warning(
            "endpoint ejected",
            node=endpoint.node,
            workload=endpoint.workload,
            address=endpoint.at,
            cause=cause,
            seconds=seconds,
        )
