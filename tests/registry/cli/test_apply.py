import json
from pathlib import Path

import httpx
import pytest

from registry.model.parse import parse
from registry.model.service import Service
from tests.registry.cli.backends import Backend, Wire
from tests.registry.cli.conftest import Meshctl
from tests.registry.cli.documents import BAD_PORT, DENY, DENY_KEY, MESH, WEB, WEB_KEY, WEB_ON_443


@pytest.fixture
def wire(backend: Backend, environment: dict[str, str | None]) -> Wire:
    environment["MESHCTL_TOKEN"] = backend.token
    return Wire(backend.transport)


@pytest.fixture
def transport(wire: Wire) -> httpx.BaseTransport:
    return wire


def edits(wire: Wire) -> list[str]:
    return [asked for asked in wire.asked if not asked.startswith("GET")]


def ports(backend: Backend) -> list[int]:
    """Give the ports of the stored service `web`."""
    service = parse(backend.value(WEB_KEY) or b"", where=WEB_KEY)
    assert isinstance(service, Service)
    return [port.port for port in service.spec.ports]


def test_a_new_resource_is_created(meshctl: Meshctl, backend: Backend) -> None:
    """What was not there is created, and said so."""
    assert (meshctl("apply -f -", stdin=WEB).stdout, ports(backend)) == (f"{WEB_KEY} created\n", [80])


def test_a_changed_resource_is_configured(meshctl: Meshctl, backend: Backend) -> None:
    """What was otherwise is changed, and said so."""
    meshctl("apply -f -", stdin=WEB)
    result = meshctl("apply -f -", stdin=WEB_ON_443)
    assert (result.stdout, ports(backend)) == (f"{WEB_KEY} configured\n", [443])


def test_what_is_so_already_is_unchanged(meshctl: Meshctl, wire: Wire) -> None:
    """Applying the same again sends no edit."""
    meshctl("apply -f -", stdin=WEB)
    wire.asked.clear()
    assert (meshctl("apply -f -", stdin=WEB).stdout, edits(wire)) == (f"{WEB_KEY} unchanged\n", [])


def test_json_is_taken_too(meshctl: Meshctl) -> None:
    """A file may be JSON."""
    document = {
        "apiVersion": "nodemesh/v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
    }
    assert meshctl("apply -f -", stdin=json.dumps(document)).stdout == f"{WEB_KEY} created\n"


def test_several_documents_are_applied_in_order(meshctl: Meshctl) -> None:
    """One file may hold many resources; each has its line, in the order written."""
    result = meshctl("apply -f -", stdin=f"{MESH}---\n{WEB}---\n{DENY}")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "mesh/nodemesh-system/mesh",
        WEB_KEY,
        DENY_KEY,
    ]


def test_several_files_and_directories_are_applied(meshctl: Meshctl, tmp_path: Path) -> None:
    """-f may be given several times; of a directory the YAML and JSON files are taken."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "deny.yml").write_text(DENY)
    (folder / "notes.txt").write_text("not a resource")
    (tmp_path / "web.yaml").write_text(WEB)
    result = meshctl(f"apply -f {tmp_path / 'web.yaml'} -f {folder}")
    assert result.stdout == f"{WEB_KEY} created\n{DENY_KEY} created\n"


def test_one_invalid_document_stops_all(meshctl: Meshctl, wire: Wire) -> None:
    """Nothing is sent when anything is invalid."""
    result = meshctl("apply -f -", stdin=f"{WEB}---\n{BAD_PORT}")
    assert (result.exit_code, wire.asked) == (5, [])


def test_every_invalid_document_is_named(meshctl: Meshctl, tmp_path: Path) -> None:
    """All mistakes are said at once, each with its file, document and field."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"{WEB}---\n{BAD_PORT}")
    two.write_text(DENY.replace("namespaces", "namspaces"))
    text = meshctl(f"apply -f {one} -f {two}").stderr
    assert (
        f"{one} (document 2): spec.ports[0].port" in text,
        f"{two}: spec.rules[0].from[0].source" in text,
    ) == (True, True)


def test_a_mistake_comes_with_its_mend(meshctl: Meshctl) -> None:
    """What to write instead stands below the error."""
    text = meshctl("apply -f -", stdin=WEB.replace("kind: Service", "kind: Servce")).stderr
    assert "mend" in text
    assert "Service" in text.partition("mend")[2]


