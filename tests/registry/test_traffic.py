"""What the controller says of routes and backend policies, by their statuses."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from registry.model.parse import parse_as
from registry.model.status import Status, StatusSpec
from registry.statuses import plan
from registry.store.base import KeyValue, Put
from registry.traffic import MAX_REMARKS

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
VERSIONS = {"HTTPRoute": "gateway.networking.k8s.io/v1", "TCPRoute": "gateway.networking.k8s.io/v1alpha2"}
PLURALS = {
    "HTTPRoute": "httproutes",
    "TCPRoute": "tcproutes",
    "BackendPolicy": "backendpolicies",
    "Service": "services",
}


class World:
    """A store's content, written by hand and judged at once."""

    def __init__(self) -> None:
        self.state: dict[str, KeyValue] = {}
        self.revision = 0

    def put(self, kind: str, name: str, spec: dict[str, Any]) -> str:
        """Write a resource; gives its key."""
        document = {
            "apiVersion": VERSIONS.get(kind, "nodemesh/v1"),
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        self.revision += 1
        key = f"{PLURALS[kind]}/default/{name}"
        before = self.state.get(key)
        created = before.created if before else self.revision
        self.state[key] = KeyValue(key, json.dumps(document).encode(), created, self.revision)
        return key

    def service(self, name: str, protocol: str = "http") -> str:
        """Write a service with port 80."""
        ports = [{"port": 80, "protocol": protocol}]
        return self.put("Service", name, {"ports": ports, "selector": {"app": name}})

    def route(self, name: str = "r", to: str = "web", *, rules: int = 1, **rule: Any) -> str:
        """Write a route from web to a service."""
        each = {"backendRefs": [{"name": to, "port": 80}], **rule}
        return self.put("HTTPRoute", name, {"parentRefs": [{"name": "web"}], "rules": [each] * rules})

    def policy(self, name: str, **spec: Any) -> str:
        """Write a policy for web."""
        return self.put("BackendPolicy", name, {"targetRefs": [{"kind": "Service", "name": "web"}], **spec})

    def status(self, key: str) -> StatusSpec:
        """Give what is said of a key."""
        writes = plan(self.state, trust_domain="mesh.test", now=NOON)
        (value,) = [each.value for each in writes if isinstance(each, Put) and each.key == f"status/{key}"]
        return parse_as(Status, value, where=key).spec


@pytest.fixture
def world() -> World:
    return World()


def test_accepted(world: World) -> None:
    """A route between services that speak HTTP, and a policy for one, are accepted without a word."""
    world.service("web")
    for key in (world.route(), world.policy("p", rateLimits=[{"name": "a", "requests": 1, "route": "r"}])):
        assert world.status(key) == StatusSpec(revision=world.state[key].revision, accepted=True)


def test_rejected(world: World) -> None:
    """An HTTPRoute on a port of plain TCP is rejected, with what to write instead."""
    world.service("web", "tcp")
    status = world.status(world.route())
    assert not status.accepted
    assert status.reasons[0] == (
        "spec.parentRefs[0]: HTTPRoutes have no effect there: default/web speaks only tcp; "
        "set the port's protocol to http in the Service, or write a TCPRoute"
    )


def test_warned(world: World) -> None:
    """A backend that is not there is a warning; the route is accepted, and fine once it is."""
    world.service("web")
    key = world.route(to="v2")
    status = world.status(key)
    assert status.accepted
    assert status.reasons[0].startswith("warning: spec.rules[0].backendRefs[0].name: there is no Service")
    world.service("v2")
    assert world.status(key).reasons == ()


def test_rules_that_match_the_same(world: World) -> None:
    """A rule that asks for what another asks for already is a warning for the younger."""
    world.service("web")
    old, young = world.route("old"), world.route("young")
    assert world.status(old).reasons == ()
    assert "of default/old, which goes first" in world.status(young).reasons[0]


def test_the_younger_policy_is_rejected(world: World) -> None:
    """Of two policies for a service the older is accepted, also after it was edited, the other rejected."""
    world.service("web")
    old, young = world.policy("z"), world.policy("a")
    world.policy("z", retries={"attempts": 1})
    assert world.status(old).accepted
    status = world.status(young)
    assert not status.accepted
    assert "default/z, which is older and counts" in status.reasons[0]


def test_a_rejected_service_is_not_missing(world: World) -> None:
    """A route to a service that does not parse is not told that there is none."""
    world.service("web")
    key = world.route(to="v2")
    world.put("Service", "v2", {"ports": []})
    assert world.status(key).reasons == ()


def test_a_status_stays_small(world: World) -> None:
    """Of many remarks the first are kept, and the others counted."""
    world.service("web")
    status = world.status(world.route(to="v2", rules=16, backendRefs=[{"name": "v2", "port": 80}] * 16))
    assert len(status.reasons) == MAX_REMARKS
    assert status.reasons[-1].endswith("more remarks")
