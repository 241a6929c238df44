import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.record import RecordFile
from node_proxy.agent.credentials import Enrolment, Keyring
from node_proxy.main import app as command
from registry.etcd_server import free_ports
from tests.node_proxy.agent.capture.scenes import (
    DOCKER,
    FIREWALLD,
    accepting,
    everything,
    load,
    others,
)
from tests.node_proxy.agent.documents import TRUST_DOMAIN
from tests.node_proxy.agent.material import make_authority
from tests.support.hosts import Host
from tests.support.processes import REPOSITORY, wait_until

pytestmark = pytest.mark.root


class Node:
    """A joined node's files, and its command."""

    def __init__(self, directory: Path) -> None:
        self.state_dir = directory / "state"
        self.path = directory / "proxy.toml"
        (directory / "workloads.d").mkdir()
        (directory / "workloads.d" / "web.toml").write_text('name = "web"\nports = [8080]\n')
        self.control = free_ports(2)
        self.write()
        keyring = Keyring(self.state_dir)
        keyring.prepare()
        root = make_authority(now=datetime.now(UTC)).root_pem
        keyring.save_enrolment(
            Enrolment(
                node="web-1",
                identity=f"spiffe://{TRUST_DOMAIN}/node/web-1",
                trust_domain=TRUST_DOMAIN,
                roots=(root,),
            )
        )

    def write(self, *, extra: str = "", enabled: str = "true") -> None:
        """Write proxy.toml."""
        etcd, registry = self.control
        self.path.write_text(
            f'node = "web-1"\naddress = "10.77.0.1"\nregistry = "https://127.0.0.1:{registry}"\n'
            f'state_dir = "{self.state_dir}"\nworkloads_dir = "{self.path.parent}/workloads.d"\n'
            f'[etcd]\nendpoints = ["127.0.0.1:{etcd}"]\n[capture]\nenabled = {enabled}\n{extra}\n'
        )

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
        """Run a command of capture; give its exit status and what it says."""
        result = CliRunner().invoke(
            command, ["capture", *arguments, "--config", str(self.path)], env=environment
        )
        return result.exit_code, result.output

    def wait_no_trial(self) -> None:
        """Wait until nothing waits to be confirmed."""
        records = RecordFile(self.state_dir)
        wait_until(lambda: records.read().trial is None, what="the trial to be over", deadline=20)

    def watchdogs(self) -> list[int]:
        """Give the processes that wait for the end of a trial."""
        return [
            int(each.name)
            for each in Path("/proc").iterdir()
            if each.name.isdigit() and str(self.state_dir).encode() in _command_line(each)
        ]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def node(app: Host, tmp_path: Path) -> Iterator[Node]:
    """A node on the host `app`, without an agent."""
    made = Node(tmp_path)
    yield made
    for pid in made.watchdogs():
        os.kill(pid, signal.SIGKILL)


@contextmanager
def control_plane(node: Node) -> Iterator[None]:
    """Let something listen where etcd and the registry are."""
    servers = [socket.create_server(("127.0.0.1", port)) for port in node.control]
    try:
        yield
    finally:
        for each in servers:
            each.close()


