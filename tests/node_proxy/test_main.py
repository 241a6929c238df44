import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio
from typer.testing import CliRunner

from node_proxy.agent.credentials import Keyring
from node_proxy.command_line import OPERATOR_FAULT
from node_proxy.main import app
from registry.etcd_server import free_ports
from registry.store.etcd import EtcdStore
from registry.store.memory import MemoryStore
from tests.node_proxy.agent.real_registry import serving_registry

REPOSITORY = Path(__file__).parents[2]


def proxy_toml(
    directory: Path, *, registry: str = "https://127.0.0.1:1", admin: int = 0, extra: str = ""
) -> Path:
    """Write a configuration for node web-1 that listens on free ports."""
    path = directory / "proxy.toml"
    path.write_text(
        f"""
        node = "web-1"
        address = "127.0.0.1"
        registry = "{registry}"
        state_dir = "{directory}/state"
        {extra}
        [tunnel]
        listen = ["127.0.0.1:0"]
        [admin]
        listen = "127.0.0.1:{admin}"
        """
    )
    return path


async def nodemesh_proxy(*arguments: str) -> tuple[int, str, str]:
    """Run the command; gives exit status, stdout and stderr."""
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-m", "node_proxy.main", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, "NO_COLOR": "1"},
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_version() -> None:
    """--version says which distribution this is."""
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("nodemesh-proxy ")


@pytest.mark.parametrize("command", [["check"], ["run"], ["join", "--token", "t"]])
def test_missing_file(tmp_path: Path, command: list[str]) -> None:
    """A configuration that is not there is one clear line and status 2."""
    result = CliRunner().invoke(app, [*command, "--config", str(tmp_path / "none.toml")])
    assert result.exit_code == OPERATOR_FAULT
    assert (
        result.output == f"nodemesh-proxy: {tmp_path}/none.toml: cannot be read: No such file or directory\n"
    )


def test_check(tmp_path: Path) -> None:
    """Files that are right are answered with what they say, also before joining, and nothing is made."""
    path = proxy_toml(tmp_path, extra=f'workloads_dir = "{tmp_path}"\ndefault_workload = "default/web"')
    (tmp_path / "workloads.d").mkdir()
    (tmp_path / "workloads.d" / "web.toml").write_text('name = "web"\nports = [8080]\n')
    arguments = ["check", "--config", str(path), "--workloads", str(tmp_path / "workloads.d")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    node, certificates = result.output.splitlines()
    assert node == "node web-1; workloads: default/web"
    assert certificates.startswith("certificates not checked: ")
    assert "this node has not joined a mesh" in certificates
    assert not (tmp_path / "state").exists()


def test_check_of_owners(tmp_path: Path) -> None:
    """Who speaks for which workload, and what becomes of the others, is said."""
    path = proxy_toml(tmp_path)
    workloads = tmp_path / "workloads.d"
    workloads.mkdir()
    (workloads / "web.toml").write_text('name = "web"\nports = [8080]\nunit = "web.service"\nuser = "root"\n')
    result = CliRunner().invoke(app, ["check", "--config", str(path), "--workloads", str(workloads)])
    assert {
        "calls of default/web come from unit web.service, uid 0",
        "unknown callers: unauthenticated",
    } <= set(result.output.splitlines())


@pytest.mark.parametrize("command", ["check", "run"])
def test_wrong_file(tmp_path: Path, command: str) -> None:
    """A mistake in the configuration is one line that names it."""
    path = proxy_toml(tmp_path, extra="wokers = 2")
    result = CliRunner().invoke(app, [command, "--config", str(path)])
    assert result.exit_code == OPERATOR_FAULT
    assert "did you mean workers?" in result.output
    assert result.output.count("\n") == 1


def test_incomplete_token(tmp_path: Path) -> None:
    """A token that was not copied whole is one line that says so."""
    path = proxy_toml(tmp_path)
    result = CliRunner().invoke(app, ["join", "--token", "nm1.x", "--config", str(path)])
    assert result.exit_code == OPERATOR_FAULT
    assert "copy the whole" in result.output


async def test_join(tmp_path: Path, memory_store: MemoryStore) -> None:
    """A join gets and keeps the node's certificate, once; a second use of the token is one clear line."""
    async with serving_registry(memory_store) as registry:
        path = proxy_toml(tmp_path, registry=registry.url)
        arguments = ["join", "--token", await registry.token(), "--config", str(path)]
        status, stdout, stderr = await nodemesh_proxy(*arguments)
        assert (status, stderr) == (0, "")
        assert stdout.startswith("joined nodemesh.local as spiffe://nodemesh.local/node/web-1; valid until 2")
        assert Keyring(tmp_path / "state").enrolment().node == "web-1"
        status, _, stderr = await nodemesh_proxy(*arguments)
        assert status == OPERATOR_FAULT
        assert "meshctl node token create" in stderr
        assert stderr.count("\n") == 1


async def test_run_without_having_joined(tmp_path: Path) -> None:
    """A run on a host that has not joined says what to run first."""
    path = proxy_toml(tmp_path)
    status, _, stderr = await nodemesh_proxy("run", "--config", str(path))
    assert status == OPERATOR_FAULT
    assert stderr.endswith("run `nodemesh-proxy join --registry URL --token T` on this host\n")
    assert stderr.count("\n") == 1


async def test_run_with_real_workers(
    tmp_path: Path, etcd_endpoint: str, etcd_prefix: str, etcd_store: EtcdStore
) -> None:
    """The whole program becomes ready against a real etcd, registers, and leaves at SIGTERM traceless."""
    admin = free_ports(1)[0]
    workloads = tmp_path / "workloads.d"
    workloads.mkdir()
    (workloads / "web.toml").write_text('name = "web"\nports = [8080]\nhealth = {type = "none"}\n')
    async with serving_registry(etcd_store) as registry:
        path = proxy_toml(
            tmp_path,
            registry=registry.url,
            admin=admin,
            extra=f'''
            workers = 2
            workloads_dir = "{workloads}"
            etcd = {{endpoints = ["{etcd_endpoint}"], prefix = "{etcd_prefix}"}}
            ''',
        )
        await registry.join(Keyring(tmp_path / "state"))
        command = [sys.executable, "-m", "node_proxy.main", "run", "--config", str(path)]
        with (tmp_path / "log").open("wb") as log:
            process = await trio.lowlevel.open_process(command, cwd=REPOSITORY, stderr=log)
        try:
            await until_ready(f"http://127.0.0.1:{admin}/readyz")
            assert {item.key for item in (await etcd_store.list("nodes/")).items} >= {"nodes/web-1/record"}
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(20):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert (await etcd_store.list("nodes/")).items == ()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    assert lines[-1]["event"] == "stopped"


async def until_ready(url: str) -> None:
    """Ask a node until it is ready and registered."""
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.fail_after(30):
            while True:
                with suppress(httpx.HTTPError):
                    if (await client.get(url)).status_code == 200:
                        config = (await client.get(url.replace("readyz", "config"))).json()
                        if config["registered"]:
                            return
                await trio.sleep(0.05)
