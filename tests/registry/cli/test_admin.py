"""``meshctl admin`` and ``meshctl whoami`` over the real application."""

import json
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import Result

from tests.registry.cli.backends import RealBackend, open_real
from tests.registry.cli.conftest import Meshctl


@pytest.fixture
def real() -> Iterator[RealBackend]:
    with open_real() as backend:
        yield backend


@pytest.fixture
def transport(real: RealBackend, environment: dict[str, str | None]) -> httpx.BaseTransport:
    environment["MESHCTL_TOKEN"] = real.token
    return real.transport


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_token_stands_alone_on_stdout(meshctl: Meshctl) -> None:
    """$(meshctl admin create …) is a token that works, and nothing else."""
    token = ok(meshctl("admin create auditor")).removesuffix("\n")
    assert json.loads(ok(meshctl(f"whoami --token {token} -o json"))) == {
        "name": "auditor",
        "role": "viewer",
        "server": "https://registry.test:15010",
    }


def test_creating_says_how_to_use_it(meshctl: Meshctl) -> None:
    """What may be done, and where the token goes, stands on stderr without the token."""
    made = meshctl("admin create auditor")
    assert "auditor may look at everything but the administrators, and change nothing" in made.stderr
    assert "MESHCTL_TOKEN=TOKEN meshctl --server https://registry.test:15010 whoami" in made.stderr
    assert made.stdout.strip() not in made.stderr


@pytest.mark.parametrize(
    ("option", "role"), [("", "viewer"), ("--role viewer", "viewer"), ("--role admin", "admin")]
)
def test_the_role_is_the_narrow_one_unless_said(meshctl: Meshctl, option: str, role: str) -> None:
    """Without --role it is a viewer."""
    assert json.loads(ok(meshctl(f"admin create alice {option} -o json")))["role"] == role


def test_an_unknown_role_is_wrong_usage(meshctl: Meshctl) -> None:
    """A role that is none never reaches the registry."""
    assert meshctl("admin create alice --role root").exit_code == 2


def test_listed(meshctl: Meshctl) -> None:
    """Names, roles and since when; names alone for scripts."""
    ok(meshctl("admin create victor"))
    rows = [line.split() for line in ok(meshctl("admin list")).splitlines()]
    assert [row[:2] for row in rows] == [["NAME", "ROLE"], ["admin", "admin"], ["victor", "viewer"]]
    assert all(row[2].endswith("Z") for row in rows[1:])
    assert ok(meshctl("admin list -o name")) == "admin\nvictor\n"
    assert [each["role"] for each in json.loads(ok(meshctl("admin list -o json")))["items"]] == [
        "admin",
        "viewer",
    ]


def test_entries_that_do_not_count_are_warned_of(meshctl: Meshctl, real: RealBackend) -> None:
    """Somebody's attempt in etcd is seen."""
    real.put("administrators/mallory", b"{}")
    seen = meshctl("admin list")
    assert ("mallory" in seen.stdout, "warning: administrators/mallory" in seen.stderr) == (False, True)


def test_removed(meshctl: Meshctl) -> None:
    """A removed administrator's token is refused."""
    token = ok(meshctl("admin create victor")).strip()
    assert ok(meshctl("admin remove victor")) == "victor is no administrator any more\n"
    assert meshctl(f"whoami --token {token}").exit_code == 4
    assert meshctl("admin remove victor").exit_code == 1


@pytest.mark.parametrize("command", ["admin remove admin", "admin create admin"])
def test_conflicts(meshctl: Meshctl, command: str) -> None:
    """Oneself is not removed, and a name not given twice: exit code 6."""
    assert meshctl(command).exit_code == 6


def test_a_name_that_is_none(meshctl: Meshctl) -> None:
    """A name must be one: exit code 5, and the field is named."""
    wrong = meshctl("admin create Alice")
    assert (wrong.exit_code, "name" in wrong.stderr) == (5, True)


@pytest.mark.parametrize(
    "command",
    [
        "admin create mallory --role admin",
        "admin list",
        "admin remove admin",
        "node token create --node evil --identity default/web",
        "node revoke web-1",
        "ca rotate",
        "delete svc web",
    ],
)
def test_a_viewer_is_refused(meshctl: Meshctl, environment: dict[str, str | None], command: str) -> None:
    """What a viewer may not do ends with 4, and the message names the role it takes."""
    environment["MESHCTL_TOKEN"] = ok(meshctl("admin create victor")).strip()
    refused = meshctl(command)
    assert refused.exit_code == 4
    assert "needs the role admin, and victor has the role viewer" in refused.stderr


@pytest.mark.parametrize(
    "command",
    ["node list", "proxy status", "service list", "get svc", "ca status", "authz lint", "whoami"],
)
def test_a_viewer_looks(meshctl: Meshctl, environment: dict[str, str | None], command: str) -> None:
    """What only looks works with a viewer's token."""
    environment["MESHCTL_TOKEN"] = ok(meshctl("admin create victor")).strip()
    ok(meshctl(command))


def test_whoami(meshctl: Meshctl) -> None:
    """Name, role and server below each other; the name alone for scripts."""
    assert [line.split() for line in ok(meshctl("whoami")).splitlines()] == [
        ["Name", "admin"],
        ["Role", "admin"],
        ["Server", "https://registry.test:15010"],
    ]
    assert ok(meshctl("whoami -o name")) == "admin\n"
