"""What each part of a BackendPolicy does to requests, and what routes say of time, through both proxies."""

import http.cookies
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from registry.model.backend_policy import (
    BackendTimeouts,
    CircuitBreaker,
    ConnectionLimits,
    Delay,
    Fault,
    HashKey,
    KeyType,
    LoadBalancing,
    OutlierEjection,
    Retries,
    RetryReason,
    StickySession,
)
from registry.model.gateway import BackendReference, RequestMirror
from registry.model.http_route import (
    FilterType,
    HTTPBackendRef,
    HTTPRouteFilter,
    HTTPRouteRule,
    Timeouts,
)
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.http_workloads import Answered, Asked, Client, client, run_http, tell
from tests.integration.pair import SERVICE_PORT, Pair, run_pair
from tests.integration.snapshots import backend_policy, http_route
from tests.integration.workloads import PATIENCE
from tests.support.processes import wait_until

SLOW = 1.5
# Answers that nobody delays come within this even on a busy machine.
AT_ONCE = 0.75
DELAY = "1s"
to_one = HTTPBackendRef(name="one", port=SERVICE_PORT)


@dataclass
class Actor:
    """A workload that does what a test says; `asked` are the targets it was asked for."""

    name: str
    seconds: float = 0.0
    status: int = 200
    asked: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> tuple[int, list[tuple[str, str]], bytes]:
        """Answer one request."""
        self.asked.append(asked.target)
        time.sleep(self.seconds)
        return tell(self.name, asked) if self.status == 200 else (self.status, [], b"")


@dataclass(frozen=True)
class Stage:
    """Running proxies. `api` has two endpoints, `one` and `shadow` one each."""

    pair: Pair
    first: Actor
    second: Actor
    one: Actor
    shadow: Actor

    @contextmanager
    def caller(self, service: str) -> Iterator[Client]:
        """Give a caller of a service."""
        with client(self.pair.near.ports[f"default/{service}:{SERVICE_PORT}"]) as made:
            yield made

    def ask_all(self, service: str, count: int) -> list[Answered]:
        """Ask so often at once, each over a connection of its own."""

        def ask(_number: int) -> Answered:
            with self.caller(service) as web:
                return web.get()

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(ask, range(count)))


@pytest.fixture(scope="module")
def running(authority: Authority) -> Iterator[Stage]:
    actors = [Actor(name) for name in ("first", "second", "one", "shadow")]
    with ExitStack() as stack:
        first, second, one, shadow = (
            stack.enter_context(run_http(actor.name, actor.answer)).port for actor in actors
        )
        services = {"api": [first, second], "one": [one], "shadow": [shadow]}
        pair = stack.enter_context(run_pair(authority, services, protocol=PortProtocol.HTTP))
        yield Stage(pair, *actors)


@pytest.fixture
def stage(running: Stage) -> Iterator[Stage]:
    """Give the proxies without any policy, and workloads that answer at once."""
    yield running
    for actor in (running.first, running.second, running.one, running.shadow):
        actor.seconds, actor.status = 0.0, 200
        actor.asked.clear()
    running.pair.lead()


def reasons(answers: Sequence[Answered]) -> Counter[tuple[int, str]]:
    """Count the statuses of answers, with the reasons of the proxies' own."""
    return Counter((each.status, each.fields.get("nodemesh-reason", "")) for each in answers)


def test_try_that_takes_too_long(stage: Stage) -> None:
    """A try that is slow is given up for another endpoint, if its request may be repeated."""
    stage.first.seconds = SLOW
    policy = backend_policy(
        timeouts=BackendTimeouts(per_try="250ms"),
        retries=Retries(on=(RetryReason.UNSENT, RetryReason.TIMEOUT)),
        outlier_ejection=OutlierEjection(consecutive_failures=1000),
    )
    stage.pair.lead(policies=(policy,))
    with stage.caller("api") as web:
        gets = [web.get() for _ in range(8)]
        posts = [web.ask("POST", "/", body=b"x") for _ in range(8)]
    assert {each.told["by"] for each in gets} == {"second"}
    assert any(each.told["fields"].get("nodemesh-attempt") == "2" for each in gets)
    assert reasons(posts).keys() <= {(200, ""), (504, "timeout")}


def test_hedge(stage: Stage) -> None:
    """A second try begins beside a slow one, and the first answer is given."""
    stage.first.seconds = SLOW
    stage.pair.lead(policies=(backend_policy(retries=Retries(hedge_after="100ms")),))
    began = time.monotonic()
    answers = stage.ask_all("api", 6)
    assert time.monotonic() - began < SLOW
    assert {each.told["by"] for each in answers} == {"second"}
    assert any(each.told["fields"].get("nodemesh-attempt") == "2" for each in answers)


def test_breaker(stage: Stage) -> None:
    """Open, it lets nothing through; a probe that fails keeps it so, and one that succeeds closes it."""
    stage.one.status = 500
    breaker = CircuitBreaker(consecutive_failures=3, open_for="500ms")
    stage.pair.lead(policies=(backend_policy("one", circuit_breaker=breaker, retries=Retries(attempts=0)),))
    with stage.caller("one") as web:
        assert reasons([web.get() for _ in range(8)]) == {(500, ""): 3, (503, "breaker_open"): 5}
        assert len(stage.one.asked) == 3
        time.sleep(0.6)
        assert reasons([web.get() for _ in range(4)]) == {(500, ""): 1, (503, "breaker_open"): 3}
        time.sleep(0.6)
        stage.one.status = 200
        assert reasons([web.get() for _ in range(8)]) == {(200, ""): 8}
    for state in ("open", "half_open", "closed"):
        stage.pair.near.wait_log("circuit breaker", service="default/one", state=state)


