"""The command nodemesh-registry as operators run it: a process, with its files, messages and exit codes."""

import contextlib
import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca.issuer import to_pem
from registry.clock import utc_now
from tests.registry.ca.company import Company

REGISTRY = str(Path(sys.executable).parent / "nodemesh-registry")
DEADLINE = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Operator:
    """An operator with a state directory, an etcd, and an address to serve at."""

    def __init__(self, state: Path, endpoint: str, prefix: str) -> None:
        self.state = state
        self.address = f"127.0.0.1:{free_port()}"
        self.config = state / "meshctl.toml"
        self._options = [
            *("--state-dir", str(state), "--etcd", endpoint, "--etcd-prefix", prefix),
            *("--listen", self.address, "--log-level", "debug"),
        ]

    def command(self, name: str, *more: str) -> list[str]:
        """Give a command line; later options win."""
        if name == "ca":
            # Those commands do not serve, so they listen nowhere.
            return [REGISTRY, name, more[0], *self._options[:6], *more[1:]]
        return [REGISTRY, name, *self._options, *more]

    def run(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(name, *more), capture_output=True, text=True, timeout=DEADLINE, check=False
        )

    def fails(self, name: str, *more: str) -> tuple[int, str]:
        """Run a command that fails; give its exit code and what it says, which is one line."""
        done = self.run(name, *more)
        assert done.stdout == ""
        says = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert len(says) == 1, done.stderr
        assert says[0].startswith("nodemesh-registry: ")
        return done.returncode, says[0]

    def ask(self, path: str) -> Any:
        """Ask the API as meshctl would: by the written configuration."""
        settings = tomllib.loads(self.config.read_text())
        trust = ssl.create_default_context(cadata=settings["ca_pem"])
        url, token = settings["server"] + path, settings["token"]
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})  # noqa: S310 - https
        with urllib.request.urlopen(request, context=trust, timeout=DEADLINE) as answer:  # noqa: S310 - https
            return json.loads(answer.read())


@pytest.fixture
def operator(tmp_path: Path, etcd_endpoint: str, etcd_prefix: str) -> Operator:
    return Operator(tmp_path / "state", etcd_endpoint, etcd_prefix)


@contextlib.contextmanager
def running(command: list[str], ready: Callable[[], object]) -> Iterator[subprocess.Popen[str]]:
    """Run a command until it is ready; the block may end it, or else it is killed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + DEADLINE
        while process.poll() is None:
            try:
                ready()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_init(operator: Operator) -> None:
    """Init writes a key and an administrator's file that nobody else may read, and says where they are."""
    done = operator.run("init")
    assert done.returncode == 0, done.stderr
    for name in ("kek", "meshctl.toml"):
        assert stat.S_IMODE((operator.state / name).stat().st_mode) == 0o600
        assert str(operator.state / name) in done.stdout
    settings = tomllib.loads(operator.config.read_text())
    assert settings["server"] == f"https://{operator.address}"
    assert settings["token"] not in done.stdout + done.stderr


def test_init_twice(operator: Operator, tmp_path: Path) -> None:
    """A second init, on whichever host, changes nothing and leaves no key behind that seals nothing."""
    assert operator.run("init").returncode == 0
    code, says = operator.fails("init", "--state-dir", str(tmp_path / "second"))
    assert code == 2
    assert "holds a mesh already" in says
    assert not (tmp_path / "second").exists()


def test_init_keeps_files(operator: Operator) -> None:
    """Init does not overwrite the file of another mesh's administrator."""
    operator.state.mkdir()
    operator.config.write_text("precious")
    code, says = operator.fails("init")
    assert (code, "exists" in says) == (2, True)
    assert operator.config.read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve(operator: Operator, number: signal.Signals) -> None:
    """What init wrote opens what serve serves, and a signal ends it cleanly."""
    assert operator.run("init").returncode == 0
    with running(operator.command("serve"), lambda: operator.ask("/v1/nodes")) as process:
        assert operator.ask("/v1/nodes")["items"] == []
        process.send_signal(number)
        output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, output
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert {"serving", "controller leads", "stopping", "stopped"} <= set(events)


