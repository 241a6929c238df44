"""Conditions on HTTP where no HTTP is read."""

from collections.abc import Mapping
from typing import Any

import pytest

from registry.model.parse import from_builtins
from registry.model.service import PortProtocol, Service
from registry.rules.layer7 import find_unenforceable, has_layer7, protocols_of
from tests.registry.rules.policies import callers, policy, targets

HTTP, TCP = PortProtocol.HTTP, PortProtocol.TCP
GET = targets({"methods": ["GET"]})
METHODS = "spec.rules[0].to[0].operation.methods"


def service(name: str, target: int, protocol: str) -> Service:
    """Give a service over the workloads of app=api."""
    resource = from_builtins(
        {
            "apiVersion": "nodemesh/v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {
                "selector": {"app": "api"},
                "ports": [{"port": 80, "targetPort": target, "protocol": protocol}],
            },
        },
        where="test",
    )
    assert isinstance(resource, Service)
    return resource


@pytest.mark.parametrize(
    ("rule", "paths"),
    [
        ({}, []),
        (callers({"namespaces": ["a"]}) | targets({"ports": ["80"]}), []),
        (GET, [METHODS]),
        (targets({"notHosts": ["x"]}), ["spec.rules[0].to[0].operation.notHosts"]),
        (targets({"ports": ["81"]}, {"paths": ["/x"]}), ["spec.rules[0].to[1].operation.paths"]),
        (targets({"ports": ["80"], "methods": ["GET"]}), [METHODS]),
        (targets({"ports": ["81"], "methods": ["GET"]}), []),
        (targets({"notPorts": ["80"], "methods": ["GET"]}), []),
        (GET | {"when": [{"key": "destination.port", "values": ["81"]}]}, []),
        (
            {"when": [{"key": "request.headers[x]", "notValues": ["y"]}]},
            ["spec.rules[0].when[0].notValues"],
        ),
    ],
)
def test_at_a_tcp_port(rule: Mapping[str, Any], paths: list[str]) -> None:
    """A rule with a field about HTTP is unenforceable at a port without, if it may concern the port."""
    found = find_unenforceable(policy("p", rule), {80: TCP}, of="default/api")
    assert [each.path for each in found] == paths


def test_what_is_read_can_be_enforced() -> None:
    """At ports whose HTTP is read there is nothing to complain of; one that is not is enough."""
    every = {80: HTTP, 81: PortProtocol.HTTP2, 82: PortProtocol.GRPC, 83: PortProtocol.AUTO}
    assert not list(find_unenforceable(policy("p", GET), every, of="x"))
    (found,) = find_unenforceable(policy("p", GET), {80: HTTP, 81: TCP}, of="x")
    assert "port 81 of x is tcp" in found.reason
    assert found.mend.startswith("set the port's protocol to http in the Service")


@pytest.mark.parametrize(
    ("action", "effect"),
    [
        ("ALLOW", "the rule allows nothing there"),
        ("DENY", "the rule matches every request there"),
        ("AUDIT", "the rule matches every request there"),
    ],
)
def test_effect_is_said(action: str, effect: str) -> None:
    """The complaint says what the rule does meanwhile."""
    (found,) = find_unenforceable(policy("p", GET, action=action), {80: TCP}, of="default/api")
    assert found.describe() == (
        f"{METHODS}: needs HTTP, and port 80 of default/api is tcp: {effect}; "
        "set the port's protocol to http in the Service, or name other ports under to.operation.ports"
    )


def test_which_policies_are_about_requests() -> None:
    """Any field about HTTP in any rule makes a policy one about requests."""
    assert has_layer7(policy("p", {}, GET))
    assert not has_layer7(policy("p", {}, {"when": [{"key": "source.ip", "values": ["10.0.0.1"]}]}))


def test_protocols() -> None:
    """A port speaks what its services declare; tcp where none does, or where they disagree.

    About the version of HTTP they may: each connection shows that by itself.
    """
    declared = [(8080, "http"), (8081, "http"), (8081, "grpc"), (8082, "http"), (8082, "auto")]
    services = [service(f"s{number}", *each) for number, each in enumerate(declared)]
    ports = (8080, 8081, 8082, 9090)
    spoken = protocols_of(services, namespace="default", labels={"app": "api"}, ports=ports)
    assert spoken == {8080: HTTP, 8081: HTTP, 8082: TCP, 9090: TCP}
    assert protocols_of(services, namespace="batch", labels={"app": "api"}, ports=(8080,)) == {8080: TCP}
