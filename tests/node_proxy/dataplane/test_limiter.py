from dataclasses import dataclass, field

import msgspec
import pytest

from node_proxy.control import Quotas
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.http.message import Field
from node_proxy.dataplane.limiter import MAX_DEMANDS, UNLIMITED, Allowed, Limited, Limiter
from registry.model.backend_policy import BackendPolicy
from registry.model.resource import Metadata
from registry.rules.limits.keys import mesh_name
from registry.rules.request import HttpRequest
from tests.fakes.context import Scene, scene, snapshot

API = ("default/api",)
WEB = "spiffe://nodemesh.local/ns/default/sa/web"
SHOP = "spiffe://nodemesh.local/ns/default/sa/shop"


def policy(service: str = "api", **spec: object) -> BackendPolicy:
    """Give a policy attached to a service, as an operator writes it."""
    document = {
        "apiVersion": "nodemesh/v1",
        "kind": "BackendPolicy",
        "metadata": Metadata(name=service),
        "spec": {"targetRefs": [{"kind": "Service", "name": service}], **spec},
    }
    return msgspec.convert(document, BackendPolicy, from_attributes=True)


def request(path: str = "/", **headers: str) -> HttpRequest:
    """Give a request with headers named as keywords can be."""
    return HttpRequest("GET", path, "api", {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Bench:
    """A limiter under a clock that a test moves."""

    now: float = 1000.0
    scene: Scene = field(init=False)
    limiter: Limiter = field(init=False)

    def __post_init__(self) -> None:
        self.scene = scene(clock=lambda: self.now)
        self.limiter = Limiter(self.scene.context)

    def enforce(self, *policies: BackendPolicy) -> None:
        """Put these policies in force."""
        self.scene.enforce(msgspec.structs.replace(snapshot(), backend_policies=policies))

    def allowed(
        self, count: int, http: HttpRequest | None = None, *, caller: str = WEB, route: str = ""
    ) -> int:
        """Ask so often; gives how often it was allowed."""
        answers = [
            self.limiter.check(API, http or request(), caller=caller, route=route) for _ in range(count)
        ]
        return sum(isinstance(answer, Allowed) for answer in answers)


@pytest.fixture
def bench() -> Bench:
    """Give a limiter that nothing is in force for."""
    return Bench()


def values(headers: tuple[Field, ...]) -> dict[str, str]:
    """Give headers as text."""
    return {name.decode(): value.decode() for name, value in headers}


def test_nothing_is_limited_without_a_policy(bench: Bench) -> None:
    """A service without limits lets everything through, and adds nothing to its answers."""
    bench.enforce(policy())
    assert bench.limiter.check(API, request(), caller=WEB) is UNLIMITED
    assert bench.limiter.check((), request(), caller=WEB) is UNLIMITED
    assert bench.limiter.refuses_connection(API, WEB) == ""
    assert bench.limiter.shaper(API, WEB) is None


def test_limit(bench: Bench) -> None:
    """So many requests pass in a period, and as many more as it goes on."""
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 5, "per": "1s"}]))
    assert bench.allowed(20) == 5
    bench.now += 0.4
    assert bench.allowed(20) == 2
    bench.now += 60
    assert bench.allowed(20) == 5


def test_headers_of_what_is_allowed(bench: Bench) -> None:
    """An answer says how many requests there are, how many are left, and when all are there again."""
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 10, "per": "60s"}]))
    answer = bench.limiter.check(API, request(), caller=WEB)
    assert values(answer.headers) == {
        "ratelimit-limit": "10",
        "ratelimit-remaining": "9",
        "ratelimit-reset": "6",
    }


def test_headers_of_what_is_limited(bench: Bench) -> None:
    """Who waits as long as it is told is let through."""
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 10, "per": "60s"}]))
    bench.allowed(10)
    answer = bench.limiter.check(API, request(), caller=WEB)
    assert isinstance(answer, Limited)
    assert answer.name == "default/api/all"
    assert values(answer.headers) == {
        "retry-after": "6",
        "ratelimit-limit": "10",
        "ratelimit-remaining": "0",
        "ratelimit-reset": "60",
    }
    bench.now += answer.retry_after
    assert bench.allowed(5) == 1
    assert bench.scene.counted(telemetry.RATE_LIMITED, service="default/api", limit="all") == 5


