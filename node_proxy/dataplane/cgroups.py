"""cgroup id to cgroup path, with no capability: a cgroup's id is the inode number of its directory.

The kernel's own way (open_by_handle_at) wants CAP_DAC_READ_SEARCH, which would let the proxy read every file
of the host. So the directories are looked at, and what was seen is kept: an id is never used twice, and a
cgroup cannot be renamed, so what was seen stays true. A restarted unit has a new cgroup; its id is sought
where that unit is expected before everything is looked through.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from node_proxy.owners import template_of
from node_proxy.snapshot import OwnerRule

# A host with more is no host of ours; a walk over so many takes some 300 ms.
MOST_CGROUPS = 20_000
# What is looked at where a declared unit is expected: the unit, its sub-cgroups, a template's instances.
MOST_EXPECTED = 64
# Walks may take this share of our time, with a second in hand for a host that boots. Whoever makes cgroups in
# a loop then costs the others no more.
WALK_SHARE = 0.1
WALK_CREDIT = 1.0
# How long an id that was not found counts as not there. Its cgroup is gone, or it may not be looked at.
ABSENCE = 1.0
MOST_ABSENT = 4096
# A directory without subdirectories: itself and its entry in its parent.
_LEAF_LINKS = 2

MOUNTS = Path("/proc/self/mountinfo")


def cgroup_root(mounts: str) -> Path | None:
    """Find where cgroup2 is mounted, in the text of proc_pid_mountinfo(5)."""
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            # Spaces in paths are written as octal escapes.
            return Path(place.split(" ")[4].encode().decode("unicode_escape"))
    return None


class Cgroups:
    """The cgroups of this host as last seen.

    Args:
        clock: seconds that never go back.
        expected: gives what is declared, whose cgroups are looked at first.
        root: where cgroup2 is mounted; None looks it up at the first question.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        expected: Callable[[], Iterable[OwnerRule]],
        *,
        root: Path | None = None,
    ) -> None:
        self._clock = clock
        self._expected = expected
        self._root = root
        self._paths: dict[int, str] = {}
        self._absent: dict[int, float] = {}
        self._credit = WALK_CREDIT
        self._credited = clock()

    def path(self, cgroup_id: int) -> str | None:
        """Give the path of a cgroup, from the root of those that can be seen; None when it is not known."""
        path = self._paths.get(cgroup_id)
        if path is not None:
            return path
        now = self._clock()
        since = self._absent.get(cgroup_id)
        if since is not None and now - since < ABSENCE:
            return None
        root = self._find_root()
        if root is None:
            self._note_absent(cgroup_id, now)
            return None
        if len(self._paths) > MOST_CGROUPS:
            self._paths = {}
        for place in dict.fromkeys(place for rule in self._expected() for place in _places(rule)):
            self._paths.update(_walk(root, place, MOST_EXPECTED))
            if cgroup_id in self._paths:
                return self._paths[cgroup_id]
        if not self._may_walk(now):
            return None
        # Those that are no more are forgotten with the map they were in.
        self._paths = dict(_walk(root, "/", MOST_CGROUPS))
        ended = self._clock()
        self._credit -= ended - now
        if cgroup_id not in self._paths:
            self._note_absent(cgroup_id, ended)
        return self._paths.get(cgroup_id)

    def _note_absent(self, cgroup_id: int, now: float) -> None:
        if len(self._absent) >= MOST_ABSENT:
            self._absent.clear()
        self._absent[cgroup_id] = now

    def _may_walk(self, now: float) -> bool:
        self._credit = min(WALK_CREDIT, self._credit + (now - self._credited) * WALK_SHARE)
        self._credited = now
        return self._credit > 0

    def _find_root(self) -> Path | None:
        if self._root is None:
            self._root = cgroup_root(MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"))
        return self._root


def _places(rule: OwnerRule) -> Iterator[str]:
    """Say where systemd puts the processes of a rule, unless they have a slice of their own."""
    if rule.cgroup is not None:
        yield rule.cgroup
    if rule.unit is None:
        return
    if template := template_of(rule.unit):
        # systemd.slice(5): all instances share a slice, whose name is the template's with - escaped.
        name = template.partition("@")[0].replace("-", r"\x2d")
        folder = f"/system.slice/system-{name}.slice"
        yield folder if rule.unit == template else f"{folder}/{rule.unit}"
    else:
        yield f"/system.slice/{rule.unit}"


def _walk(root: Path, top: str, most: int) -> Iterator[tuple[int, str]]:
    """Give id and path of a cgroup and of all below it, at most `most`; leave out what vanishes."""
    directory = os.path.join(root, top.lstrip("/"))
    try:
        status = os.stat(directory)
    except OSError:
        return
    yield status.st_ino, top
    # The shallow first: units are there, and whoever was delegated one can make any number of deeper ones.
    waiting = deque([(directory, top)] if status.st_nlink != _LEAF_LINKS else [])
    left = most
    while waiting:
        directory, path = waiting.popleft()
        try:
            with os.scandir(directory) as entries:
                below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            # It vanished, or its owner lets nobody look.
            continue
        for entry in below:
            left -= 1
            if left < 0:
                return
            name = f"{path.rstrip('/')}/{entry.name}"
            yield entry.inode(), name
            try:
                # Most have no others in them, and opening a directory costs more than asking.
                if os.stat(entry.path).st_nlink != _LEAF_LINKS:
                    waiting.append((entry.path, name))
            except OSError:
                continue
