"""Which declared workload a process of this host belongs to, by its user, systemd unit and cgroup. Pure.

The unit is the one that the system's own service manager started: of a cgroup path, the first component that
is no slice. What lies deeper was made by the unit itself (delegated sub-cgroups, a user's service manager,
containers), so a name found there is its maker's word: any unit may call a sub-cgroup ``web.service``.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from node_proxy.snapshot import LocalWorkload, OwnerRule

SLICE = ".slice"
# systemd.unit(5): what a unit's name is made of. Slices hold units and no processes of their own; the other
# kinds run none that would call a service.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?\.(service|scope)\Z")
_UNIT_KIND = re.compile(r"\.(service|scope|socket|slice|timer|target|mount|path|device|swap|automount)\Z")
_LONGEST_UNIT = 255
# Answers that are remembered: users and cgroups that call, of which hosts have some hundreds.
MOST_RESOLVED = 4096
_CGROUP = re.compile(r"(/[^/]+)+\Z")


K = TypeVar("K", bound=Hashable)


class NoOwner(Enum):
    """Why a process belongs to no workload.

    `UNDECLARED`: none declares it. `UNDETERMINED`: too little is known of it to say.
    """

    UNDECLARED = "undeclared"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Process:
    """Who made a socket, as far as the kernel says: None is what it does not say."""

    uid: int | None = None
    cgroup: str | None = None

    @property
    def unit(self) -> str:
        """The systemd unit, empty when there is none or it is not known."""
        return unit_of(self.cgroup) if self.cgroup is not None else ""


def unit_of(cgroup: str) -> str:
    """Give the system's unit that a cgroup path is of, empty when it is of none."""
    for component in cgroup.split("/"):
        # systemd puts "_" before names that the kernel's own files might have.
        name = component.removeprefix("_")
        if name and not name.endswith(SLICE):
            return name if _UNIT.match(name) else ""
    return ""


def template_of(unit: str) -> str:
    """Give the template of an instance (``web@.service`` of ``web@1.service``), empty for any other unit."""
    name, at, rest = unit.partition("@")
    return f"{name}@.{rest.rpartition('.')[2]}" if at else ""


class OwnerTable:
    """The declared owners of this host's workloads, the most specific first.

    A cgroup is more specific than a unit, a deeper cgroup than one above it, an instance than its template,
    and anything with a user than the same without.
    """

    def __init__(self, workloads: Iterable[LocalWorkload]) -> None:
        owned = [(workload.owner, workload) for workload in workloads if workload.owner is not None]
        self._rules = sorted(owned, key=lambda each: _specificity(each[0]), reverse=True)
        self._identities = frozenset(workload.identity for _, workload in owned)
        self._resolved: dict[tuple[int | None, str | None], LocalWorkload | NoOwner] = {}

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def rules(self) -> tuple[OwnerRule, ...]:
        """What is declared."""
        return tuple(rule for rule, _ in self._rules)

    def reserved(self, identity: str) -> bool:
        """Whether only processes that belong to a workload of `identity` may speak for it."""
        return identity in self._identities

    def resolve(self, process: Process) -> LocalWorkload | NoOwner:
        """Find the workload that a process belongs to.

        A rule that may or may not match, for want of knowledge, settles that nothing can be said: what is
        less specific must not be had by hiding from what is more.
        """
        key = (process.uid, process.cgroup)
        found = self._resolved.get(key)
        if found is None:
            if len(self._resolved) >= MOST_RESOLVED:
                self._resolved.clear()
            found = self._resolved[key] = self._resolve(process)
        return found

    def _resolve(self, process: Process) -> LocalWorkload | NoOwner:
        unit = process.unit
        for rule, workload in self._rules:
            match _matches(rule, process, unit):
                case True:
                    return workload
                case None:
                    return NoOwner.UNDETERMINED
        return NoOwner.UNDECLARED


def _specificity(rule: OwnerRule) -> tuple[int, int, int]:
    depth = rule.cgroup.count("/") if rule.cgroup is not None else 0
    unit = 0 if rule.unit is None else 1 if _is_template(rule.unit) else 2
    return depth, unit, int(rule.uid is not None)


def _matches(rule: OwnerRule, process: Process, unit: str) -> bool | None:
    """Whether a rule matches; None when too little is known of the process."""
    unknown = False
    if rule.uid is not None and process.uid != rule.uid:
        if process.uid is not None:
            return False
        unknown = True
    if rule.unit is not None or rule.cgroup is not None:
        if process.cgroup is None:
            return None
        if rule.cgroup is not None and not _within(process.cgroup, rule.cgroup):
            return False
        if rule.unit is not None and rule.unit not in (unit, template_of(unit)):
            return False
    return None if unknown else True


def _within(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def _is_template(unit: str) -> bool:
    return "@." in unit


def first_clash(owners: Mapping[K, OwnerRule]) -> tuple[K, K] | None:
    """Give the keys of two whose processes cannot be told apart, None when there are none.

    Rules of equal specificity that can match one process are equal: their cgroups are as deep and hold the
    same path, their units are the same or templates of the same, and so are their users.
    """
    seen: dict[OwnerRule, K] = {}
    for key, rule in owners.items():
        if (other := seen.setdefault(rule, key)) != key:
            return other, key
    return None


def unit_fault(unit: str) -> str:
    """Say what is wrong with a declared unit and what to write, empty when nothing is."""
    if "/" in unit:
        return f"{unit!r} is a path; write the unit's name alone, or cgroup instead of unit"
    if unit.endswith(".socket"):
        return f"{unit!r} runs no processes; write the service that it starts, {unit[:-7]}.service"
    if unit.endswith(SLICE):
        return f'{unit!r} is a slice; write cgroup = "/{unit}" for all that runs in it'
    if len(unit) <= _LONGEST_UNIT and _UNIT.match(unit):
        return ""
    if not _UNIT_KIND.search(unit) and _UNIT.match(f"{unit}.service"):
        return f"{unit!r} names no kind of unit; write {unit}.service"
    return f"{unit!r} is no service or scope; write what `systemctl status PID` shows, as in web.service"


def cgroup_fault(cgroup: str) -> str:
    """Say what is wrong with a declared cgroup and what to write, empty when nothing is."""
    if cgroup.startswith("/sys/fs/cgroup"):
        return f"{cgroup!r} is a directory's path; write what stands behind :: in /proc/PID/cgroup"
    if not cgroup.startswith("/"):
        return f"{cgroup!r} is no path from the root of the cgroups; write /{cgroup}"
    if cgroup.strip("/") == "":
        return "/ holds every process; write a cgroup below it, or leave it out"
    if cgroup.endswith("/"):
        return f"{cgroup!r} ends in /; write {cgroup.rstrip('/')}"
    if not _CGROUP.match(cgroup) or {".", ".."} & set(cgroup.split("/")):
        return f"{cgroup!r} is no plain path; write what stands behind :: in /proc/PID/cgroup"
    return ""
