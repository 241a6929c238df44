from typing import Any

import msgspec

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.reason import BREAKER_OPEN, OVERFLOW
from node_proxy.dataplane.tables import Route
from node_proxy.snapshot import Endpoint, ServiceView, Snapshot
from registry.model.authorization import TargetKind, TargetRef
from registry.model.backend_policy import (
    BackendPolicy,
    BackendPolicySpec,
    BalancingPolicy,
    CircuitBreaker,
    ConnectionLimits,
    LoadBalancing,
    Locality,
    OutlierEjection,
    Retries,
    RetryBudget,
)
from registry.model.resource import Metadata
from registry.rules.balancing.outcome import Outcome
from tests.fakes.context import Scene, scene, snapshot
from tests.integration.snapshots import service
from tests.node_proxy.dataplane.source import endpoints

API = "default/api"


def policy(**parts: Any) -> BackendPolicySpec:
    """Give a policy for service api."""
    target = TargetRef(kind=TargetKind.SERVICE, name="api")
    return BackendPolicySpec(target_refs=(target,), **parts)


def state(
    *services: ServiceView, spec: BackendPolicySpec | None = None, revision: int = 1, zone: str = ""
) -> Snapshot:
    """Give a mesh of services, of which api has a policy."""
    made = snapshot(revision=revision, services=services)
    metadata = Metadata(name="api")
    policies = (
        ()
        if spec is None
        else (BackendPolicy(api_version="nodemesh/v1", kind="BackendPolicy", metadata=metadata, spec=spec),)
    )
    return msgspec.structs.replace(made, backend_policies=policies, zone=zone)


class Caller:
    """A balancer whose clock and mesh are in the test's hand."""

    def __init__(self, first: Snapshot) -> None:
        self.now = 100.0
        self.stage: Scene = scene(first, clock=lambda: self.now)
        self.balancer = Balancer(self.stage.context)

    @property
    def route(self) -> Route:
        """The port of service api as the tables in force have it."""
        route = self.stage.context.enforced.tables.by_name(API, 80)
        assert route is not None
        return route

    def ended(self, endpoint: Endpoint, outcome: Outcome, *, times: int = 1) -> None:
        """Let tries at an endpoint end."""
        for _ in range(times):
            self.balancer.begin(self.route, endpoint)
            self.balancer.end(self.route, endpoint, outcome=outcome, seconds=0.01)

    def chosen(self) -> set[Endpoint | None]:
        """Give all that are ever chosen."""
        return {self.balancer.choose(self.route, set()) for _ in range(100)}


ONE, TWO, THREE = endpoints(3)


class TestEjection:
    def test_failing_endpoint(self) -> None:
        """An endpoint whose answers fail is passed over for its time, logged and counted with the cause."""
        at = Caller(state(service(API, 80, ONE, TWO, THREE)))
        at.ended(ONE, Outcome.SERVER_ERROR, times=5)
        assert at.chosen() == {TWO, THREE}
        assert at.balancer.ejected(ONE)
        (line,) = at.stage.logged("endpoint ejected")
        assert (line["address"], line["cause"], line["seconds"]) == (ONE.at, "failures", 5.0)
        assert at.stage.counted(telemetry.ENDPOINT_EJECTIONS, node=ONE.node, cause="failures") == 1
        at.now += 5.0
        assert at.chosen() == {ONE, TWO, THREE}

    def test_abandoned_tries_say_nothing(self) -> None:
        """What callers give up, however often, ejects nobody and is not under way any more."""
        at = Caller(state(service(API, 80, ONE, TWO)))
        at.ended(ONE, Outcome.ABANDONED, times=100)
        assert not at.balancer.ejected(ONE)
        assert at.balancer.loaded == 0

    def test_endpoint_called_by_its_address(self) -> None:
        """One that is called by its own address is not ejected for it, since there is no other."""
        at = Caller(state(service(API, 80, ONE, TWO)))
        alone = Route(API, 80, (ONE,))
        for _ in range(20):
            at.balancer.begin(alone, ONE)
            at.balancer.end(alone, ONE, outcome=Outcome.RESET)
        assert at.balancer.choose(alone, set()) is ONE
        assert at.balancer.choose(alone, {ONE}) is None
        assert not at.balancer.ejected(ONE)

    def test_other_tables(self) -> None:
        """What is known of endpoints stays when anything in the mesh changes, and goes with the endpoint."""
        at = Caller(state(service(API, 80, ONE, TWO, THREE)))
        at.ended(ONE, Outcome.SERVER_ERROR, times=5)
        at.stage.enforce(state(service(API, 80, ONE, TWO, THREE), revision=2))
        assert at.chosen() == {TWO, THREE}
        at.stage.enforce(state(service(API, 80, ONE, TWO), revision=3))
        assert at.chosen() == {TWO}
        at.stage.enforce(state(service(API, 80, TWO, THREE), revision=4))
        at.now += 60.0
        assert at.chosen() == {TWO, THREE}
        at.stage.enforce(state(revision=5))
        at.balancer.choose(Route("default/other", 80, endpoints(2)), set())
        assert len(at.balancer._records) == 2
        assert set(at.balancer._groups) == {("default/other", 80)}