def test_requests_at_once(stage: Stage) -> None:
    """More requests than may be in flight are refused, and none of those reaches the endpoint."""
    stage.one.seconds = SLOW
    stage.pair.lead(policies=(backend_policy("one", connection_limits=ConnectionLimits(requests=2)),))
    assert reasons(stage.ask_all("one", 6)) == {(200, ""): 2, (503, "overflow"): 4}
    assert len(stage.one.asked) == 2
    with stage.caller("one") as web:
        assert web.get().status == 200, "there is room again"


def test_connections_at_once(authority: Authority) -> None:
    """Requests wait for one of a limited number of connections; more than may wait are refused."""
    limits = ConnectionLimits(connections=1, pending=2)
    actor = Actor("one", seconds=0.4)
    with (
        run_http("one", actor.answer) as workload,
        run_pair(authority, {"one": [workload.port]}, protocol=PortProtocol.HTTP) as pair,
    ):
        pair.lead(policies=(backend_policy("one", connection_limits=limits),))
        answers = Stage(pair, actor, actor, actor, actor).ask_all("one", 6)
        assert workload.accepted == 1
    assert reasons(answers) == {(200, ""): 3, (503, "overflow"): 3}


def test_mirror(stage: Stage) -> None:
    """Copies reach the other service, which may be as slow as it likes: the caller does not wait for it."""
    stage.shadow.seconds = SLOW
    mirror = HTTPRouteFilter(
        type=FilterType.REQUEST_MIRROR,
        request_mirror=RequestMirror(backend_ref=BackendReference(name="shadow", port=SERVICE_PORT)),
    )
    stage.pair.lead(http_route(HTTPRouteRule(filters=(mirror,), backend_refs=(to_one,)), parent="one"))
    with stage.caller("one") as web:
        began = time.monotonic()
        answers = [web.get(f"/{number}") for number in range(4)]
        assert time.monotonic() - began < SLOW
    assert [each.told["by"] for each in answers] == ["one"] * 4
    wait_until(lambda: len(stage.shadow.asked) == 4, what="the copies", deadline=PATIENCE)
    assert sorted(stage.shadow.asked) == ["/0", "/1", "/2", "/3"]


def test_delay(stage: Stage) -> None:
    """A delay made on purpose is there with the policy that says so, and gone with it."""
    fault = Fault(name="slow", delay=Delay(percent=100, duration=DELAY))

    def ask() -> float:
        with stage.caller("one") as web:
            began = time.monotonic()
            assert web.get().status == 200
            return time.monotonic() - began

    assert ask() < AT_ONCE
    stage.pair.lead(policies=(backend_policy("one", faults=(fault,)),))
    assert ask() > AT_ONCE
    stage.pair.lead()
    assert ask() < AT_ONCE


def test_session(authority: Authority) -> None:
    """A cookie keeps a caller with its endpoint; when that is gone, another takes over with a new cookie."""
    key = HashKey(type=KeyType.COOKIE, name="stay")
    policy = backend_policy(load_balancing=LoadBalancing(sticky_session=StickySession(key=key, ttl="1h")))
    with ExitStack() as life, run_http("second") as second:
        first = life.enter_context(run_http("first"))
        services = {"api": [first.port, second.port]}
        with run_pair(authority, services, protocol=PortProtocol.HTTP) as pair:
            pair.lead(policies=(policy,))
            with client(pair.near.ports[f"default/api:{SERVICE_PORT}"]) as web:
                cookies: dict[str, str] = {}
                while cookies.keys() != {"first", "second"}:
                    answered = web.get()
                    made = http.cookies.SimpleCookie(answered.fields["set-cookie"])
                    cookies[answered.told["by"]] = f"stay={made['stay'].value}"
                for name, cookie in cookies.items():
                    answers = [web.get("/", cookie=cookie) for _ in range(10)]
                    assert {each.told["by"] for each in answers} == {name}
                    assert not any("set-cookie" in each.fields for each in answers)
                life.close()
                answered = web.get("/", cookie=cookies["first"])
    assert answered.told["by"] == "second"
    assert cookies["second"] in answered.fields["set-cookie"]


def test_deadline(stage: Stage) -> None:
    """The workload hears how long is left, by the smaller of what route and caller say."""
    rule = HTTPRouteRule(backend_refs=(to_one,), timeouts=Timeouts(request="2s"))
    stage.pair.lead(http_route(rule, parent="one"))
    with stage.caller("one") as web:
        assert 1000 < int(web.get().told["fields"]["nodemesh-timeout"]) <= 2000
        assert 0 < int(web.get("/", nodemesh_timeout="900").told["fields"]["nodemesh-timeout"]) <= 900


def test_deadline_that_passes(stage: Stage) -> None:
    """When it has passed the caller is told so, and both proxies have let the request go."""
    stage.one.seconds = SLOW
    stage.pair.lead()
    with stage.caller("one") as web:
        began = time.monotonic()
        answered = web.get("/", nodemesh_timeout="300")
        assert time.monotonic() - began < SLOW
        assert (answered.status, answered.fields["nodemesh-reason"]) == (504, "timeout")
        began = time.monotonic()
        stage.one.seconds = 0.0
        assert web.get().status == 200
        assert time.monotonic() - began < SLOW, "it does not wait for the one before"
