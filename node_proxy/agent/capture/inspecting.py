"""What is in force compared with what was recorded and with what is planned, in words."""

from dataclasses import dataclass

from node_proxy.agent.capture.installing import Installer, fingerprint
from node_proxy.agent.capture.plan import CapturePlan
from node_proxy.agent.capture.terms import Elements


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found, line by line."""

    installed: bool
    differs: bool
    lines: tuple[str, ...]


def inspect(installer: Installer, wanted: CapturePlan) -> Inspection:
    """Look at the kernel and the record; a trial whose time is over is ended first."""
    record = installer.settle()
    held = installer.kernel.elements()
    lines: list[str] = []
    differs = False
    if record.rolled_back:
        lines.append(f"rolled back: ruleset {record.rolled_back}, which nobody confirmed")
    if held is None:
        lines.append("not installed")
        return Inspection(installed=False, differs=True, lines=tuple(lines))
    installed = record.installed
    if installed is None:
        differs = True
        lines.append("in force: by whom is not recorded")
    else:
        lines.append(f"in force: ruleset {installed.digest}, by {installed.by} at {installed.at}")
        if record.trial is not None:
            left = max(0.0, record.trial.deadline - installer.clock())
            lines.append(f"on trial: rolled back in {left:.0f} s unless confirmed")
        if installed.as_loaded != fingerprint(installer.kernel.listing(terse=True)):
            differs = True
            lines.append("changed since: the table is not as it was installed")
        if installed.digest != wanted.digest:
            differs = True
            lines.append(f"not as planned: the files describe ruleset {wanted.digest}")
    if missing := sorted(set(wanted.routes) - set(installer.kernel.routes())):
        lines.append(f"routes of others, or none: {', '.join(missing)}")
    for name, (more, less) in _element_differences(held, wanted.elements).items():
        differs = True
        lines.append(f"not as planned: set {name} lacks {less} elements and has {more} others")
    return Inspection(installed=True, differs=differs, lines=tuple(lines))


def _element_differences(held: Elements, wanted: Elements) -> dict[str, tuple[int, int]]:
    found = {}
    for name in sorted(held.keys() | wanted.keys()):
        has, should = held.get(name, frozenset()), wanted.get(name, frozenset())
        if has != should:
            found[name] = (len(has - should), len(should - has))
    return found
