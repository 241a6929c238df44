"""`nodemesh-proxy capture …`: try an interception, keep it, look at it, take it away."""

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node_proxy import config
from node_proxy.command_line import ConfigOption, WorkloadsOption, faults_in_one_line
from node_proxy.errors import ConfigError

if TYPE_CHECKING:
    from node_proxy.agent.capture.installing import Installer
    from node_proxy.agent.capture.plan import CapturePlan
    from node_proxy.agent.capture.terms import CaptureRules, CaptureView

# Long enough to open another SSH connection and look; an hour is no trial.
SHORTEST_TRIAL, LONGEST_TRIAL = 1, 3600
# What the shell sees: in force and as planned, or else.
DIFFERS, NOT_INSTALLED = 1, 3
# How many services `verify` dials.
_DIALLED = 5

app = typer.Typer(
    name="capture",
    help="The interception of this host's TCP by nftables: try it, keep it, look at it, take it away.",
    no_args_is_help=True,
)


@app.command()
def install(
    config_path: ConfigOption = config.DEFAULT_CONFIG,
    workloads: WorkloadsOption = None,
    confirm_within: Annotated[
        str | None, typer.Option(help="Roll back unless `capture confirm` is given in time: 60s, 5m.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it and change nothing.")] = False,
) -> None:
    """Put the interception in force that the files describe."""
    from node_proxy.agent.capture.apply import present_cgroups
    from node_proxy.agent.capture.describe import describe
    from node_proxy.agent.capture.watchdog import start_watchdog

    with _faults():
        within = None if confirm_within is None else _seconds(confirm_within)
        node = config.load(config_path, workloads=workloads)
        rules, view, wanted = _planned(node)
        for line in describe(rules, view, wanted):
            typer.echo(line)
        if dry_run:
            typer.echo(f"\n{wanted.ruleset(present_cgroups(wanted))}", nl=False)
            for network in wanted.routes:
                typer.echo(f"# ip route add {network} dev lo")
            return
        if not node.proxy.capture.enabled:
            raise ConfigError(
                f"{config_path}: capture.enabled: is false, so the proxy would not take what is redirected; "
                "write enabled = true"
            )
        installer = _installer(node)
        if within is None:
            installer.install(wanted, by=_operator())
            typer.echo("installed")
            return
        installer.install_on_trial(
            wanted,
            by=_operator(),
            within=within,
            watch=partial(start_watchdog, installer.records.directory),
        )
    typer.echo(f"installed; rolled back in {within:g} s unless you run: nodemesh-proxy capture confirm")


@app.command()
def confirm(config_path: ConfigOption = config.DEFAULT_CONFIG) -> None:
    """Keep what was installed on trial."""
    with _faults():
        if not _installer(config.load(config_path)).confirm():
            raise ConfigError(
                "nothing waits to be confirmed: it was never on trial, or was rolled back in time"
            )
    typer.echo("confirmed")


@app.command()
def status(config_path: ConfigOption = config.DEFAULT_CONFIG, workloads: WorkloadsOption = None) -> None:
    """Say what is in force, who installed it, what it takes, and whether that is what the files describe.

    The exit status is 0 when it is, 1 when it differs, 3 when nothing is installed.
    """
    from node_proxy.agent.capture.describe import describe
    from node_proxy.agent.capture.inspecting import inspect

    with _faults():
        node = config.load(config_path, workloads=workloads)
        rules, view, wanted = _planned(node)
        found = inspect(_installer(node), wanted)
        for line in found.lines:
            typer.echo(line)
        if found.installed:
            for line in describe(rules, view, wanted):
                typer.echo(f"{'planned, ' if found.differs else ''}{line}")
    if not found.installed:
        raise typer.Exit(NOT_INSTALLED)
    if found.differs:
        raise typer.Exit(DIFFERS)


@app.command()
def verify(config_path: ConfigOption = config.DEFAULT_CONFIG, workloads: WorkloadsOption = None) -> None:
    """Dial through the interception and say what came of it."""
    from node_proxy.agent.capture.verify import verify as dial_all

    failed = False
    with _faults():
        node = config.load(config_path, workloads=workloads)
        rules, view, wanted = _planned(node)
        targets = [
            (name, (view.vips[name][0], view.ports[name][0]))
            for name in sorted(filter(rules.wants, view.vips))
            if view.vips[name] and view.ports.get(name)
        ]
        for check in dial_all(node.proxy.capture, rules, wanted, targets[:_DIALLED]):
            word = {True: "ok", False: "FAILED", None: "?"}[check.passed]
            typer.echo(f"{word:6} {check.what}: {check.found}")
            failed |= check.passed is False
    if failed:
        raise typer.Exit(DIFFERS)


@app.command()
def uninstall(
    config_path: ConfigOption = config.DEFAULT_CONFIG,
    after_stop: Annotated[
        bool,
        typer.Option(
            "--after-stop",
            help="As ExecStopPost of the unit: only where on_failure and keep_on_stop say so.",
        ),
    ] = False,
) -> None:
    """Take table and routes away; what is gone already is no error."""
    from node_proxy.agent import source_routing

    with _faults():
        node = config.load(config_path)
        installer = _installer(node)
        if not after_stop:
            installer.uninstall()
            source_routing.remove()
            typer.echo("uninstalled")
        elif node.proxy.capture.enabled and not _kept_after_stop(node.proxy) and installer.release():
            source_routing.remove()
            typer.echo("uninstalled after the stop")


def _kept_after_stop(proxy: config.ProxyConfig) -> bool:
    # systemd.exec(5): how the service ended.
    if os.environ.get("SERVICE_RESULT") == "success":
        return proxy.capture.keep_on_stop
    return proxy.capture.on_failure == "closed"


def _planned(node: config.NodeConfig) -> tuple["CaptureRules", "CaptureView", "CapturePlan"]:
    from node_proxy.agent.capture.inputs import cached_view, capture_rules
    from node_proxy.agent.capture.plan import plan

    rules, view = capture_rules(node), cached_view(node)
    return rules, view, plan(rules, view)


def _installer(node: config.NodeConfig) -> "Installer":
    from node_proxy.agent.capture.apply import Kernel
    from node_proxy.agent.capture.installing import Installer
    from node_proxy.agent.capture.record import RecordFile

    return Installer(records=RecordFile(Path(node.proxy.state_dir)), kernel=Kernel())


def _operator() -> str:
    # Whoever logged in, not the root they became.
    return os.environ.get("SUDO_USER") or getpass.getuser()


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,5})(s|m)?", text)
    if match is None:
        raise ConfigError(f"--confirm-within: {text!r} is no time; write 60s or 5m")
    seconds = float(match[1]) * (60 if match[2] == "m" else 1)
    if not SHORTEST_TRIAL <= seconds <= LONGEST_TRIAL:
        raise ConfigError(
            f"--confirm-within: {text} is out of bounds; write {SHORTEST_TRIAL}s to {LONGEST_TRIAL}s"
        )
    return seconds


@contextmanager
def _faults() -> Iterator[None]:
    with faults_in_one_line():
        try:
            yield
        except OSError as error:
            raise ConfigError(f"{error.filename or 'state_dir'}: {error.strerror}; are you root?") from error