def test_retry_after_is_never_zero(bench: Bench) -> None:
    """A wait of milliseconds is told as a second: 0 would be an invitation."""
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 100, "per": "1s", "burst": 1}]))
    bench.allowed(1)
    assert values(bench.limiter.check(API, request(), caller=WEB).headers)["retry-after"] == "1"


def test_the_tightest_limit_is_told(bench: Bench) -> None:
    """Of several limits that a request meets, the headers are of the one with the least left."""
    bench.enforce(policy(rateLimits=[{"name": "a", "requests": 50}, {"name": "b", "requests": 3}]))
    assert values(bench.limiter.check(API, request(), caller=WEB).headers)["ratelimit-remaining"] == "2"


def test_each_caller_counts(bench: Bench) -> None:
    """Under a limit by caller, one caller's requests are not another's; those without identity are one."""
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 3, "key": {"type": "Caller"}}]))
    assert [bench.allowed(5, caller=caller) for caller in (WEB, SHOP, WEB, "", "")] == [3, 3, 0, 3, 0]


def test_each_value_of_a_header_counts(bench: Bench) -> None:
    """Under a limit by header, each value counts, and all requests without it as one."""
    bench.enforce(
        policy(rateLimits=[{"name": "all", "requests": 3, "key": {"type": "Header", "header": "X-Tenant"}}])
    )
    asked = [request(x_tenant="a"), request(x_tenant="b"), request(x_tenant="a"), request(), request()]
    assert [bench.allowed(5, each) for each in asked] == [3, 3, 0, 3, 0]


def test_only_what_matches_counts(bench: Bench) -> None:
    """A limit with matches leaves all other requests alone."""
    bench.enforce(
        policy(rateLimits=[{"name": "slow", "requests": 2, "matches": [{"path": {"value": "/report"}}]}])
    )
    assert bench.allowed(5, request("/report/1?x=y")) == 2
    assert bench.allowed(5, request("/reports")) == 5
    assert bench.limiter.check(API, request("/"), caller=WEB) is UNLIMITED


def test_only_the_route_counts(bench: Bench) -> None:
    """A limit of a route counts what that route led here."""
    bench.enforce(policy(rateLimits=[{"name": "canary", "requests": 2, "route": "canary"}]))
    assert bench.allowed(5, route="default/canary") == 2
    assert bench.allowed(5, route="other/canary") == 5
    assert bench.allowed(5) == 5


def test_who_is_refused_by_one_limit_costs_the_others_nothing(bench: Bench) -> None:
    """A caller that is over its own limit does not use up what all share."""
    bench.enforce(
        policy(
            rateLimits=[
                {"name": "all", "requests": 10},
                {"name": "each", "requests": 2, "key": {"type": "Caller"}},
            ]
        )
    )
    assert bench.allowed(100, caller=WEB) == 2
    assert sum(bench.allowed(2, caller=f"{SHOP}{number}") for number in range(8)) == 8


def test_all_services_of_a_workload_count(bench: Bench) -> None:
    """A workload behind two services is asked no more than either lets through."""
    bench.enforce(
        policy("api", rateLimits=[{"name": "all", "requests": 5}]),
        policy("old", rateLimits=[{"name": "all", "requests": 3}]),
    )
    answers = [bench.limiter.check(("default/api", "default/old"), request(), caller=WEB) for _ in range(10)]
    assert sum(isinstance(each, Allowed) for each in answers) == 3
    assert bench.allowed(10) == 2


def test_an_edit_is_in_force_at_once(bench: Bench) -> None:
    """A limit that is raised, lowered or taken away holds from the next request on."""
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 1, "per": "1h"}]))
    assert bench.allowed(5) == 1
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 3, "per": "1h"}]))
    assert bench.allowed(5) == 3
    bench.enforce(policy())
    assert bench.allowed(5) == 5


def test_another_edit_keeps_the_counts(bench: Bench) -> None:
    """What is edited beside a limit is no fresh start for it."""
    limits = [{"name": "all", "requests": 3, "per": "1h"}]
    bench.enforce(policy(rateLimits=limits))
    assert bench.allowed(5) == 3
    bench.enforce(policy(rateLimits=limits, timeouts={"request": "5s"}))
    assert bench.allowed(5) == 0


