import pytest

from registry.model.http_route import HTTPRoute
from registry.rules.findings import Check, Finding, Severity
from registry.rules.routing import lint_routes
from tests.registry.rules.routing.documents import SERVICES, V2, grpc, http, path, rule, tcp


def of(*routes: tuple[HTTPRoute, int]) -> list[tuple[str, str]]:
    return [(each.policy, each.path) for each in lint_routes(http_routes=routes, services=SERVICES)]


def only(findings: tuple[Finding, ...]) -> Finding:
    (found,) = findings
    return found


def test_nothing() -> None:
    """Routes whose every match can be reached have no findings."""
    route = http(rule(path("/a")), rule(path("/a", "Exact")), rule(path("/a", method="GET")), rule())
    assert of((route, 1)) == []


def test_the_same_again() -> None:
    """A match that asks for the same as an earlier one is found, whatever the order within it."""
    pair = [{"name": "a", "value": "1"}, {"name": "B", "value": "2"}]
    turned = [{"name": "b", "value": "2"}, {"name": "A", "value": "1"}]
    route = http(rule(path("/a/", headers=pair)), rule(path("/x"), path("/a", headers=turned), to=V2))
    found = only(lint_routes(http_routes=((route, 1),), services=SERVICES))
    assert (found.severity, found.check) == (Severity.WARNING, Check.SHADOWED)
    assert (found.kind, found.policy, found.path) == (
        "HTTPRoute",
        "default/route",
        "spec.rules[1].matches[1]",
    )
    assert "spec.rules[0].matches[0], which goes first" in found.message


def test_of_an_older_route() -> None:
    """It is the younger route that is said to be shadowed, and by which."""
    found = only(
        lint_routes(
            http_routes=((http(rule(path("/a")), name="a"), 9), (http(rule(path("/a")), name="b"), 3)),
            services=SERVICES,
        )
    )
    assert found.policy == "default/a"
    assert "of default/b" in found.message


def test_hostnames_that_are_left() -> None:
    """A route that still has a host to itself is not shadowed."""
    old = http(rule(path("/a")), name="old", hostnames=["a.example", "*.b.example"])
    left = http(rule(path("/a")), name="left", hostnames=["a.example", "c.example"])
    none = http(rule(path("/a")), name="none", hostnames=["*.b.example"])
    assert of((old, 1), (left, 2)) == []
    assert of((old, 1), (none, 2)) == [("default/none", "spec.rules[0].matches[0]")]


def test_an_expression_for_every_path() -> None:
    """Behind an expression that every path matches no prefix is reached; exact paths are."""
    every = rule(path("/.*", "RegularExpression"))
    route = http(every, rule(path("/a")), rule(path("/b", "Exact")), rule())
    assert of((route, 1)) == [
        ("default/route", "spec.rules[1].matches[0]"),
        ("default/route", "spec.rules[3]"),
    ]
    narrowed = http(rule(path("/.*", "RegularExpression", method="GET")), rule(path("/a")))
    assert of((narrowed, 1)) == []


@pytest.mark.parametrize("backends", [[], [V2 | {"weight": 0}]])
def test_leads_nowhere(backends: list[dict[str, object]]) -> None:
    """A rule without a backend that gets anything is found, one that redirects is not."""
    nowhere = http({"matches": [path("/a")], "backendRefs": backends})
    assert of((nowhere, 1)) == [("default/route", "spec.rules[0].backendRefs")]
    redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "b.example"}}
    assert of((http({"matches": [path("/a")], "filters": [redirect]}), 1)) == []


def test_another_kind() -> None:
    """An HTTPRoute beside a GRPCRoute on one port does not hold there, which is an error."""
    found = only(
        lint_routes(
            http_routes=((http(rule(), name="web"), 1),),
            grpc_routes=(
                (grpc({"backendRefs": [V2]}, name="calls", parentRefs=[{"name": "api", "port": 90}]), 2),
            ),
            services=SERVICES,
        )
    )
    assert (found.severity, found.policy, found.path) == (Severity.ERROR, "default/web", "spec.parentRefs")
    assert "default/api:90" in found.message


def test_another_tcp_route() -> None:
    """The younger of two TCPRoutes of a port does not hold, which is an error."""
    routes = ((tcp({"name": "v1", "port": 70}, name="a"), 5), (tcp({"name": "v2", "port": 70}, name="b"), 4))
    found = only(lint_routes(tcp_routes=routes, services=SERVICES))
    assert (found.severity, found.policy) == (Severity.ERROR, "default/a")
