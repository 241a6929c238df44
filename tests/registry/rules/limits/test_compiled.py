import msgspec
import pytest

from registry.model.backend_policy import BackendPolicySpec
from registry.rules.limits.compiled import EVENNESS, LEAST_BURST, compile_limits, mesh_limits
from registry.rules.routing import HttpCall


def policy(**spec: object) -> BackendPolicySpec:
    """Give a policy as an operator writes it."""
    return msgspec.convert({"targetRefs": [{"kind": "Service", "name": "api"}], **spec}, BackendPolicySpec)


def test_nothing_is_limited_by_default() -> None:
    """A policy that says nothing of limits has none."""
    assert not compile_limits("default/api", policy()).any


def test_rate() -> None:
    """A rate of requests becomes a bucket, named as people find it."""
    (limit,) = compile_limits(
        "default/api", policy(rateLimits=[{"name": "all", "requests": 100, "per": "10s", "burst": 5}])
    ).requests
    assert limit.name == "default/api/all"
    assert limit.amount == 100
    assert limit.bucket.interval == pytest.approx(0.1)
    assert limit.bucket.depth == pytest.approx(0.5)
    assert (limit.matches, limit.route, limit.mesh) == (None, "", False)


def test_route_is_of_the_services_namespace() -> None:
    """A limit names a route by its name alone."""
    (limit,) = compile_limits(
        "shop/api", policy(rateLimits=[{"name": "all", "requests": 1, "route": "checkout"}])
    ).requests
    assert limit.route == "shop/checkout"


@pytest.mark.parametrize(
    "change",
    [
        {"requests": 2},
        {"per": "2s"},
        {"burst": 7},
        {"name": "other"},
        {"key": {"type": "Caller"}},
        {"key": {"type": "Header", "header": "x-a"}},
    ],
)
def test_an_edited_limit_begins_anew(change: dict[str, object]) -> None:
    """Counts are told apart by all that the limit says: an old one must not hold up a new one."""
    base = {"name": "all", "requests": 1}
    stems = {
        compile_limits("default/api", policy(rateLimits=[limit])).requests[0].stem
        for limit in (base, base | change)
    }
    assert len(stems) == 2


def test_no_period_is_no_crash() -> None:
    """A period of nothing, which no check lets through, divides by nothing all the same."""
    (limit,) = compile_limits(
        "default/api", policy(rateLimits=[{"name": "all", "requests": 1, "per": "0s"}])
    ).requests
    assert limit.bucket.interval > 0


def test_shaping_is_even() -> None:
    """A lane lets no more through at once than a twentieth of a second's worth, or a packet."""
    limits = compile_limits("default/api", policy(bandwidths=[{"upload": 1_000_000}, {"download": 1_000}]))
    (upload,), (download,) = limits.upload, limits.download
    assert upload.bucket.depth == pytest.approx(EVENNESS)
    assert upload.bucket.remaining(0.0, 1.0) == 50_000
    assert download.bucket.remaining(0.0, 1.0) == LEAST_BURST
    assert download.bucket.interval == pytest.approx(0.001)


def test_only_mesh_limits_are_shared() -> None:
    """The limits that all nodes share come with what they let through in a second."""
    shared = policy(
        rateLimits=[{"name": "a", "requests": 60, "per": "1m", "scope": "Mesh"}, {"name": "b", "requests": 1}]
    )
    assert mesh_limits("default/api", shared) == {"default/api/a": 1.0}


GET = HttpCall(method="GET", host="api", path="/v1/users?name=x&page=2", headers={"x-tenant": "acme"})


@pytest.mark.parametrize(
    ("matches", "counts"),
    [
        ([{"path": {"type": "PathPrefix", "value": "/v1"}}], True),
        ([{"path": {"type": "PathPrefix", "value": "/v1/"}}], True),
        ([{"path": {"type": "PathPrefix", "value": "/v"}}], False),
        ([{"path": {"type": "PathPrefix", "value": "/v1/users"}}], True),
        ([{"path": {"type": "Exact", "value": "/v1/users"}}], True),
        ([{"path": {"type": "Exact", "value": "/v1"}}], False),
        ([{"path": {"type": "RegularExpression", "value": "/v[0-9]+/.*"}}], True),
        ([{"path": {"type": "RegularExpression", "value": "/v[0-9]+"}}], False),
        ([{"method": "GET"}], True),
        ([{"method": "POST"}], False),
        ([{"headers": [{"name": "X-Tenant", "value": "acme"}]}], True),
        ([{"headers": [{"name": "X-Tenant", "value": "ac"}]}], False),
        ([{"headers": [{"name": "X-Tenant", "value": "a.*", "type": "RegularExpression"}]}], True),
        ([{"headers": [{"name": "x-a", "value": ".*", "type": "RegularExpression"}]}], False),
        # Of two entries for one name the first counts.
        (
            [{"headers": [{"name": "x-tenant", "value": "acme"}, {"name": "X-Tenant", "value": "b"}]}],
            True,
        ),
        ([{"queryParams": [{"name": "page", "value": "2"}]}], True),
        ([{"queryParams": [{"name": "page", "value": "3"}]}], False),
        ([{"method": "GET", "queryParams": [{"name": "page", "value": "3"}]}], False),
        ([{"method": "POST"}, {"method": "GET"}], True),
    ],
)
def test_matches(matches: list[dict[str, object]], counts: bool) -> None:
    """A limit counts the requests that any of its matches matches, as in an HTTPRoute."""
    (limit,) = compile_limits(
        "default/api", policy(rateLimits=[{"name": "all", "requests": 1, "matches": matches}])
    ).requests
    assert limit.matches is not None
    assert limit.matches(GET) is counts


def test_spellings_of_a_path_are_one() -> None:
    """A path cannot be written so that a limit does not see it."""
    (limit,) = compile_limits(
        "default/api",
        policy(
            rateLimits=[
                {"name": "a", "requests": 1, "matches": [{"path": {"type": "Exact", "value": "/v1/users"}}]}
            ]
        ),
    ).requests
    assert limit.matches is not None
    assert limit.matches(HttpCall(method="GET", host="api", path="//v1/./%75sers"))
