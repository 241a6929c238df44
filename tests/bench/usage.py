"""What the proxies' processes have used, as /proc tells: CPU time and resident memory."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.processes import Process

_TICK = os.sysconf("SC_CLK_TCK")
# proc_pid_stat(5), counted from the state, which follows the name.
_SESSION, _USER_TIME, _SYSTEM_TIME = 3, 11, 12


def cpu_seconds(sides: Sequence[Process]) -> float:
    """Give the CPU time of all sides together, user and system, all threads and children."""
    sessions = {side.pid for side in sides}
    ticks = [int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME]) for _, fields in _members(sessions)]
    return sum(ticks) / _TICK


def resident_bytes(sides: Sequence[Process]) -> list[int]:
    """Give the resident memory of each side, its children included."""
    return [sum(_resident(path) for path, _ in _members({side.pid})) for side in sides]


def _resident(folder: Path) -> int:
    # The counters of stat and status are off by up to some dozens of pages for each processor.
    for line in (folder / "smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0


def _members(sessions: set[int]) -> Iterator[tuple[Path, list[str]]]:
    """Give the /proc folder and the fields of each process of these sessions; each side leads one."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        # It may end while the folder is read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) in sessions:
                yield path.parent, fields
