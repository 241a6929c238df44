import json

import httpx
import pytest
import yaml

from tests.registry.cli.backends import Backend
from tests.registry.cli.conftest import Meshctl
from tests.registry.cli.documents import (
    CANARY,
    CANARY_KEY,
    DENY,
    DENY_KEY,
    MESH,
    RETRYING,
    RETRYING_KEY,
    WEB,
    WEB_KEY,
)


@pytest.fixture
def transport(backend: Backend, environment: dict[str, str | None]) -> httpx.BaseTransport:
    environment["MESHCTL_TOKEN"] = backend.token
    return backend.transport


@pytest.fixture
def applied(meshctl: Meshctl) -> None:
    """Apply a service, a policy and the mesh."""
    meshctl("apply -f -", stdin=f"{MESH}---\n{WEB}---\n{DENY}")


@pytest.mark.usefixtures("applied")
def test_a_row_says_what_the_service_does(meshctl: Meshctl) -> None:
    """A service's row has its ports and what it selects."""
    row = meshctl("get svc").stdout.splitlines()[1].split()
    assert (row[:2], row[3:]) == (["default", "web"], ["-", "80→8080/http", "→", "app=web"])


@pytest.mark.usefixtures("applied")
def test_a_row_says_what_the_policy_does(meshctl: Meshctl) -> None:
    """A policy's row has its action, its number of rules and what it holds for."""
    assert "DENY, 1 rule, on every workload" in meshctl("get ap -n shop").stdout


@pytest.mark.usefixtures("applied")
def test_the_mesh_needs_no_name(meshctl: Meshctl) -> None:
    """There is one mesh, so `get mesh` is enough."""
    assert "trust domain nodemesh.local, default deny" in meshctl("get mesh").stdout


@pytest.mark.usefixtures("applied")
def test_labels_show_in_wide(meshctl: Meshctl) -> None:
    """-o wide adds the labels."""
    assert meshctl("get svc -o wide").stdout.splitlines()[1].endswith("team=shop")


@pytest.mark.usefixtures("applied")
def test_policies_of_another_namespace_are_not_listed(meshctl: Meshctl) -> None:
    """Without a word the namespace is `default`; the note says how to see more."""
    result = meshctl("get ap")
    assert (result.exit_code, result.stdout, "-A shows every namespace" in result.stderr) == (0, "", True)


@pytest.mark.usefixtures("applied")
def test_every_namespace_may_be_listed(meshctl: Meshctl) -> None:
    """-A lists a kind wherever it is."""
    assert meshctl("get ap -A -o name").stdout == f"{DENY_KEY}\n"


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize(
    "words", ["svc web", "svc/web", "svc default/web", f"{WEB_KEY}", "SVC web -n default"]
)
def test_a_resource_may_be_named_in_many_ways(meshctl: Meshctl, words: str) -> None:
    """Kind and name, with the namespace by option or before the name."""
    assert meshctl(f"get {words} -o name").stdout == f"{WEB_KEY}\n"


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("words", ["svc web -A", "svc/web web", "svc shop/web -n default", "svc -A -n shop"])
def test_contradictions_are_wrong_usage(meshctl: Meshctl, words: str) -> None:
    """Two names, or two namespaces, are not guessed between."""
    assert meshctl(f"get {words}").exit_code == 2


@pytest.mark.usefixtures("applied")
def test_json_of_one_is_the_resource(meshctl: Meshctl) -> None:
    """-o json with a name is the resource as the file had it, its namespace spelled out."""
    document = yaml.safe_load(WEB)
    document["metadata"]["namespace"] = "default"
    assert json.loads(meshctl("get svc web -o json").stdout) == document


@pytest.mark.usefixtures("applied")
def test_json_of_many_is_a_list(meshctl: Meshctl) -> None:
    """-o json without a name is a list of keys, revisions and resources."""
    [item] = json.loads(meshctl("get svc -o json").stdout)["items"]
    assert (item["key"], item["resource"]["metadata"]["name"]) == (WEB_KEY, "web")


def test_what_does_not_exist_is_exit_code_1(meshctl: Meshctl) -> None:
    """A resource that is not there is said so in the registry's words."""
    result = meshctl("get svc web")
    assert (result.exit_code, f"there is no {WEB_KEY}" in result.stderr) == (1, True)