class TestRequestsOfBefore:
    """Requests that began under other tables go on by them, and change nothing for the rest."""

    def test_endpoints(self) -> None:
        """Such a request may still be tried at an endpoint that has gone, and nobody else is."""
        at = Caller(state(service(API, 80, ONE, TWO)))
        before = at.route
        assert at.chosen() == {ONE, TWO}
        at.stage.enforce(state(service(API, 80, TWO, THREE), revision=2))
        assert at.chosen() == {TWO, THREE}
        group = at.balancer._groups[API, 80]
        assert at.balancer.choose(before, {TWO}) == ONE
        at.balancer.begin(before, ONE)
        at.balancer.end(before, ONE, outcome=Outcome.SUCCESS, seconds=1.0)
        assert at.balancer._groups[API, 80] is group
        assert at.chosen() == {TWO, THREE}

    def test_policy(self) -> None:
        """Its end does not bring a former policy back, nor close a breaker."""
        views = service(API, 80, ONE, TWO)
        at = Caller(state(views))
        before = at.route
        at.balancer.admit(before)
        at.stage.enforce(state(views, spec=TestBreaker.SPEC, revision=2))
        at.ended(ONE, Outcome.RESET, times=3)
        at.balancer.begin(before, TWO)
        at.balancer.end(before, TWO, outcome=Outcome.SUCCESS)
        at.balancer.release(before)
        assert at.balancer.admit(at.route) is not None


class TestPolicy:
    def test_by_edit(self) -> None:
        """Another policy balances otherwise from the next choice on."""
        views = service(API, 80, ONE, TWO)
        at = Caller(state(views))
        at.balancer.begin(at.route, ONE)
        assert at.chosen() == {TWO}
        balancing = LoadBalancing(policy=BalancingPolicy.ROUND_ROBIN)
        at.stage.enforce(state(views, spec=policy(load_balancing=balancing), revision=2))
        assert at.chosen() == {ONE, TWO}

    def test_ejection_by_edit(self) -> None:
        """A stricter rule for ejection holds for the answers that come after it."""
        views = service(API, 80, ONE, TWO, THREE)
        at = Caller(state(views))
        at.ended(ONE, Outcome.SERVER_ERROR, times=2)
        strict = policy(outlier_ejection=OutlierEjection(consecutive_failures=3))
        at.stage.enforce(state(views, spec=strict, revision=2))
        at.ended(ONE, Outcome.SERVER_ERROR)
        assert at.balancer.ejected(ONE)

    def test_own_zone(self) -> None:
        """Near endpoints are those of the zone that the snapshot says is this node's."""
        near, far = msgspec.structs.replace(ONE, zone="z1"), msgspec.structs.replace(TWO, zone="z2")
        spec = policy(load_balancing=LoadBalancing(locality=Locality()))
        at = Caller(state(service(API, 80, near, far), spec=spec, zone="z2"))
        assert at.chosen() == {far}


