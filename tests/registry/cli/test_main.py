from pathlib import Path

import httpx
import pytest
import typer

from registry.cli.main import app
from tests.fakes.registry_api import TOKEN, FakeRegistry
from tests.registry.cli.conftest import Meshctl

COMMANDS = [
    "apply",
    "get",
    "delete",
    "service list",
    "service get",
    "node allow",
    "node approve",
    "node forbid",
    "node list",
    "node revoke",
    "node token create",
    "proxy status",
    "route explain",
    "authz check",
    "authz explain",
    "authz diff",
    "authz lint",
    "ca status",
    "ca rotate",
    "ca revoke",
    "ca unrevoke",
    "ca inspect",
    "ca pin",
    "ca federate",
    "ca unfederate",
    "admin create",
    "admin list",
    "admin remove",
    "whoami",
    "version",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(meshctl: Meshctl, command: str) -> None:
    """--help of a command shows it in use."""
    text = meshctl(f"{command} --help").stdout
    assert f"meshctl {command}" in text.partition("Example")[2]


def test_help_tells_the_exit_codes(meshctl: Meshctl) -> None:
    """The root's help lists what scripts branch on."""
    text = meshctl("--help").stdout
    assert all(f"• {code}: " in text for code in range(8))


def test_every_command_is_known() -> None:
    """The list that these tests walk is the list there is."""

    def walk(group: typer.core.TyperGroup, before: str) -> list[str]:
        found = []
        for name, command in group.commands.items():
            if isinstance(command, typer.core.TyperGroup):
                found += walk(command, f"{before}{name} ")
            else:
                found.append(f"{before}{name}")
        return found

    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    assert sorted(walk(root, "")) == sorted(COMMANDS)


def test_completion_can_be_installed(meshctl: Meshctl) -> None:
    """Shell completion stays on."""
    assert "--install-completion" in meshctl("--help").stdout


def test_version_needs_no_registry(meshctl: Meshctl, environment: dict[str, str | None]) -> None:
    """Which meshctl this is can be asked without any configuration."""
    environment |= {"MESHCTL_SERVER": None, "MESHCTL_TOKEN": None}
    assert meshctl("version").stdout.startswith("meshctl ")


@pytest.mark.parametrize("command", ["--server {0} node list", "node list --server {0}"])
def test_connection_options_stand_before_or_after_the_command(
    meshctl: Meshctl, registry: FakeRegistry, command: str
) -> None:
    """Where an option for the connection stands does not matter."""
    meshctl(command.format("https://other.test:1"))
    assert registry.hosts == ["other.test"]


def test_the_nearer_option_wins(meshctl: Meshctl) -> None:
    """An option after the command beats the same one before it."""
    assert meshctl(f"--token wrong node list --token {TOKEN}").exit_code == 0


def test_without_configuration_the_exit_code_is_2(
    meshctl: Meshctl, environment: dict[str, str | None]
) -> None:
    """A missing configuration is the operator's to mend, like wrong usage."""
    environment |= {"MESHCTL_SERVER": None}
    assert meshctl("node list").exit_code == 2


@pytest.mark.parametrize("command", ["nod list", "get", "get svc --colour", "node token create", "get nodes"])
def test_wrong_usage_is_exit_code_2(meshctl: Meshctl, command: str) -> None:
    """What the command line says cannot be meant."""
    assert meshctl(command).exit_code == 2


def test_a_wrong_token_is_exit_code_4(meshctl: Meshctl) -> None:
    """A registry that does not know the token refuses."""
    assert meshctl("node list --token wrong").exit_code == 4


def test_a_wrong_token_is_not_repeated(meshctl: Meshctl) -> None:
    """The refusal says where to find a token, never the one that was shown."""
    output = meshctl("node list --token hush-hush").output
    assert ("hush" in output, "nodemesh-registry init" in output) == (False, True)


def test_an_unreachable_registry_is_exit_code_3(meshctl: Meshctl, registry: FakeRegistry) -> None:
    """No answer has its own code, so that a script can wait and try again."""

    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    registry.instead = refuse
    assert meshctl("node list").exit_code == 3


def test_errors_stand_on_stderr(meshctl: Meshctl) -> None:
    """Standard output holds the answer alone."""
    assert meshctl("node list --token wrong").stdout == ""


def test_a_readable_config_is_used_with_a_warning(
    meshctl: Meshctl, environment: dict[str, str | None], tmp_path: Path
) -> None:
    """A loose mode does not stop the command; the warning stands on stderr."""
    environment |= {"MESHCTL_SERVER": None, "MESHCTL_TOKEN": None}
    path = tmp_path / "meshctl.toml"
    path.write_text(f'server = "https://registry.test:15010"\ntoken = "{TOKEN}"\n')
    path.chmod(0o644)
    result = meshctl(f"--config {path} node list")
    assert (result.exit_code, f"chmod 600 {path}" in result.stderr) == (0, True)