def test_a_value_that_does_not_parse_is_listed(meshctl: Meshctl, backend: Backend) -> None:
    """A bad etcdctl put is in the list, with its error."""
    backend.put(WEB_KEY, b"kind: Servce")
    assert "does not parse: " in meshctl("get svc").stdout


def test_a_value_that_does_not_parse_is_exit_code_5(meshctl: Meshctl, backend: Backend) -> None:
    """Asked for by name it is an invalid resource, with the field."""
    backend.put(WEB_KEY, b"kind: Servce")
    result = meshctl("get svc web")
    assert (result.exit_code, f"{WEB_KEY}: kind" in result.stderr) == (5, True)


def test_a_value_that_does_not_parse_is_a_comment_in_yaml(meshctl: Meshctl, backend: Backend) -> None:
    """What -o yaml prints can still be applied; the broken one stays visible."""
    revision = backend.put(WEB_KEY, b"kind: Servce")
    text = meshctl("get svc -o yaml").stdout
    assert text.startswith(f"# {WEB_KEY} at revision {revision} does not parse: ")


@pytest.mark.usefixtures("applied")
def test_a_resource_is_deleted(meshctl: Meshctl, backend: Backend) -> None:
    """Delete removes the one named and says so."""
    assert (meshctl("delete svc web").stdout, backend.value(WEB_KEY)) == (f"{WEB_KEY} deleted\n", None)


@pytest.mark.usefixtures("applied")
def test_what_a_file_names_is_deleted(meshctl: Meshctl, backend: Backend) -> None:
    """With -f every resource of the file is deleted."""
    meshctl("delete -f -", stdin=f"{WEB}---\n{DENY}")
    assert (backend.value(WEB_KEY), backend.value(DENY_KEY)) == (None, None)


@pytest.mark.usefixtures("applied")
def test_names_from_get_are_taken_by_delete(meshctl: Meshctl, backend: Backend) -> None:
    """What -o name prints names the same resource to delete."""
    meshctl(f"delete {meshctl('get ap -A -o name').stdout.strip()}")
    assert backend.value(DENY_KEY) is None


@pytest.mark.usefixtures("applied")
def test_one_that_is_not_there_does_not_keep_the_others(meshctl: Meshctl, backend: Backend) -> None:
    """Deleting goes on past what is gone already, and ends with exit code 1."""
    absent = WEB.replace("name: web", "name: absent")
    result = meshctl("delete -f -", stdin=f"{absent}---\n{WEB}")
    assert (result.exit_code, backend.value(WEB_KEY)) == (1, None)


def test_traffic_resources(meshctl: Meshctl, backend: Backend) -> None:
    """Routes and backend policies are applied, shown in a line and deleted as everything else is."""
    result = meshctl("apply -f -", stdin=f"{CANARY}---\n{RETRYING}")
    assert result.exit_code == 0
    assert "web → v1:80 90 %, v2:80 10 %, 1 rule" in meshctl("get hr -n shop").stdout
    assert "web: retries" in meshctl("get bp -n shop").stdout
    again = meshctl("get hr canary -n shop -o yaml").stdout
    assert "unchanged" in meshctl("apply -f -", stdin=again).stdout
    meshctl("delete -f -", stdin=f"{CANARY}---\n{RETRYING}")
    assert (backend.value(CANARY_KEY), backend.value(RETRYING_KEY)) == (None, None)


def test_a_value_that_does_not_parse_can_be_deleted(meshctl: Meshctl, backend: Backend) -> None:
    """A bad etcdctl put can be taken away by name."""
    backend.put(WEB_KEY, b"{nonsense")
    assert (meshctl("delete svc web").exit_code, backend.value(WEB_KEY)) == (0, None)


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize("words", ["", "svc", "svc web -f -", "-f - -n shop"])
def test_delete_needs_exactly_one_way_of_naming(meshctl: Meshctl, backend: Backend, words: str) -> None:
    """A kind alone, nothing, or both ways at once delete nothing: exit code 2."""
    result = meshctl(f"delete {words}", stdin=WEB)
    assert (result.exit_code, backend.value(WEB_KEY) is None) == (2, False)
