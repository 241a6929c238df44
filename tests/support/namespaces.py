"""Hosts as network namespaces: a bridge in a namespace of its own, and hosts on it, with IPv4 and IPv6.

The machine's own network is not touched. Names carry the process id and start time of whoever made them,
so that runs do not collide, and so that what a killed run left behind can be told from what is in use.
"""

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from tests.support.hosts import NETNS_FILES, Host, netns_folder
from tests.support.processes import wait_until

_NETNS = Path("/run/netns")
_NAME = re.compile(r"nmesh-(?P<pid>\d+)-(?P<started>\d+)-\d+-[a-z0-9-]+\Z")
_fabrics = itertools.count()
# include/uapi/linux/sched.h
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
# Same prefix lengths everywhere: 10.77.0.<i>/24 and fd77::<i>/64; the fabric itself is .254 and ::fe.
_FABRIC4, _FABRIC6 = "10.77.0.254", "fd77::fe"


class Fabric:
    """A switch and the hosts on it, named as given; leaving the block ends all that runs on them."""

    def __init__(self, names: Sequence[str]) -> None:
        tag = f"nmesh-{os.getpid()}-{_start_time(os.getpid())}-{next(_fabrics)}"
        self.switch = Host("switch", _FABRIC4, _FABRIC6, f"{tag}-switch")
        self.hosts = {
            name: Host(name, f"10.77.0.{i}", f"fd77::{i}", f"{tag}-{name}") for i, name in enumerate(names, 1)
        }

    def __enter__(self) -> Self:
        sweep()
        try:
            self._build()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tear_down()

    def port_of(self, host: Host) -> str:
        """The name, in the switch's namespace, of the interface that leads to `host`."""
        return f"to{list(self.hosts.values()).index(host) + 1}"

    def _build(self) -> None:
        for host in (self.switch, *self.hosts.values()):
            folder = netns_folder(host.namespace)
            folder.mkdir(parents=True)
            # Where no proxy of ours answers there, a name that is not in the hosts file fails at once.
            (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            (folder / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
            _ip(f"netns add {host.namespace}")
        _ip(
            "link set lo up",
            "link add br0 type bridge",
            f"addr add {_FABRIC4}/24 dev br0",
            f"addr add {_FABRIC6}/64 dev br0 nodad",
            "link set br0 up",
            within=self.switch,
        )
        for host in self.hosts.values():
            port = self.port_of(host)
            _ip(
                f"link add {port} type veth peer name eth0 netns {host.namespace}",
                f"link set {port} master br0 up",
                within=self.switch,
            )
            _ip(
                "link set lo up",
                f"addr add {host.address}/24 dev eth0",
                f"addr add {host.address6}/64 dev eth0 nodad",
                "link set eth0 up",
                # As on a real host: without a route a virtual IP fails before nftables sees it.
                f"route add default via {_FABRIC4}",
                f"route add ::/0 via {_FABRIC6}",
                within=host,
            )

    def _tear_down(self) -> None:
        for host in (*self.hosts.values(), self.switch):
            _remove(host.namespace)


@contextlib.contextmanager
def within(host: Host) -> Iterator[None]:
    """Have the sockets that this thread makes in the block be of `host`; those it has stay where they are."""
    with Path("/proc/thread-self/ns/net").open() as here, (_NETNS / host.namespace).open() as there:
        _enter(there)
        try:
            yield
        finally:
            _enter(here)


def sweep() -> None:
    """Remove the namespaces of runs whose process is gone."""
    names = {path.name for folder in (_NETNS, NETNS_FILES) if folder.is_dir() for path in folder.iterdir()}
    for name in names:
        if (match := _NAME.match(name)) and _start_time(int(match["pid"])) != int(match["started"]):
            _remove(name)


def remaining() -> list[str]:
    """The namespaces of this very process that still exist."""
    names = [path.name for path in _NETNS.iterdir()] if _NETNS.is_dir() else []
    return [name for name in names if (match := _NAME.match(name)) and int(match["pid"]) == os.getpid()]


def processes_in(namespace: str) -> list[int]:
    """The ids of the processes that run in a namespace."""
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split()]


def _remove(namespace: str) -> None:
    """Kill what runs in a namespace of ours, then remove it and its files."""
    if (_NETNS / namespace).exists():
        for pid in processes_in(namespace):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_until(lambda: not processes_in(namespace), what=f"{namespace} to be empty", deadline=5.0)
        _ip(f"netns del {namespace}")
    shutil.rmtree(netns_folder(namespace), ignore_errors=True)
    with contextlib.suppress(OSError):
        NETNS_FILES.rmdir()


def _start_time(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 when there is none with this id."""
    try:
        # proc(5): field 22, counted after the name, which may hold spaces and parentheses.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return 0


def _enter(namespace: TextIO) -> None:
    # os.setns is there from Python 3.12 on.
    if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace.name}")


def _ip(*lines: str, within: Host | None = None) -> None:
    """Run lines of ip(8), in order, stopping at the first that fails."""
    namespace = ["-n", within.namespace] if within else []
    text = "\n".join(lines) + "\n"
    done = subprocess.run(
        ["ip", *namespace, "-batch", "-"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()} in\n{text}")
