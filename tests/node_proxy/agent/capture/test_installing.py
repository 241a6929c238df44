import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.installing import Installer
from node_proxy.agent.capture.plan import CapturePlan, plan
from node_proxy.agent.capture.record import Record, RecordFile, Trial, since_boot
from node_proxy.agent.capture.ruleset import difference
from node_proxy.errors import ConfigError
from tests.node_proxy.agent.capture.scenes import (
    DOCKER,
    FIREWALLD,
    everything,
    load,
    of_services,
    others,
    planned,
    rules,
    state_files,
    view,
)
from tests.support.hosts import Host
from tests.support.owned import make_cgroup, mounted_cgroups, remove_cgroup

pytestmark = pytest.mark.root

OLD, NEW = planned(), planned(exempt_ports=(5432,), inbound_port=15006)
MOVED = plan(rules(), view(vip_ranges=("240.241.0.0/16",), vips={}))


def nobody_watches(trial: Trial) -> None:
    """Leave the trial to whoever looks next."""


def on_trial(installer: Installer, wanted: CapturePlan, within: float = 60) -> None:
    """Install until confirmed."""
    installer.install_on_trial(wanted, by="ada", within=within, watch=nobody_watches)


def later(installer: Installer) -> Installer:
    """The same host an hour on."""
    return replace(installer, clock=lambda: since_boot() + 3600)


def test_without_a_trace(installer: Installer, tmp_path: Path) -> None:
    """After 50 installations and removals, rules of others, routes and settings are as before."""
    load(DOCKER + FIREWALLD)
    before = everything()
    for number in range(50):
        installer.install(OLD if number % 2 else NEW, by="ada")
        assert others(everything()["nft"]) == before["nft"].rstrip("\n")
        installer.uninstall()
    assert everything() == before
    assert state_files(tmp_path / "state") == ["capture.lock"]


def test_two_thousand_services(installer: Installer, capsys: pytest.CaptureFixture[str]) -> None:
    """A mesh of 2,000 services is put in force at once; another service is two elements and nothing else."""

    class Recording(Kernel):
        loaded: list[str]

        def load(self, ruleset: str) -> None:
            loaded.append(ruleset)
            super().load(ruleset)

    loaded: list[str] = []
    installer = replace(installer, kernel=Recording())
    many, more = plan(rules(), of_services(2000)), plan(rules(), of_services(2001))
    began = time.perf_counter()
    installer.install(many, by="agent")
    whole = time.perf_counter() - began
    loaded.clear()
    began = time.perf_counter()
    installer.update(difference(many.elements, more.elements))
    one = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n2,000 services in force in {whole * 1000:.0f} ms, one more in {one * 1000:.0f} ms")
    assert loaded == [
        "add element inet nodemesh vips4 { 240.240.7.209 }\n"
        "add element inet nodemesh vips6 { fd6d:6573:6800::7d1 }\n"
    ]
    assert installer.kernel.elements() == more.elements


def test_unconfirmed_is_rolled_back(installer: Installer) -> None:
    """A trial whose time is over gives way to what was there, to the byte, and is remembered."""
    installer.install(MOVED, by="agent")
    before = everything()
    on_trial(installer, NEW)
    assert everything() != before
    assert installer.settle().trial is not None
    record = later(installer).settle()
    assert everything() == before
    assert record == Record(installed=record.installed, rolled_back=NEW.digest)
    assert record.installed is not None
    assert record.installed.by == "agent"


def test_unconfirmed_first_one(installer: Installer) -> None:
    """Where nothing was installed before, a trial that is over leaves nothing."""
    before = everything()
    on_trial(installer, NEW)
    later(installer).settle()
    assert everything() == before


def test_confirmed_stays(installer: Installer) -> None:
    """What was confirmed in time stays; it cannot be confirmed twice, nor too late."""
    on_trial(installer, NEW)
    assert installer.confirm()
    listing = installer.kernel.listing()
    later(installer).settle()
    assert installer.kernel.listing() == listing
    assert not installer.confirm()
    on_trial(installer, OLD)
    assert not later(installer).confirm()
    assert installer.kernel.listing() == listing


def test_one_trial_at_a_time(installer: Installer) -> None:
    """A second trial is refused while one is under way."""
    on_trial(installer, NEW)
    with pytest.raises(ConfigError, match="another trial ends in"):
        on_trial(installer, OLD)


def test_refused_by_nft(installer: Installer) -> None:
    """A ruleset that nft refuses leaves what was there, trial or not."""
    installer.install(OLD, by="ada")
    before, record = everything(), installer.records.read()
    nonsense = replace(NEW, skeleton="nonsense\n", routes=("240.241.0.0/16",))
    with pytest.raises(ConfigError, match="syntax error"):
        installer.install(nonsense, by="ada")
    with pytest.raises(ConfigError, match="syntax error"):
        on_trial(installer, nonsense)
    assert everything() == before
    assert installer.records.read() == record


