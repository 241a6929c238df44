"""Callers of other users and units: cgroups made for a test, and processes in them that connect as told."""

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from node_proxy.dataplane.cgroups import MOUNTS, cgroup_root
from tests.support.processes import REPOSITORY, wait_until

# Below the ports that the kernel gives by itself.
_OWN_PORTS = 10_000
PROGRAM = "tests.support.programs.owned_client"


def mounted_cgroups() -> Path:
    """Where this machine's cgroup2 is."""
    root = cgroup_root(MOUNTS.read_text())
    assert root is not None, "this machine has no cgroup2; mount one"
    return root


@contextlib.contextmanager
def slice_of_test() -> Iterator[str]:
    """Make a slice that no other run has; give its path. It is removed with all that is in it."""
    path = f"/nmesh-{os.getpid()}.slice"
    make_cgroup(path)
    try:
        yield path
    finally:
        remove_cgroup(path)


def make_cgroup(path: str) -> int:
    """Make a cgroup and those above it; give its id."""
    directory = mounted_cgroups() / path.lstrip("/")
    directory.mkdir(parents=True, exist_ok=True)
    return directory.stat().st_ino


def remove_cgroup(path: str) -> None:
    """Remove a cgroup and those below it, once their processes have ended."""
    top = mounted_cgroups() / path.lstrip("/")
    for directory in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
        _remove(directory)
    _remove(top)


def _remove(directory: Path) -> None:
    def removed() -> bool:
        with contextlib.suppress(OSError):
            directory.rmdir()
        return not directory.exists()

    wait_until(removed, what=f"{directory} to be empty", deadline=5)


class OwnedClient:
    """A process of a user that does one thing at a time, as told.

    `cgroup` is made if need be; without one it is where the test is. `prefix` puts it onto a host.
    """

    def __init__(self, *, uid: int = 0, cgroup: str | None = None, prefix: Sequence[str] = ()) -> None:
        options = ["--uid", str(uid)]
        if cgroup is not None:
            make_cgroup(cgroup)
            options += ["--cgroup", str(mounted_cgroups() / cgroup.lstrip("/") / "cgroup.procs")]
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", PROGRAM, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def connect(self, address: str, port: int, *, source: tuple[str, int] | None = None) -> tuple[str, int]:
        """Connect, from `source` if given; give the source address and port."""
        host, number = self.do("connect", address, port, *(source or ()))
        return str(host), int(number)

    def connect_from_own_port(self, address: str, port: int) -> tuple[str, int]:
        """Connect from a port that nobody else is given, so that another may take it afterwards."""
        for number in range(_OWN_PORTS + os.getpid() % _OWN_PORTS, 3 * _OWN_PORTS):
            try:
                return self.connect(address, port, source=(address, number))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, "no port is free")

    def do(self, what: str, *arguments: str | int) -> Any:
        """Have one thing done (see the program); give what came of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if isinstance(answer, dict):
            raise OSError(answer["errno"], answer["error"])
        return answer
