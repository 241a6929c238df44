"""An operator's way with capture on a booted machine, over a real SSH connection that must outlive it all."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.hosts.machine import Machine
from tests.hosts.site import PROXY, Site
from tests.support.processes import Process, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

CONFIG = "/etc/nodemesh/proxy.toml"
COMMAND = "/opt/nodemesh/bin/nodemesh-proxy capture"
TALK = "while echo word; do sleep 0.1; done"


def ssh(site: Site, name: str, command: str) -> Process:
    """Run a command on web-1 over SSH."""
    control = site.mesh.control
    return site.mesh.processes.start(
        name,
        [
            *control.prefix, "ssh", "-i", str(site.rollout.key), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            f"root@{site.web1.host.address}", command,
        ],
    )  # fmt: skip


@pytest.fixture
def session(site: Site) -> Iterator[Process]:
    """A session that says something all the time."""
    process = ssh(site, "session", TALK)
    process.wait_log("word")
    yield process
    process.kill()


def wait_words(session: Process) -> None:
    """Wait until the session has said more."""
    words = session.text().count("word")
    session.wait_ready(lambda: session.text().count("word") > words + 3, what="more words", deadline=5)


@contextlib.contextmanager
def edited(machine: Machine, line: str) -> Iterator[None]:
    """Add a line to [capture] of proxy.toml for the block."""
    before = machine.run("cat", CONFIG).stdout
    assert "[capture]\n" in before
    machine.run("tee", CONFIG, text=before.replace("[capture]\n", f"[capture]\n{line}\n"))
    try:
        yield
    finally:
        machine.run("tee", CONFIG, text=before)


def table(machine: Machine) -> str:
    """Give the rules of capture, without what comes and goes with the mesh."""
    return machine.run("nft", "--terse", "list", "table", "inet", "nodemesh", check=False).stdout


def test_wrong_ruleset(site: Site, session: Process) -> None:
    """A wrong ruleset, whose installer's connection is cut, is rolled back by the timer; all goes on."""
    before = table(site.web1)
    with edited(site.web1, "port = 4"):
        installer = ssh(site, "installer", f"{COMMAND} install --confirm-within 4s; {TALK}")
        installer.wait_log("rolled back in 4 s unless")
        installer.kill()
        assert table(site.web1) != before
        assert site.call().status != 200
        wait_words(session)
        wait_until(lambda: table(site.web1) == before, what="the roll-back", deadline=20, pause=0.2)
    site.wait_answered()
    wait_words(session)


def test_excluded_slice(site: Site, session: Process) -> None:
    """On a machine with systemd, calls of an excluded slice are not taken, of others they are."""
    vips = json.loads(site.meshctl("service", "get", "api", "--output", "json"))["vips"]
    (address,) = (vip for vip in vips if "." in vip)
    # Refused by nftables, and with 403 by the proxy, to which this unit is nobody.
    not_taken, forbidden = 7, 22
    call = ["curl", "--fail", "--silent", "--max-time", "10", f"http://{address}/"]
    with edited(site.web1, 'exclude_cgroups = ["/batch.slice", "/shop.slice/none.service"]'):
        site.web1.run("systemctl", "start", "batch.slice")
        try:
            site.web1.run("sh", "-c", f"{COMMAND} install")
            run = ["systemd-run", "--wait", "--pipe", "--quiet"]
            assert site.web1.run(*run, *call, check=False).returncode == forbidden
            assert site.web1.run(*run, "--slice=batch.slice", *call, check=False).returncode == not_taken
        finally:
            site.web1.run("systemctl", "stop", "batch.slice")
    site.web1.run("systemctl", "restart", PROXY)
    site.wait_answered()
    wait_words(session)


@pytest.mark.parametrize(("line", "stays"), [('on_failure = "closed"', True), ('on_failure = "open"', False)])
def test_proxy_that_crashes(site: Site, session: Process, line: str, stays: bool) -> None:
    """After a crash the unit leaves the rules or takes them away, as said; a session outlives either."""
    with edited(site.web1, line):
        site.web1.run("systemctl", "restart", PROXY)
        site.wait_answered()
        # systemd starts it again a second later.
        site.web1.run("systemctl", "kill", "--kill-whom=all", "--signal=KILL", PROXY)
        seen = wait_until(lambda: _ended(site.web1), what="the end of the unit", deadline=10)
        assert ("chain outbound" in seen) is stays
        wait_words(session)
    site.web1.run("systemctl", "restart", PROXY)
    site.wait_answered()


def _ended(machine: Machine) -> str:
    """Give the rules while the unit waits to be started again, empty or "none", and "" before."""
    script = (
        f"systemctl show --property=SubState --value {PROXY}; nft list table inet nodemesh 2>/dev/null; true"
    )
    told = machine.run("sh", "-c", script).stdout
    return told if told.startswith("auto-restart") else ""


def test_uninstalled(site: Site, session: Process) -> None:
    """After the unit has stopped and capture is uninstalled nothing of it is left; the session goes on."""
    site.web1.run("systemctl", "stop", PROXY)
    site.web1.run("sh", "-c", f"{COMMAND} install")
    assert "chain outbound" in table(site.web1)
    site.web1.run("sh", "-c", f"{COMMAND} uninstall")
    assert site.web1.run("nft", "list", "tables").stdout == ""
    assert site.web1.run("ip", "route", "show", "proto", "157").stdout == ""
    wait_words(session)
    site.web1.run("systemctl", "start", PROXY)
    site.wait_answered()
