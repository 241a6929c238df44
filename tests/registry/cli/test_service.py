import json
from typing import Any

import pytest

from tests.fakes.registry_api import FakeRegistry
from tests.registry.cli.conftest import Meshctl

IDENTITY = "spiffe://nodemesh.local/ns/default/sa/web"
GOOD: dict[str, Any] = {
    "node": "web-1",
    "workload": "default/web",
    "address": "10.0.0.1",
    "port": 8080,
    "identity": IDENTITY,
    "health": "healthy",
    "usable": True,
    "why": "",
}
BAD = {**GOOD, "node": "web-2", "health": "unhealthy", "usable": False, "why": "it is unhealthy"}
WEB: dict[str, Any] = {
    "namespace": "default",
    "name": "web",
    "ports": [{"name": None, "port": 80, "targetPort": 8080, "protocol": "http"}],
    "identities": [IDENTITY],
    "vips": ["240.240.0.1"],
    "accepted": True,
    "reasons": [],
    "endpoints": [GOOD, BAD],
    "kind": "Service",
    "hosts": [],
}


@pytest.fixture
def web(registry: FakeRegistry) -> dict[str, Any]:
    """Give the one service that the registry knows, to be changed by the test."""
    registry.services = [dict(WEB)]
    return registry.services[0]


@pytest.mark.usefixtures("web")
def test_services_are_listed_with_usable_endpoints(meshctl: Meshctl) -> None:
    """A row says ports, virtual address and how many of the known endpoints take traffic."""
    row = meshctl("service list").stdout.splitlines()[1].split()
    assert row == ["default", "web", "80→8080/http", "240.240.0.1", "1/2", "accepted"]


def test_the_list_is_of_one_namespace(meshctl: Meshctl, web: dict[str, Any]) -> None:
    """Without a word only the namespace `default` is listed, and the note says how to see more."""
    web["namespace"] = "shop"
    assert "No services in namespace default; -A shows every namespace." in meshctl("service list").stderr


def test_every_namespace_may_be_listed(meshctl: Meshctl, web: dict[str, Any]) -> None:
    """-A lists the services of all namespaces."""
    web["namespace"] = "shop"
    assert meshctl("service list -A -o name").stdout == "services/shop/web\n"


@pytest.mark.usefixtures("web")
def test_all_and_one_namespace_contradict(meshctl: Meshctl) -> None:
    """-A with -n is wrong usage, not a guess."""
    assert meshctl("service list -A -n shop").exit_code == 2


def test_a_rejected_service_says_why_in_the_list(meshctl: Meshctl, web: dict[str, Any]) -> None:
    """The controller's reasons stand in the row."""
    web |= {"accepted": False, "reasons": ["port 80 is there twice"]}
    assert "rejected: port 80 is there twice" in meshctl("service list").stdout


@pytest.mark.usefixtures("web")
def test_one_service_shows_why_an_endpoint_is_not_used(meshctl: Meshctl) -> None:
    """Each endpoint says whether it takes traffic, and if not why."""
    assert "no: it is unhealthy" in meshctl("service get web").stdout


@pytest.mark.usefixtures("web")
def test_identities_are_short_for_people(meshctl: Meshctl) -> None:
    """The table says namespace/account."""
    assert IDENTITY not in meshctl("service get web").stdout


@pytest.mark.usefixtures("web")
def test_wide_shows_whole_identities(meshctl: Meshctl) -> None:
    """-o wide says the SPIFFE ID."""
    assert IDENTITY in meshctl("service get web -o wide").stdout


def test_external_services(meshctl: Meshctl, web: dict[str, Any]) -> None:
    """A service outside the mesh is listed with its virtual addresses, and shown with its own names."""
    web |= {"endpoints": [], "identities": [], "hosts": ["api.example.com"], "kind": "ExternalService"}
    row = meshctl("service list").stdout.splitlines()[1].split()
    assert row == ["default", "web", "80→8080/http", "240.240.0.1", "external", "accepted"]
    assert meshctl("service list -o name").stdout == "externalservices/default/web\n"
    shown = meshctl("service get web").stdout
    assert "api.example.com" in shown
    assert "No endpoints" not in shown


@pytest.mark.parametrize("changes", [{"endpoints": []}, {"endpoints": [BAD]}, {"accepted": False}])
def test_what_is_shown_does_not_change_the_exit_code(
    meshctl: Meshctl, web: dict[str, Any], changes: dict[str, Any]
) -> None:
    """A service that is there is shown with exit code 0, whatever there is to say of it."""
    web |= changes
    assert meshctl("service get web").exit_code == 0


def test_an_unknown_service_is_exit_code_1(meshctl: Meshctl) -> None:
    """What does not exist is said so by the registry's words."""
    result = meshctl("service get shop/api")
    assert (result.exit_code, "there is no service shop/api" in result.stderr) == (1, True)


@pytest.mark.usefixtures("web")
def test_a_program_gets_the_whole_service(meshctl: Meshctl) -> None:
    """-o json is what the registry said."""
    assert json.loads(meshctl("service get web -o json").stdout) == WEB
