"""Runs the demo: ``python -m tests.demo``. KEEP=1 in the environment leaves its mesh running until Ctrl-C.

Exits with 0 when every claim held, with 1 when one did not.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from rich.console import Console

from tests.demo import acts
from tests.demo.layout import Layout, open_layout
from tests.demo.report import Report
from tests.support.hosts import CommandFailed, can_make_namespaces
from tests.support.mesh import PREFIX, command
from tests.support.namespaces import remaining
from tests.support.plans import render_denial
from tests.support.processes import ProcessFailed

# What an act may end with when the mesh does not do what it should; anything else is a bug of the demo.
_LET_DOWN = (ProcessFailed, CommandFailed, TimeoutError)

# For a log or a pipe, which have no width of their own.
_PLAIN_WIDTH = 110


def main() -> int:
    """Run all acts and give the exit status."""
    # A terminal's hang-up or a kill must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    report = Report(console)
    namespaces = can_make_namespaces()
    keep = os.environ.get("KEEP", "") not in ("", "0")
    report.title("nodemesh: three hosts on this machine")
    report.say(
        "As root: each host is a network namespace, and nftables captures its calls to the services."
        if namespaces
        else "Not root: each host is a loopback address, and its calls go to explicit listeners. "
        "(As root the hosts are network namespaces and plain calls are captured.)"
    )
    try:
        with open_layout(namespaces=namespaces) as layout:
            folder, processes = layout.mesh.folder, layout.mesh.processes
            seconds = _play(layout, report)
            if keep:
                _keep(layout, report)
    except KeyboardInterrupt:
        console.print("\n  stopped; what was started has been ended")
        return 130
    except _LET_DOWN as error:
        console.print("\n".join(getattr(error, "__notes__", [])), markup=False)
        console.print(f"\n  the mesh did not come up: {error}", style="bold red", markup=False)
        return 1
    report.title("The end")
    left = [*remaining(), *map(str, processes.survivors()), *([str(folder)] if folder.exists() else [])]
    report.claim("nothing is left behind", not left, ", ".join(left) or "no namespace, process or file")
    return 0 if report.verdict(seconds) else 1


def _play(layout: Layout, report: Report) -> float:
    """Set up, then play every act; give the seconds they took, set-up not counted."""
    taps = acts.set_up(layout, report)
    began = time.monotonic()
    play: dict[str, Callable[[Layout, Report], None]] = {
        "the path": acts.show_the_path,
        "the wire": partial(acts.show_the_wire, taps=taps),
        "the policy": acts.show_a_policy,
        "the failover": acts.show_a_failover,
        "the outage": acts.show_an_outage,
    }
    for name, act in play.items():
        try:
            act(layout, report)
        except _LET_DOWN as error:
            report.claim(f"{name} could be shown", False, str(error))
    return time.monotonic() - began


def _keep(layout: Layout, report: Report) -> None:
    """Say what to try and wait for Ctrl-C."""
    mesh = layout.mesh
    control = " ".join(mesh.control.prefix)
    meshctl = f"{control} {command('meshctl')} --config {mesh.meshctl_config}".strip()
    etcdctl = f"{control} {' '.join(mesh.etcdctl_command())}".strip()
    policy = mesh.folder / "deny.yaml"
    policy.write_text(render_denial("mine", of="api", source="web", port=layout.port("api")))
    key = f"{PREFIX}authorizationpolicies/default/mine"
    report.title("Left running: what to try in another terminal")
    report.command(layout.typed("web-1", f"curl {layout.api_url}"))
    report.command(layout.typed("web-1", f"curl {layout.web_url}"))
    report.command(f"{meshctl} node list")
    report.command(f"{meshctl} service get default/api")
    report.command(f"{meshctl} proxy status")
    report.command(f"{etcdctl} put {key} < {policy}")
    report.command(f"{etcdctl} del {key}")
    report.command(layout.typed("web-1", f"curl http://{layout.plans['web-1'].admin}/metrics"))
    report.say(f"Logs and configuration are in {mesh.folder}. Ctrl-C ends it all.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
