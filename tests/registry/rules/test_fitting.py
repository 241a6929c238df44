"""How routes and backend policies fit the services of a mesh: resources in, remarks out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.backend_policy import BackendPolicy
from registry.model.parse import from_builtins
from registry.model.service import PortProtocol, Service
from registry.rules.fitting import Known, Remark, attach, policy_remarks, route_remarks
from registry.rules.routing.attachment import AnyRoute
from tests.strategies import backend_policies

GATEWAY = "gateway.networking.k8s.io"
TARGET = {"kind": "Service", "name": "web"}


def services(**protocols: str) -> Known:
    """Give a mesh of services of the namespace default, each with port 80 that speaks this."""
    return Known(
        services={f"default/{name}": service(name, protocol) for name, protocol in protocols.items()}
    )


def service(name: str, *protocols: str) -> Service:
    """Give a service whose ports, from 80 on, speak these."""
    ports = [{"port": 80 + i, "protocol": each} for i, each in enumerate(protocols)]
    made = _resource("nodemesh/v1", "Service", name, {"ports": ports, "selector": {"app": name}})
    assert isinstance(made, Service)
    return made


def route(
    kind: str = "HTTPRoute",
    *,
    parent: dict[str, Any] | None = None,
    backend: dict[str, Any] | None = None,
    namespace: str = "default",
    **rule: Any,
) -> AnyRoute:
    """Give a route of one rule, from web to web."""
    made = _resource(
        f"{GATEWAY}/{'v1alpha2' if kind == 'TCPRoute' else 'v1'}",
        kind,
        "r",
        {
            "parentRefs": [{"name": "web", **(parent or {})}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80, **(backend or {})}], **rule}],
        },
        namespace,
    )
    assert isinstance(made, AnyRoute)
    return made


def policy(name: str = "p", *targets: str, **spec: Any) -> BackendPolicy:
    """Give a policy for services."""
    refs = [{**TARGET, "name": each} for each in targets or ("web",)]
    made = _resource("nodemesh/v1", "BackendPolicy", name, {"targetRefs": refs, **spec})
    assert isinstance(made, BackendPolicy)
    return made


def _resource(version: str, kind: str, name: str, spec: dict[str, Any], namespace: str = "default") -> object:
    metadata = {"name": name, "namespace": namespace}
    return from_builtins(
        {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}, where="key"
    )


@pytest.mark.parametrize(
    ("kind", "protocols"),
    [
        ("HTTPRoute", {"http", "http2", "grpc", "auto"}),
        ("GRPCRoute", {"http2", "grpc", "auto"}),
        ("TCPRoute", {"tcp", "tls", "auto"}),
    ],
)
@pytest.mark.parametrize("parent", [{}, {"port": 80}], ids=["any-port", "port"])
def test_protocols(kind: str, protocols: set[str], parent: dict[str, Any]) -> None:
    """A route is rejected where its parent speaks what routes of its kind do not lead, and nowhere else."""
    refused = set()
    for protocol in PortProtocol:
        remarks = list(route_remarks(route(kind, parent=parent), services(web=protocol.value)))
        if any(each.grave for each in remarks):
            refused.add(protocol.value)
            assert protocol.value in remarks[0].reason
    assert refused == {each.value for each in PortProtocol} - protocols


def test_one_port_is_enough() -> None:
    """A route without a port is for those of the parent's ports that speak its protocol."""
    known = Known(services={"default/web": service("web", "http", "tcp")})
    assert list(route_remarks(route(), known)) == []
    (remark,) = route_remarks(route(parent={"port": 81}), known)
    assert remark == Remark(
        "spec.parentRefs[0].port",
        "HTTPRoutes have no effect there: port 81 of default/web is tcp",
        "set the port's protocol to http in the Service, or write a TCPRoute",
        grave=True,
    )


