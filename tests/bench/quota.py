"""CPU quotas for running processes, by control groups: what makes many small cores of a few."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import wait_until

# The default of 100 ms would show as pauses of most of that. The kernel counts by ticks of 4 ms at best and
# takes what was too much out of the periods that follow.
PERIOD_MICROSECONDS = 20_000
# What has ended may be counted a moment longer.
_PATIENCE = 5.0


class NoQuota(Exception):
    """This machine gives us no CPU quotas; the message says why."""


@dataclass(frozen=True)
class Hierarchy:
    """Where control groups with a CPU quota are made; `unified` says that it is version 2."""

    root: Path
    unified: bool


@dataclass(frozen=True)
class Group:
    """A group whose members share a quota."""

    folder: Path

    def add(self, pid: int) -> None:
        """Put a process, with all its threads, into it."""
        (self.folder / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def open_groups(count: int, cores: float) -> Iterator[list[Group]]:
    """Make so many groups that may use so much of a core each; leaving removes them, members or not.

    Raises:
        NoQuota: it cannot be done here; nothing is left behind.
    """
    with contextlib.ExitStack() as made:
        try:
            groups = list(_make(made, count, cores))
        except OSError as error:
            why = "it takes root" if os.geteuid() else str(error)
            raise NoQuota(f"cannot make control groups: {why}") from error
        yield groups


def find_hierarchy(mounts: str) -> Hierarchy | None:
    """Find the CPU controller in the lines of /proc/mounts."""
    for line in mounts.splitlines():
        _device, point, kind, options = line.split()[:4]
        root = Path(point)
        if kind == "cgroup2" and "cpu" in (root / "cgroup.controllers").read_text().split():
            return Hierarchy(root, unified=True)
        if kind == "cgroup" and "cpu" in options.split(","):
            return Hierarchy(root, unified=False)
    return None


def _make(made: contextlib.ExitStack, count: int, cores: float) -> Iterator[Group]:
    hierarchy = find_hierarchy(Path("/proc/mounts").read_text())
    if hierarchy is None:
        raise NoQuota("no control groups with a CPU controller are mounted")
    if hierarchy.unified:
        _let_children_have_cpu(made, hierarchy.root / "cgroup.subtree_control")
    quota = round(PERIOD_MICROSECONDS * cores)
    for index in range(count):
        folder = hierarchy.root / f"nodemesh-bench-{os.getpid()}-{index}"
        folder.mkdir()
        made.callback(_remove, folder)
        if hierarchy.unified:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))
        yield Group(folder)


def _let_children_have_cpu(made: contextlib.ExitStack, control: Path) -> None:
    if "cpu" not in control.read_text().split():
        control.write_text("+cpu")
        made.callback(control.write_text, "-cpu")


def _remove(folder: Path) -> None:
    """Give the members back to the group above, then remove this one."""

    def removed() -> bool:
        for pid in (folder / "cgroup.procs").read_text().split():
            # It has ended, or is just ending.
            with contextlib.suppress(ProcessLookupError):
                (folder.parent / "cgroup.procs").write_text(pid)
        try:
            folder.rmdir()
        except OSError:
            return False
        return True

    wait_until(removed, what=f"an empty {folder}", deadline=_PATIENCE)
