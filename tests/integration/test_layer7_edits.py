"""Edits under load: each is in force at once, and no request fails for it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import websockets.sync.client
import websockets.sync.server

from registry.model.authorization import Action
from registry.model.backend_policy import (
    Abort,
    BackendTimeouts,
    BalancingPolicy,
    CircuitBreaker,
    ConnectionLimits,
    Delay,
    Fault,
    HashKey,
    KeyType,
    LoadBalancing,
    Locality,
    OutlierEjection,
    Retries,
    StickySession,
)
from registry.model.gateway import Header, HeaderModifier
from registry.model.http_route import (
    FilterType,
    HTTPBackendRef,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    PathMatch,
    Retry,
    Timeouts,
)
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.crews import Crew, Member, OpenLoad, open_load
from tests.integration.pair import SERVICE_PORT, WEB, Pair, run_pair
from tests.integration.snapshots import backend_policy, http_route, policy
from tests.support.processes import Processes

RATE = 300.0
SOON = 1.0
# Of one edit, so that it has been met by many requests before the next.
BETWEEN = 30
BOTH = ("GET", "POST")


@dataclass(frozen=True)
class Stage:
    """Running proxies; `api` leads to the first of two versions, and `v1` and `v2` to one each."""

    pair: Pair
    crew: Crew
    processes: Processes
    v1: Member
    v2: Member

    @property
    def port(self) -> int:
        """The port of the near host that leads to `api`."""
        return self.pair.near.ports[f"default/api:{SERVICE_PORT}"]

    def services(self, *members: Member) -> dict[str, list[int]]:
        """Give the services with these endpoints behind `api`."""
        return {
            "api": [each.port for each in members],
            "v1": [self.v1.port],
            "v2": [self.v2.port],
        }


@pytest.fixture(scope="module")
def running(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Processes(tmp_path_factory.mktemp("edits")) as processes:
        crew = Crew(processes)
        v1, v2 = crew.start_all("v1", "v2")
        services = {"api": [v1.port], "v1": [v1.port], "v2": [v2.port]}
        with run_pair(authority, services, protocol=PortProtocol.HTTP) as pair:
            yield Stage(pair, crew, processes, v1, v2)


@pytest.fixture
def stage(running: Stage) -> Iterator[Stage]:
    """Give the proxies without any route or policy."""
    yield running
    running.pair.serve(running.services(running.v1))
    running.pair.lead()


def shares(v1: int, v2: int) -> HTTPRoute:
    """Give a route that divides the requests to `api`."""
    refs = (
        HTTPBackendRef(name="v1", port=SERVICE_PORT, weight=v1),
        HTTPBackendRef(name="v2", port=SERVICE_PORT, weight=v2),
    )
    return http_route(HTTPRouteRule(backend_refs=refs))


def assert_unharmed(load: OpenLoad) -> None:
    """End the load: not one request has failed."""
    assert [each for each in load.stop() if each.failed] == []


def test_canary(stage: Stage) -> None:
    """From 90/10 to 0/100: the shares follow within a second of each edit, and no request fails."""
    with open_load(stage.processes, stage.port, rate=500.0, methods=BOTH) as load:
        stage.pair.lead(shares(90, 10))
        divided = time.monotonic()
        load.wait(1000)
        editing = time.monotonic()
        stage.pair.lead(shares(0, 100))
        edited = time.monotonic()
        load.wait_for(lambda done: sum(each.sent > edited for each in done) > 300, "requests after the edit")
        done = load.stop()
    between = Counter(each.by for each in done if divided < each.sent and each.ended < editing)
    after = Counter(each.by for each in done if each.sent > edited)
    print(f"in force after {edited - editing:.3f} s")
    assert [each for each in done if each.failed] == []
    # Four standard deviations of a thousand draws.
    assert 0.06 < between["v2"] / between.total() < 0.14
    assert set(after) == {"v2"}
    assert edited - editing < SOON


CHANGES: dict[str, dict[str, Any]] = {
    **{f"balancing {each.value}": {"load_balancing": LoadBalancing(policy=each)} for each in BalancingPolicy},
    "hash": {
        "load_balancing": LoadBalancing(
            policy=BalancingPolicy.RING_HASH, hash_on=HashKey(type=KeyType.SOURCE), bounded_load=2
        )
    },
    "session": {
        "load_balancing": LoadBalancing(
            sticky_session=StickySession(key=HashKey(type=KeyType.COOKIE, name="stay"))
        )
    },
    "slow start": {"load_balancing": LoadBalancing(slow_start="10s", locality=Locality())},
    "limits": {"connection_limits": ConnectionLimits(connections=500, requests=500, pending=500)},
    "few requests a connection": {"connection_limits": ConnectionLimits(requests_per_connection=3)},
    "breaker": {"circuit_breaker": CircuitBreaker(consecutive_failures=5, success_percent=50)},
    "ejection": {"outlier_ejection": OutlierEjection(consecutive_failures=2, success_percent_below=20)},
    "timeouts": {
        "timeouts": BackendTimeouts(connect="2s", request="9s", per_try="9s", idle="5s"),
        "retries": Retries(attempts=5, hedge_after="500ms"),
    },
    "fault for others": {
        "faults": (
            Fault(
                name="others",
                matches=(HTTPRouteMatch(path=PathMatch(value="/others")),),
                delay=Delay(percent=100, duration="5s"),
                abort=Abort(percent=100, http_status=503),
            ),
        )
    },
}


def test_every_part_of_a_policy(stage: Stage) -> None:
    """Each part of a BackendPolicy comes and goes while requests are under way, and none of them fails."""
    stage.pair.serve(stage.services(stage.v1, stage.v2))
    with open_load(stage.processes, stage.port, rate=RATE, methods=BOTH) as load:
        for change in CHANGES.values():
            stage.pair.lead(policies=(backend_policy(**change),))
            load.wait(BETWEEN)
            stage.pair.lead()
            load.wait(BETWEEN)
        assert_unharmed(load)


def test_every_part_of_a_route(stage: Stage) -> None:
    """Routes are attached, changed and taken away while requests are under way, and none of them fails."""
    modifier = HeaderModifier(set=(Header(name="x-a", value="b"),))
    header = HTTPRouteFilter(type=FilterType.REQUEST_HEADER_MODIFIER, request_header_modifier=modifier)
    to_v2 = (HTTPBackendRef(name="v2", port=SERVICE_PORT),)
    edits = (
        shares(50, 50),
        http_route(HTTPRouteRule(backend_refs=to_v2, filters=(header,))),
        http_route(HTTPRouteRule(backend_refs=to_v2, timeouts=Timeouts(request="9s", backend_request="9s"))),
        http_route(HTTPRouteRule(backend_refs=to_v2, retry=Retry(codes=(503,), attempts=3, backoff="10ms"))),
        http_route(
            HTTPRouteRule(matches=(HTTPRouteMatch(path=PathMatch(value="/load")),), backend_refs=to_v2),
            HTTPRouteRule(backend_refs=(HTTPBackendRef(name="v1", port=SERVICE_PORT),)),
        ),
    )
    with open_load(stage.processes, stage.port, rate=RATE, methods=BOTH) as load:
        for route in edits:
            stage.pair.lead(route)
            load.wait(BETWEEN)
        stage.pair.lead()
        load.wait(BETWEEN)
        assert_unharmed(load)


def test_endpoints(stage: Stage) -> None:
    """Endpoints are replaced one after the other, and what leaves may be ended at once: no request fails."""
    present = stage.crew.start_all("a-0", "a-1", "a-2", delay=0.005)
    stage.pair.serve(stage.services(*present))
    stage.pair.lead()
    names = []
    with open_load(stage.processes, stage.port, rate=RATE, methods=BOTH) as load:
        for number in range(3):
            old, new = present.pop(0), stage.crew.start(f"b-{number}", delay=0.005)
            present.append(new)
            names.append(new.name)
            # Both are known to their host before callers hear of the change.
            stage.pair.serve(stage.services(old, *present))
            stage.pair.lead()
            load.wait(BETWEEN)
            # Callers are told first that one leaves, and what is under way there may end.
            stage.pair.serve_to_callers(stage.services(*present))
            load.wait(BETWEEN)
            old.process.stop()
            stage.pair.serve(stage.services(*present))
        load.wait(3 * BETWEEN)
        ended = time.monotonic()
        load.wait_for(lambda done: sum(each.sent > ended for each in done) > 100, "requests after the last")
        done = load.stop()
    assert [each for each in done if each.failed] == []
    assert {each.by for each in done if each.sent > ended} == set(names)


def test_authorization(stage: Stage) -> None:
    """An edit at the destination denies what comes next on open connections; its end allows it again."""
    allow = policy("web-may", Action.ALLOW, principals=(WEB.removeprefix("spiffe://"),))
    deny = policy("no-web", Action.DENY, principals=(WEB.removeprefix("spiffe://"),))
    with open_load(stage.processes, stage.port, rate=RATE) as load:
        stage.pair.enforce(allow)
        load.wait(BETWEEN)
        denying = time.monotonic()
        stage.pair.enforce(deny)
        denied = time.monotonic()
        load.wait(100)
        allowing = time.monotonic()
        stage.pair.enforce()
        allowed = time.monotonic()
        load.wait_for(lambda done: sum(each.sent > allowed for each in done) > 100, "requests after it all")
        done = load.stop()
    assert {each.status for each in done if each.ended < denying} == {200}
    assert {each.status for each in done if each.sent > denied and each.ended < allowing} == {403}
    assert {each.status for each in done if each.sent > allowed} == {200}
    assert {each.status for each in done} == {200, 403}, "nothing was broken off"


def test_open_exchange(authority: Authority) -> None:
    """A conversation that lasts goes on through edits of routes and policies."""

    def repeat(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.serve(repeat, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        services = {"api": [port], "v1": [port], "v2": [port]}
        with run_pair(authority, services, protocol=PortProtocol.HTTP) as pair:
            near = pair.near.ports[f"default/api:{SERVICE_PORT}"]
            with websockets.sync.client.connect(f"ws://127.0.0.1:{near}/chat") as caller:
                for number, change in enumerate(CHANGES.values()):
                    pair.lead(shares(number % 2, 1), policies=(backend_policy(**change),))
                    pair.enforce(policy("all", Action.ALLOW))
                    caller.send(str(number))
                    assert caller.recv(10) == str(number)
        server.shutdown()
        thread.join()
