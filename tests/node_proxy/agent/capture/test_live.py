import json
import subprocess
from dataclasses import replace

import pytest

from node_proxy.agent.capture.installing import Installer
from node_proxy.agent.capture.live import ROLLED_BACK, LiveCapture, Step, next_step
from node_proxy.agent.capture.plan import plan
from node_proxy.agent.capture.record import AGENT, Installed, Record, Trial, since_boot
from tests.node_proxy.agent.capture.scenes import API4, of_services, planned, rules, view
from tests.support.owned import make_cgroup, remove_cgroup, slice_of_test

OLD, NEW = planned(), planned(exempt_ports=(5432,), inbound_port=15006)
MORE = plan(rules(), view(vips={"default/api": (API4,), "default/db": ("240.240.0.8",)}))
TRIAL = Trial(name="t", deadline=60, boot_id="b", previous="", previous_routes=(), previous_installed=None)


def by(who: str, digest: str = OLD.digest) -> Installed:
    """Give who installed what."""
    return Installed(digest=digest, by=who, at="2030-01-01T12:00:00Z")


@pytest.mark.parametrize(
    ("record", "taken_over", "step"),
    [
        (Record(), False, Step.INSTALL),
        (Record(), True, Step.INSTALL),
        (Record(installed=by(AGENT)), False, Step.INSTALL),
        (Record(installed=by(AGENT)), True, Step.ELEMENTS),
        (Record(installed=by(AGENT, "other")), True, Step.INSTALL),
        (Record(installed=by("ada", "other")), False, Step.INSTALL),
        (Record(installed=by("ada", "other")), True, Step.ELEMENTS),
        (Record(installed=by("ada"), trial=TRIAL), False, Step.ELEMENTS),
        (Record(installed=by(AGENT, "other"), rolled_back=OLD.digest), False, Step.ELEMENTS),
    ],
)
def test_whose_word_counts(record: Record, taken_over: bool, step: Step) -> None:
    """An agent installs at its start and when its plan changes, unless an operator said otherwise."""
    assert next_step(record, OLD, taken_over=taken_over) is step


def agent(installer: Installer) -> LiveCapture:
    """Start the capture of an agent."""
    return LiveCapture(installer)


@pytest.mark.root
def test_changes_are_elements(installer: Installer) -> None:
    """A new service changes elements of the table that is there, and its handle shows that it is the same."""
    live = agent(installer)
    live._apply(OLD)
    handle = table_handle()
    live._apply(MORE)
    assert installer.kernel.elements() == MORE.elements
    live._apply(plan(rules(), of_services(3)))
    assert table_handle() == handle
    live._apply(NEW)
    assert table_handle() != handle


@pytest.mark.root
def test_taken_away_by_another(installer: Installer) -> None:
    """What a firewall's restart flushed, or somebody changed, is put back."""
    live = agent(installer)
    live._apply(OLD)
    listing = installer.kernel.listing()
    for change in ("flush ruleset", "flush chain inet nodemesh outbound"):
        subprocess.run(["nft", change], check=True)
        live._inspect(OLD)
        assert installer.kernel.listing() == listing


@pytest.mark.root
def test_operators_installation_is_kept(installer: Installer) -> None:
    """What an operator installed stays while the agent runs, and gets the mesh's changes."""
    live = agent(installer)
    live._apply(OLD)
    installer.install(NEW, by="ada")
    live._apply(MORE)
    record = installer.records.read()
    assert record.installed is not None
    assert (record.installed.by, record.installed.digest) == ("ada", NEW.digest)
    assert (installer.kernel.elements() or {})["vips4"] == MORE.elements["vips4"]
    assert installer.confirm() is False


@pytest.mark.root
def test_trial_during_a_run(installer: Installer) -> None:
    """A trial is left to its end; rolled back, the agent goes on with what it had."""
    live = agent(installer)
    live._apply(OLD)
    installer.install_on_trial(NEW, by="ada", within=60, watch=lambda _: None)
    live._apply(MORE)
    assert "5432" in installer.kernel.listing()
    assert installer.release() is False
    live._installer = replace(installer, clock=lambda: since_boot() + 3600)
    live._apply(MORE)
    assert "5432" not in installer.kernel.listing()
    assert installer.kernel.elements() == MORE.elements
    assert live.error == ""


@pytest.mark.root
def test_rolled_back_is_not_installed_again(installer: Installer) -> None:
    """An agent says that it does not install what nobody confirmed, until an operator installs it."""
    installer.install_on_trial(NEW, by="ada", within=60, watch=lambda _: None)
    replace(installer, clock=lambda: since_boot() + 3600).settle()
    live = agent(installer)
    live._apply(NEW)
    assert live.error == ROLLED_BACK
    assert installer.kernel.listing() == ""
    assert installer.release() is True
    live._apply(NEW)
    assert live.error == ROLLED_BACK
    installer.install(NEW, by="ada")
    live._apply(NEW)
    assert live.error == ""


@pytest.mark.root
def test_unit_that_starts_and_restarts(installer: Installer) -> None:
    """A cgroup that comes, goes or is made anew is matched, by changes of its set alone."""
    with slice_of_test() as top:
        unit = f"{top}/batch.service"
        wanted = planned(exclude_cgroups=(unit,))
        live = agent(installer)
        live._apply(wanted)
        handle = table_handle()
        for _ in range(2):
            assert unit.lstrip("/") not in installer.kernel.listing()
            make_cgroup(unit)
            live._inspect(wanted)
            assert unit.lstrip("/") in installer.kernel.listing()
            remove_cgroup(unit)
            live._inspect(wanted)
        assert table_handle() == handle


def table_handle() -> int:
    """Give the number that the kernel gave the table when it was made."""
    listed = subprocess.run(
        ["nft", "--json", "list", "table", "inet", "nodemesh"], capture_output=True, text=True, check=True
    ).stdout
    return next(int(each["table"]["handle"]) for each in json.loads(listed)["nftables"] if "table" in each)