@pytest.mark.parametrize(
    ("made", "path", "reason"),
    [
        (route(parent={"name": "wep"}), "spec.parentRefs[0].name", "there is no Service default/wep"),
        (
            route(parent={"namespace": "shop"}),
            "spec.parentRefs[0].name",
            "there is no Service shop/web",
        ),
        (route(parent={"port": 81}), "spec.parentRefs[0].port", "default/web has no port 81, only 80"),
        (
            route(backend={"name": "v2"}),
            "spec.rules[0].backendRefs[0].name",
            "there is no Service default/v2: its share of the requests is answered with 500",
        ),
        (
            route(backend={"port": 81}),
            "spec.rules[0].backendRefs[0].port",
            "default/web has no port 81, only 80: its share of the requests is answered with 500",
        ),
        (
            route(
                filters=[
                    {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 80}}}
                ]
            ),
            "spec.rules[0].filters[0].requestMirror.backendRef.name",
            "there is no Service default/copy: its share of the requests is answered with 500",
        ),
    ],
)
def test_unknown_references(made: AnyRoute, path: str, reason: str) -> None:
    """What the mesh has not, or not yet, is a warning that says what becomes of the requests."""
    (remark,) = route_remarks(made, services(web="http"))
    assert (remark.path, remark.reason, remark.grave) == (path, reason, False)


def test_a_tcp_backend_of_http() -> None:
    """Requests that lead to a port of plain TCP are a warning: they will be HTTP there."""
    (remark,) = route_remarks(route(backend={"name": "db"}), services(web="http", db="tcp"))
    assert (remark.path, remark.grave) == ("spec.rules[0].backendRefs[0].port", False)


def test_a_service_that_is_rejected_is_not_missing() -> None:
    """Of a service that is there and does not parse nothing is said: its own rejection says it."""
    known = Known(services={}, unread={"default/web"})
    assert list(route_remarks(route(), known)) == []
    assert list(policy_remarks(policy(), known)) == []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"rateLimits": [{"name": "a", "requests": 1}]}, "spec.rateLimits"),
        ({"faults": [{"name": "a", "abort": {"percent": 1, "httpStatus": 503}}]}, "spec.faults"),
    ],
)
def test_requests_of_a_service_without(spec: dict[str, Any], path: str) -> None:
    """What counts or fails requests is rejected for a service that has none, and taken for one that may."""
    (remark,) = policy_remarks(policy(**spec), services(web="tcp"))
    assert (remark.path, remark.grave) == (path, True)
    assert list(policy_remarks(policy(**spec), services(web="auto"))) == []


def test_a_limit_of_an_unknown_route() -> None:
    """A rate limit that names a route which is not there is a warning."""
    limited = policy(rateLimits=[{"name": "a", "requests": 1, "route": "r"}])
    known = services(web="http")
    (remark,) = policy_remarks(limited, known)
    assert (remark.path, remark.grave) == ("spec.rateLimits[0].route", False)
    assert list(policy_remarks(limited, Known(known.services, routes={"default/r"}))) == []


def test_the_older_policy_counts() -> None:
    """Of two policies for one service the older counts, and the other is told which does."""
    young, old = policy("a"), policy("b")
    attached = attach([(young, 7), (old, 5)])
    assert attached.policies == (old,)
    (remark,) = attached.beaten["default/a"]
    assert (remark.path, remark.grave) == ("spec.targetRefs[0]", True)
    assert "default/b, which is older" in remark.reason


def test_as_old_as_each_other() -> None:
    """Of two that were made at once, or whose making is not known, the first by name counts."""
    assert attach([(policy("b"), 0), (policy("a"), 0)]).policies == (policy("a"),)


def test_a_policy_counts_where_it_is_first() -> None:
    """A policy for several services counts for those that no older one has taken."""
    attached = attach([(policy("old", "web"), 1), (policy("new", "web", "api"), 2)])
    assert [each.targets for each in attached.policies] == [("default/web",), ("default/api",)]
    assert [each.path for each in attached.beaten["default/new"]] == ["spec.targetRefs[0]"]


@given(st.lists(st.tuples(backend_policies, st.integers(0, 3)), max_size=5))
def test_one_for_each_service(policies: list[tuple[BackendPolicy, int]]) -> None:
    """Whatever is written, each service that is named has exactly one policy that counts."""
    policies = list({each.name: (each, created) for each, created in policies}.values())
    targets = [name for each in attach(policies).policies for name in each.targets]
    assert sorted(targets) == sorted({name for each, _ in policies for name in each.targets})