def test_the_same_resource_twice_is_invalid(meshctl: Meshctl, wire: Wire) -> None:
    """Two documents for one resource cannot both be meant."""
    result = meshctl("apply -f -", stdin=f"{WEB}---\n{WEB_ON_443}")
    assert (result.exit_code, wire.asked) == (5, [])


@pytest.mark.parametrize("source", ["absent.yaml", "empty-folder", "- -f -"])
def test_a_source_that_gives_nothing_is_wrong_usage(meshctl: Meshctl, tmp_path: Path, source: str) -> None:
    """A file that is not there, or a directory without any, is the caller's mistake."""
    (tmp_path / "empty-folder").mkdir()
    named = source if source.startswith("-") else tmp_path / source
    assert meshctl(f"apply -f {named}").exit_code == 2


def test_empty_input_is_wrong_usage(meshctl: Meshctl) -> None:
    """A pipe that brought nothing is not a success."""
    assert meshctl("apply -f -").exit_code == 2


def test_an_edit_in_between_stays(meshctl: Meshctl, backend: Backend, wire: Wire) -> None:
    """Somebody's edit between our reading and writing is not overwritten: exit code 6."""
    meshctl("apply -f -", stdin=WEB)
    theirs = (backend.value(WEB_KEY) or b"").replace(b"8080", b"9090")
    wire.before_put = lambda: backend.put(WEB_KEY, theirs)
    result = meshctl("apply -f -", stdin=WEB_ON_443)
    assert (result.exit_code, backend.value(WEB_KEY)) == (6, theirs)


def test_a_creation_in_between_stays(meshctl: Meshctl, backend: Backend, wire: Wire) -> None:
    """A resource that somebody creates at the same moment is not overwritten either."""
    meshctl("apply -f -", stdin=WEB)
    theirs = backend.value(WEB_KEY) or b""
    meshctl(f"delete {WEB_KEY}")
    wire.before_put = lambda: backend.put(WEB_KEY, theirs)
    result = meshctl("apply -f -", stdin=WEB_ON_443)
    assert (result.exit_code, backend.value(WEB_KEY)) == (6, theirs)


def test_a_value_that_does_not_parse_is_mended(meshctl: Meshctl, backend: Backend) -> None:
    """A bad etcdctl put is overwritten by apply."""
    backend.put(WEB_KEY, b"{nonsense")
    result = meshctl("apply -f -", stdin=WEB)
    assert (result.exit_code, ports(backend)) == (0, [80])


def test_one_conflict_does_not_stop_the_others(meshctl: Meshctl, backend: Backend, wire: Wire) -> None:
    """A resource's own failure leaves the rest to be applied; the exit code is the failure's."""
    wire.before_put = lambda: backend.put(WEB_KEY, b"{}")
    result = meshctl("apply -f -", stdin=f"{WEB}---\n{DENY}")
    assert (result.exit_code, result.stdout) == (6, f"{WEB_KEY} failed\n{DENY_KEY} created\n")


def test_a_refused_token_stops_at_once(meshctl: Meshctl, wire: Wire) -> None:
    """Who is not known asks once, and hears what was not tried."""
    result = meshctl("apply --token wrong -f -", stdin=f"{WEB}---\n{DENY}")
    assert (result.exit_code, len(wire.asked), result.stdout) == (
        4,
        1,
        f"{WEB_KEY} failed\n{DENY_KEY} not tried\n",
    )


def test_a_program_gets_the_outcomes(meshctl: Meshctl) -> None:
    """-o json is one value on standard output."""
    assert json.loads(meshctl("apply -o json -f -", stdin=WEB).stdout) == {
        "items": [{"resource": WEB_KEY, "outcome": "created", "error": ""}]
    }


def test_what_get_prints_is_unchanged_when_applied(meshctl: Meshctl) -> None:
    """`get -o yaml` of several resources is a file for apply, and says what is."""
    meshctl("apply -f -", stdin=f"{WEB}---\n{WEB.replace('name: web', 'name: api')}")
    written = meshctl("get svc -o yaml").stdout
    assert meshctl("apply -f -", stdin=written).stdout == (
        f"services/default/api unchanged\n{WEB_KEY} unchanged\n"
    )