def test_passphrase(operator: Operator, tmp_path: Path) -> None:
    """A passphrase takes the key file's place, and the wrong one is told so."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, text in ((right, "open sesame\n"), (wrong, "open barley\n")):
        path.write_text(text)
        path.chmod(0o600)
    assert operator.run("init", "--ca-passphrase-file", str(right)).returncode == 0
    assert not (operator.state / "kek").exists()
    code, says = operator.fails("serve", "--ca-passphrase-file", str(wrong))
    assert (code, "wrong key-encryption key" in says) == (2, True)
    command = operator.command("serve", "--ca-passphrase-file", str(right))
    with running(command, lambda: operator.ask("/v1/nodes")) as process:
        assert process.poll() is None


def test_key_from_elsewhere(operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints seals the keys, and opens them again from a systemd credential."""
    (tmp_path / "kek").write_text("k" * 64 + "\n")
    command = f"cat {tmp_path / 'kek'}"
    assert operator.run("init", "--ca-key-command", command).returncode == 0
    assert not (operator.state / "kek").exists()
    code, says = operator.fails("serve", "--ca-key-command", "false")
    assert (code, "failed with exit code 1" in says) == (2, True)
    code, says = operator.fails("serve", "--ca-key-command", command, "--ca-key-credential", "kek")
    assert (code, "one source" in says) == (2, True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    serve = operator.command("serve", "--ca-key-credential", "kek")
    with running(serve, lambda: operator.ask("/v1/nodes")) as process:
        assert process.poll() is None


class TestExternalRoot:
    @pytest.fixture
    def company(self) -> Company:
        """Give an authority whose key the registry never sees."""
        return Company(now=utc_now())

    def certified(self, operator: Operator, company: Company, folder: Path) -> list[str]:
        """Have the registry's request certified; gives the files of root and intermediate."""
        done = operator.run("ca", "csr")
        assert done.returncode == 0, done.stderr
        request = x509.load_pem_x509_csr(done.stdout.encode())
        files = [folder / "root.pem", folder / "intermediate.pem"]
        files[0].write_text(company.root_pem)
        files[1].write_text(to_pem(company.certify(request.public_key(), subject=request.subject)))
        return [str(path) for path in files]

    def test_founded(self, operator: Operator, company: Company, tmp_path: Path) -> None:
        """A mesh founded on the company's root serves, and meshctl's configuration trusts that root."""
        root, intermediate = self.certified(operator, company, tmp_path)
        done = operator.run("init", "--external-root", root, "--intermediate", intermediate)
        assert done.returncode == 0, done.stderr
        assert company.root_pem in operator.config.read_text()
        with running(operator.command("serve"), lambda: operator.ask("/v1/nodes")):
            seen = operator.ask("/v1/ca")
        assert [each["key"] for each in (*seen["roots"], seen["issuer"])] == ["external", "etcd"]

    def test_changed_to(self, operator: Operator, company: Company, tmp_path: Path) -> None:
        """A mesh with a root of its own changes to the company's while it serves."""
        assert operator.run("init").returncode == 0
        with running(operator.command("serve"), lambda: operator.ask("/v1/nodes")):
            before = operator.ask("/v1/ca")
            root, intermediate = self.certified(operator, company, tmp_path)
            done = operator.run("ca", "import", "--root", root, "--intermediate", intermediate)
            assert (done.returncode, "is being spread" in done.stdout) == (0, True), done.stderr
            during = operator.ask("/v1/ca")
        assert during["roots"][:1] == before["roots"]
        assert during["roots"][1]["key"] == "external"
        assert during["rotation"]["phase"] == "spreading"

    def test_wrong_certificate(self, operator: Operator, company: Company, tmp_path: Path) -> None:
        """What does not fit the key that waits is refused, and no mesh is founded."""
        root, intermediate = self.certified(operator, company, tmp_path)
        stranger = company.certify(ec.generate_private_key(ec.SECP256R1()).public_key())
        Path(intermediate).write_text(to_pem(stranger))
        code, says = operator.fails("init", "--external-root", root, "--intermediate", intermediate)
        assert (code, "not for the key that waits" in says) == (2, True)
        assert operator.run("init").returncode == 0

    def test_no_request(self, operator: Operator, company: Company, tmp_path: Path) -> None:
        """Without a request before there is no key to certify, and the order is told."""
        (tmp_path / "root.pem").write_text(company.root_pem)
        words = ("--external-root", str(tmp_path / "root.pem"))
        code, says = operator.fails("init", *words)
        assert (code, "belong together" in says) == (2, True)
        code, says = operator.fails("init", *words, "--intermediate", str(tmp_path / "root.pem"))
        assert (code, "nodemesh-registry ca csr" in says) == (2, True)


class TestFaults:
    """What an operator can mend is one line that says how, and exit code 2."""

    def test_not_founded(self, operator: Operator) -> None:
        """Serving before init says to run init."""
        operator.state.mkdir()
        (operator.state / "kek").write_text("k" * 64)
        (operator.state / "kek").chmod(0o600)
        code, says = operator.fails("serve")
        assert (code, "nodemesh-registry init" in says) == (2, True)

    def test_wrong_kek(self, operator: Operator) -> None:
        """A key from elsewhere is called the wrong key."""
        assert operator.run("init").returncode == 0
        (operator.state / "kek").write_text("0" * 64)
        code, says = operator.fails("serve")
        assert (code, "wrong key-encryption key" in says) == (2, True)

    def test_taken_port(self, operator: Operator) -> None:
        """A port that somebody else has is named."""
        assert operator.run("init").returncode == 0
        host, port = operator.address.split(":")
        with socket.create_server((host, int(port))):
            code, says = operator.fails("serve")
        assert (code, f"cannot listen on {operator.address}" in says) == (2, True)

    def test_unwritable(self, operator: Operator) -> None:
        """A place where the administrator's file cannot be is named, and no mesh is founded without it."""
        code, says = operator.fails("init", "--admin-config", "/proc/nodemesh/meshctl.toml")
        assert (code, "/proc/nodemesh/meshctl.toml cannot be written" in says) == (2, True)
        assert operator.run("init").returncode == 0


def test_etcd_away(tmp_path: Path) -> None:
    """Init without an etcd says that etcd does not answer; that is nobody's configuration, so exit code 1."""
    operator = Operator(tmp_path, f"127.0.0.1:{free_port()}", "/x/")
    code, says = operator.fails("init")
    assert (code, "does not answer" in says) == (1, True)
    assert not list(tmp_path.iterdir())


def test_dev(tmp_path: Path) -> None:
    """With --dev and nothing else there is a registry to try, and again over the same state."""
    port = free_port()
    operator = Operator(tmp_path / ".nodemesh-dev", "", "")
    command = [REGISTRY, "--dev", "--listen", f"127.0.0.1:{port}", "--state-dir", str(operator.state)]
    for _ in range(2):
        # OSError while the file is not there, or nobody listens.
        with running(command, lambda: operator.ask("/v1/nodes")) as process:
            assert operator.ask("/v1/resources/mesh")["items"][0]["key"] == "mesh"
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, output
        assert f"export MESHCTL_CONFIG={operator.config}" in output
        assert "nodemesh-proxy join" in output