def test_route_of_another(installer: Installer) -> None:
    """A route that somebody else has for a virtual range is used and left."""
    installer.kernel.remove()
    os.system("ip route add 240.240.0.0/16 dev lo proto static")  # noqa: S605 (fixed text)
    before = everything()
    installer.install(OLD, by="ada")
    installer.uninstall()
    assert everything() == before


def test_reboot_ends_a_trial(installer: Installer) -> None:
    """After a reboot, which took the table, a trial is over and its ruleset does not come back by itself."""
    on_trial(installer, NEW)
    installer.kernel.remove()
    assert replace(installer, boot=lambda: "another").settle() == Record(rolled_back=NEW.digest)
    assert installer.kernel.listing() == ""


def test_rolled_back_without_a_cgroup_that_ended(installer: Installer) -> None:
    """What comes back may name cgroups that are gone meanwhile; it comes back without them."""
    slices = [f"/nmesh-{os.getpid()}-{letter}.slice" for letter in "ab"]
    for path in slices:
        make_cgroup(path)
    try:
        installer.install(planned(exclude_cgroups=tuple(slices)), by="agent")
        on_trial(installer, NEW)
        (mounted_cgroups() / slices[0].lstrip("/")).rmdir()
        later(installer).settle()
        listing = installer.kernel.listing()
        assert slices[1].lstrip("/") in listing
        assert slices[0].lstrip("/") not in listing
    finally:
        for path in slices:
            remove_cgroup(path)


class Steps:
    """Counts what changes or asks the host, and kills this process before one of it."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._count = 0

    def step(self) -> None:
        """Take a step, unless it is the last."""
        self._count += 1
        if self._count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class CrashingKernel(Kernel):
    """Dies before a step."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def load(self, ruleset: str) -> None:
        """Load, perhaps."""
        self._steps.step()
        super().load(ruleset)

    def add_route(self, network: str) -> None:
        """Add, perhaps."""
        self._steps.step()
        super().add_route(network)

    def remove_route(self, network: str) -> None:
        """Remove, perhaps."""
        self._steps.step()
        super().remove_route(network)


class CrashingRecords(RecordFile):
    """Dies before a step."""

    def __init__(self, state_dir: Path, steps: Steps) -> None:
        super().__init__(state_dir)
        self._steps = steps

    def write(self, record: Record) -> None:
        """Write, perhaps."""
        self._steps.step()
        super().write(record)

    def remove(self) -> None:
        """Remove, perhaps."""
        self._steps.step()
        super().remove()


def crash(installer: Installer, change: Callable[[Installer], object], *, before: int) -> bool:
    """Make a change in a process that dies before the step; whether there was such a step."""
    if not (child := os.fork()):
        steps = Steps(before)
        records = CrashingRecords(installer.records.directory, steps)
        try:
            change(replace(installer, kernel=CrashingKernel(steps), records=records))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda installer: installer.install(NEW, by="ada"),
        lambda installer: installer.install(MOVED, by="ada"),
        lambda installer: on_trial(installer, NEW),
        lambda installer: installer.update(difference(OLD.elements, {**OLD.elements, "vips4": frozenset()})),
        lambda installer: installer.uninstall(),
        lambda installer: installer.release(),
    ],
    ids=["install", "move", "trial", "update", "uninstall", "release"],
)
def test_killed_at_each_step(installer: Installer, change: Callable[[Installer], object]) -> None:
    """Killed before any step, a change has happened wholly or not at all, and the next one finds its way."""
    fresh = everything()
    installer.install(OLD, by="agent")
    old = installer.kernel.listing()
    change(installer)
    new = installer.kernel.listing()
    step = 0
    while True:
        step += 1
        installer.uninstall()
        installer.install(OLD, by="agent")
        dies = crash(installer, change, before=step)
        assert installer.kernel.listing() in (old, new)
        if not dies:
            break
        later(installer).settle()
        assert installer.kernel.listing() in (old, new)
        installer.install(OLD, by="agent")
        assert installer.kernel.listing() == old
        installer.uninstall()
        assert everything() == fresh
    assert step > 1


def test_killed_while_rolling_back(installer: Installer) -> None:
    """Killed before any step of a roll-back, old or new rules are in force, and the next one ends it."""
    installer.install(OLD, by="agent")
    old = everything()
    step, dies = 0, True
    while dies:
        step += 1
        installer.install(OLD, by="agent")
        on_trial(installer, NEW)
        new = installer.kernel.listing()
        dies = crash(later(installer), lambda installer: installer.settle(), before=step)
        assert installer.kernel.listing() in (old["nft"].rstrip("\n") + "\n", new)
        later(installer).settle()
        assert everything() == old
    assert step > 1


def test_damaged_record(installer: Installer, app: Host, tmp_path: Path) -> None:
    """A record that is damaged says nothing, and is no obstacle."""
    installer.install(OLD, by="ada")
    (tmp_path / "state" / "capture.json").write_text("{")
    assert installer.records.read() == Record()
    installer.install(NEW, by="ada")
    installer.uninstall()
    assert installer.kernel.listing() == ""