@contextmanager
def ssh_session(host: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open a connection to port 22 of this host's own address, as an operator has one."""
    with (
        socket.create_server((host.address, 22)) as server,
        socket.create_connection((host.address, 22)) as here,
    ):
        there, _ = server.accept()
        with there:
            yield here, there


def says(session: tuple[socket.socket, socket.socket]) -> bool:
    """Whether the session carries a word each way."""
    here, there = session
    for sender, receiver in ((here, there), (there, here)):
        sender.sendall(b"word")
        receiver.settimeout(2)
        if receiver.recv(10) != b"word":
            return False
    return True


def test_dry_run(node: Node) -> None:
    """A dry run prints the ruleset and what it will take, and changes nothing."""
    before = everything()
    status, said = node.run("install", "--dry-run")
    assert status == 0
    assert "takes: TCP from this host to 0 virtual IPs of all services (none)" in said
    assert "table inet nodemesh {" in said
    assert "# ip route add 240.240.0.0/16 dev lo" in said
    assert everything() == before


def test_from_install_to_uninstall(node: Node) -> None:
    """Install, status, verify and uninstall say what is so, by their exit statuses too."""
    assert node.run("status")[0] == 3
    status, said = node.run("install")
    assert (status, said.splitlines()[-1]) == (0, "installed")
    status, said = node.run("status")
    assert status == 0
    assert said.startswith("in force: ruleset ")
    with accepting(), control_plane(node):
        status, said = node.run("verify")
    assert status == 0, said
    assert "ok     240.240.0.0 leads to the proxy: accepted" in said
    assert "ok     the proxy's own calls of 240.240.0.0 do not: refused" in said
    assert node.run("uninstall") == (0, "uninstalled\n")
    assert node.run("status") == (3, "not installed\n")
    assert node.run("uninstall") == (0, "uninstalled\n")


def test_verify_without_a_proxy(node: Node) -> None:
    """Verify says what does not answer, and fails."""
    node.run("install")
    status, said = node.run("verify")
    assert status == 1
    assert "FAILED the proxy listens on 127.0.0.1:15001: refused" in said
    assert f"FAILED 127.0.0.1:{node.control[0]} (etcd, registry) is reached: refused" in said


def test_status_of_what_differs(node: Node) -> None:
    """Status tells rules that somebody changed, and files that say something else by now."""
    node.run("install")
    subprocess.run(["nft", "flush", "chain", "inet", "nodemesh", "refuse"], check=True)
    node.write(extra="exempt_ports = [5432]")
    status, said = node.run("status")
    assert status == 1
    assert "changed since: the table is not as it was installed" in said
    assert "not as planned: the files describe ruleset" in said
    RecordFile(node.state_dir).remove()
    assert "in force: by whom is not recorded" in node.run("status")[1]


def test_wrong_ruleset_is_rolled_back(node: Node, app: Host) -> None:
    """A wrong ruleset that nobody confirms gives way by itself, though the shell that gave it is killed.

    An SSH session survives it, an uninstallation too, and the rules of others never change.
    """
    load(DOCKER + FIREWALLD)
    foreign = others(everything()["nft"])
    node.run("install")
    before = everything()
    node.write(extra="port = 4\nexempt_ports = [5432]")
    with ssh_session(app) as session:
        shell = subprocess.Popen(
            ["bash", "-c", f"{sys.executable} -m node_proxy.main capture install --config {node.path} "
             "--confirm-within 3s; sleep 60"],
            stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True,
        )  # fmt: skip
        output = shell.stdout
        assert output is not None
        wait_until(lambda: "unless you run" in output.readline(), what="the installation", deadline=20)
        os.killpg(shell.pid, signal.SIGHUP)
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
        assert everything()["nft"] != before["nft"]
        assert others(everything()["nft"]) == foreign
        assert says(session)
        node.wait_no_trial()
        assert everything() == before
        assert says(session)
        assert "rolled back: ruleset " in node.run("status")[1]
        node.run("uninstall")
        assert says(session)
    assert others(everything()["nft"]) == everything()["nft"].rstrip("\n") == foreign
    wait_until(lambda: not node.watchdogs(), what="the watchdog to end", deadline=5)


def test_confirmed(node: Node) -> None:
    """What is confirmed stays, and the process that waited is gone; confirming again is a mistake."""
    assert node.run("install", "--confirm-within", "60s")[0] == 0
    status, said = node.run("status")
    assert status == 0
    assert "on trial: rolled back in 60 s unless confirmed" in said
    assert len(node.watchdogs()) == 1
    assert node.run("confirm") == (0, "confirmed\n")
    wait_until(lambda: not node.watchdogs(), what="the watchdog to end", deadline=5)
    assert Kernel().listing() != ""
    status, said = node.run("confirm")
    assert status == 2
    assert "nothing waits to be confirmed" in said


def test_without_a_watchdog(node: Node) -> None:
    """If the process that waits is killed, the next command ends a trial whose time is over."""
    node.run("install", "--confirm-within", "1s")
    for pid in node.watchdogs():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node.run("status")[0] == 3, what="the roll-back", deadline=10)
    assert Kernel().listing() == ""


@pytest.mark.parametrize(
    ("settings", "result", "stays"),
    [
        ("", "success", False),
        ("keep_on_stop = true", "success", True),
        ("", "signal", True),
        ("", "watchdog", True),
        ('on_failure = "open"', "signal", False),
        ('on_failure = "open"\nkeep_on_stop = true', "signal", False),
    ],
)
def test_after_the_proxy_stopped(node: Node, settings: str, result: str, stays: bool) -> None:
    """After an orderly stop the rules go unless they are to be kept; after a crash they stay unless open."""
    node.write(extra=settings)
    node.run("install")
    status, _ = node.run("uninstall", "--after-stop", environment={"SERVICE_RESULT": result})
    assert status == 0
    assert (Kernel().listing() != "") is stays


def test_mistakes(node: Node) -> None:
    """A mistake is one line that says what to write."""
    assert node.run("install", "--confirm-within", "soon") == (
        2, "nodemesh-proxy: --confirm-within: 'soon' is no time; write 60s or 5m\n"
    )  # fmt: skip
    assert "out of bounds; write 1s to 3600s" in node.run("install", "--confirm-within", "2000m")[1]
    node.write(enabled="false")
    assert "write enabled = true" in node.run("install")[1]
    assert Kernel().listing() == ""