def test_keys_beyond_the_memory_count_as_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no place for another caller's count, those without one share one: none is unlimited."""
    monkeypatch.setattr("node_proxy.buckets.KEYED_SETS", 1)
    bench.enforce(policy(rateLimits=[{"name": "all", "requests": 2, "per": "1h", "key": {"type": "Caller"}}]))
    assert sum(bench.allowed(2, caller=f"{SHOP}{number}") for number in range(8)) == 16
    assert sum(bench.allowed(2, caller=f"{WEB}{number}") for number in range(8)) == 2
    assert bench.scene.counted(telemetry.LIMIT_REACHED, limit="rate_keys") == 16


def test_no_room_at_all_is_a_refusal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be counted is refused."""
    monkeypatch.setattr("node_proxy.buckets.NAMED_SETS", 1)
    names = [f"limit-{number}" for number in range(9)]
    bench.enforce(
        policy(
            rateLimits=[
                {"name": name, "requests": 5, "per": "1h", "matches": [{"path": {"value": f"/{name}"}}]}
                for name in names
            ]
        )
    )
    assert [bench.allowed(1, request(f"/{name}")) for name in names] == [1] * 8 + [0]
    assert bench.scene.counted(telemetry.LIMIT_REACHED, limit="rate_names") == 1


def test_connections(bench: Bench) -> None:
    """New connections are counted by themselves, and their refusals too."""
    bench.enforce(
        policy(
            connectionRates=[{"connections": 3}, {"connections": 2, "key": {"type": "Caller"}}],
            rateLimits=[{"name": "all", "requests": 1}],
        )
    )
    refused = [bench.limiter.refuses_connection(API, caller) for caller in (WEB, WEB, WEB, SHOP, SHOP)]
    assert refused == ["", "", "default/api", "", "default/api"]
    assert bench.scene.counted(telemetry.RATE_LIMITED, kind="connections", service="default/api") == 2
    assert bench.allowed(2) == 1


def test_shapers_of_one_service_share_its_bandwidth(bench: Bench) -> None:
    """What one connection takes of a service's bandwidth, another does not get; a caller's is its own."""
    bench.enforce(policy(bandwidths=[{"download": 1_000_000, "key": {"type": "Caller"}}]))
    first, second, other = (bench.limiter.shaper(API, caller) for caller in (WEB, WEB, SHOP))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.upload is None
    assert first.download is not None
    assert second.download is not None
    assert other.download is not None
    assert first.download.take(1_000_000) == 50_000
    assert second.download.take(1_000_000) == 0
    assert other.download.take(1_000_000) == 50_000


# Limits that all nodes share.

MESH = {"name": "all", "requests": 100, "per": "1s", "scope": "Mesh"}


def test_shares(bench: Bench) -> None:
    """A node lets through its share of a limit, and the whole while nobody has said anything else."""
    bench.enforce(policy(rateLimits=[MESH]))
    assert bench.allowed(200) == 100
    bench.now += 60
    bench.limiter.learn(Quotas(shares={"default/api/all": 0.25}))
    assert bench.allowed(200) == 25
    bench.now += 60
    bench.limiter.learn(Quotas(shares={"default/api/all": 0.25, mesh_name("default/api/all", ""): 0.5}))
    assert bench.allowed(200) == 50


def test_a_new_share_is_no_fresh_start(bench: Bench) -> None:
    """Shares that change all the time let no more through than the limit."""
    bench.enforce(policy(rateLimits=[MESH]))
    passed = bench.allowed(200)
    for share in [0.2, 0.8, 0.5] * 100:
        bench.limiter.learn(Quotas(shares={"default/api/all": share}))
        bench.now += 0.1
        passed += bench.allowed(50)
    assert passed == pytest.approx(100 + 100 * 0.5 * 30, rel=0.05)


def test_demand_is_told(bench: Bench) -> None:
    """The agent hears of every request under a shared limit, allowed or not, once; of others never."""
    bench.enforce(policy(rateLimits=[MESH | {"requests": 2}, {"name": "own", "requests": 1000}]))
    bench.allowed(7)
    assert bench.limiter.take_demand() == {mesh_name("default/api/all", ""): 7}
    assert bench.limiter.take_demand() == {}


def test_demand_is_bounded(bench: Bench) -> None:
    """Callers that make up headers make no message of any size."""
    bench.enforce(
        policy(rateLimits=[MESH | {"key": {"type": "Header", "header": "x-tenant"}, "requests": 1}])
    )
    for number in range(MAX_DEMANDS + 10):
        bench.limiter.check(API, request(x_tenant=str(number)), caller=WEB)
    assert len(bench.limiter.take_demand()) == MAX_DEMANDS