class TestLimits:
    def _limited(self, **limits: int) -> Caller:
        spec = policy(connection_limits=ConnectionLimits(**limits))
        return Caller(state(service(API, 80, ONE, TWO), spec=spec))

    def test_requests(self) -> None:
        """A request beyond the limit is refused as overflow and counted; one that ends makes room."""
        at = self._limited(requests=2)
        assert [at.balancer.admit(at.route) for _ in range(2)] == [None, None]
        refused = at.balancer.admit(at.route)
        assert refused is not None
        assert refused.code == OVERFLOW
        assert at.stage.counted(telemetry.SERVICE_LIMITED, service=API, limit="requests") == 1
        at.balancer.release(at.route)
        assert at.balancer.admit(at.route) is None

    def test_connections(self) -> None:
        """Connections of callers and of requests count together."""
        at = self._limited(connections=2)
        assert at.balancer.admit_connection(at.route) is None
        assert at.balancer.connect(at.route)
        assert not at.balancer.connect(at.route)
        refused = at.balancer.admit_connection(at.route)
        assert refused is not None
        assert refused.code == OVERFLOW
        assert at.stage.counted(telemetry.SERVICE_LIMITED, service=API, limit="connections") == 1
        at.balancer.disconnected(at.route)
        assert at.balancer.connect(at.route)

    def test_pending(self) -> None:
        """Requests that wait for a connection have a limit of their own."""
        at = self._limited(pending=1)
        assert at.balancer.wait(at.route)
        assert not at.balancer.wait(at.route)
        assert at.stage.counted(telemetry.SERVICE_LIMITED, service=API, limit="pending") == 1
        at.balancer.waited(at.route)
        assert at.balancer.wait(at.route)

    def test_kept_while_in_use(self) -> None:
        """Counts survive a change of the policy, and the service's absence while something is under way."""
        at = self._limited(requests=1)
        route = at.route
        assert at.balancer.admit(route) is None
        at.stage.enforce(state(revision=2))
        spec = policy(connection_limits=ConnectionLimits(requests=1))
        other = Route("default/other", 80, (), policy=spec)
        at.balancer.admit(other)
        at.stage.enforce(state(service(API, 80, ONE), spec=spec, revision=3))
        assert at.balancer.admit(at.route) is not None
        at.balancer.release(route)
        assert at.balancer.admit(at.route) is None

    def test_dropped_with_the_service(self) -> None:
        """Nothing is kept for a service that is gone and has nothing under way."""
        at = self._limited(requests=1)
        at.balancer.admit(at.route)
        at.balancer.release(at.route)
        at.stage.enforce(state(service("default/other", 80, ONE), revision=2))
        other = at.stage.context.enforced.tables.by_name("default/other", 80)
        assert other is not None
        at.balancer.admit(other)
        assert set(at.balancer._services) == {"default/other"}


class TestBreaker:
    SPEC = policy(circuit_breaker=CircuitBreaker(consecutive_failures=3, open_for="5s"))

    def test_opens_and_closes(self) -> None:
        """When all of a service fails its requests are refused, until a probe succeeds; all of it is told."""
        at = Caller(state(service(API, 80, ONE, TWO), spec=self.SPEC))
        at.ended(ONE, Outcome.UNREACHED, times=3)
        assert at.stage.counted(telemetry.BREAKER_STATE, service=API) == 2
        for refused in (at.balancer.admit(at.route), at.balancer.admit_connection(at.route)):
            assert refused is not None
            assert refused.code == BREAKER_OPEN
        assert at.stage.counted(telemetry.SERVICE_LIMITED, service=API, limit="breaker") == 2
        at.now += 5.0
        assert at.balancer.admit(at.route) is None
        assert at.stage.counted(telemetry.BREAKER_STATE, service=API) == 1
        at.ended(ONE, Outcome.SUCCESS)
        assert at.stage.counted(telemetry.BREAKER_STATE, service=API) == 0
        assert [line["state"] for line in at.stage.logged("circuit breaker")] == [
            "open",
            "half_open",
            "closed",
        ]

    def test_accepted_connections_are_successes(self) -> None:
        """At layer 4 an endpoint that accepts is all there is to know."""
        at = Caller(state(service(API, 80, ONE, TWO), spec=self.SPEC))
        at.ended(ONE, Outcome.UNREACHED, times=2)
        at.balancer.accepted(at.route, TWO)
        at.ended(ONE, Outcome.UNREACHED, times=2)
        assert at.balancer.admit(at.route) is None

    def test_taken_away(self) -> None:
        """Without its policy the breaker is gone, and its state with it."""
        at = Caller(state(service(API, 80, ONE, TWO), spec=self.SPEC))
        at.ended(ONE, Outcome.RESET, times=3)
        at.stage.enforce(state(service(API, 80, ONE, TWO), revision=2))
        assert at.balancer.admit(at.route) is None
        assert at.stage.counted(telemetry.BREAKER_STATE, service=API) == 0

    def test_stays_open_when_others_change(self) -> None:
        """An edit of something else does not close it."""
        at = Caller(state(service(API, 80, ONE, TWO), spec=self.SPEC))
        at.ended(ONE, Outcome.RESET, times=3)
        changed = policy(
            circuit_breaker=CircuitBreaker(consecutive_failures=3, open_for="5s"), retries=Retries(attempts=1)
        )
        at.stage.enforce(state(service(API, 80, ONE, TWO), spec=changed, revision=2))
        assert at.balancer.admit(at.route) is not None


def test_budget_is_the_services() -> None:
    """Requests that are admitted fill the budget, which stays through changes that do not concern it."""
    spec = policy(retries=Retries(budget=RetryBudget(percent=50, minimum_per_second=0)))
    at = Caller(state(service(API, 80, ONE), spec=spec))
    for _ in range(4):
        at.balancer.admit(at.route)
    budget = at.balancer.budget(at.route)
    assert budget.take(at.now)
    at.stage.enforce(state(service(API, 80, ONE, TWO), spec=spec, revision=2))
    assert at.balancer.budget(at.route) is budget
    assert [budget.take(at.now) for _ in range(2)] == [True, False]
