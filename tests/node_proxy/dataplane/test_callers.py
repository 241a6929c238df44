import socket
from collections.abc import Iterator
from typing import cast

import pytest

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.callers import Callers, UnknownCaller
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.owner_lookup import OwnerLookup
from node_proxy.owners import Process
from node_proxy.snapshot import LocalWorkload, OwnerRule
from tests.fakes.context import NODE, Scene, scene, snapshot
from tests.integration.certificates import TRUST_DOMAIN, spiffe
from tests.integration.snapshots import local, owned

WEB_PROCESS = Process(33, "/system.slice/web.service")
CRON = Process(0, "/system.slice/cron.service")
WEB = owned("web", OwnerRule(unit="web.service"))
BATCH = owned("batch", OwnerRule(uid=7))
NODE_IDENTITY = f"spiffe://{TRUST_DOMAIN}/node/{NODE}"


class Kernel:
    """Says who called, and counts how often it is asked."""

    def __init__(self, process: Process) -> None:
        self.process_ = process
        self.asked: list[bool] = []

    def process(self, _accepted: socket.socket, *, redirected: bool) -> Process:
        """Answer."""
        self.asked.append(redirected)
        return self.process_


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        yield made


def callers(
    kernel: Kernel, *workloads: LocalWorkload, default: str | None = None, refuse: bool = False
) -> tuple[Callers, Scene]:
    """Give what chooses, over these workloads."""
    stage = scene(snapshot(workloads=workloads))
    lookup = cast("OwnerLookup", kernel)
    return Callers(stage.context, lookup, default=default, refuse_unknown=refuse), stage


def speaks(chosen: Caller | UnknownCaller) -> str:
    """Give the identity that was chosen."""
    return chosen.text if isinstance(chosen, Caller) else "refused"


def test_captured_by_owner(sock: socket.socket) -> None:
    """A captured connection speaks for the workload that its caller belongs to, and says who that was."""
    kernel = Kernel(WEB_PROCESS)
    chosen, stage = callers(kernel, WEB, BATCH, local("api"), default=spiffe("api"))
    caller = chosen.captured(sock)
    assert speaks(caller) == spiffe("web")
    assert caller.process == WEB_PROCESS
    assert kernel.asked == [True]
    assert stage.counted(telemetry.CALLERS, outcome="workload") == 1


@pytest.mark.parametrize(
    ("process", "default", "refuse", "expected"),
    [
        (CRON, "api", False, spiffe("api")),
        (CRON, None, False, NODE_IDENTITY),
        (CRON, None, True, "refused"),
        (CRON, "web", False, NODE_IDENTITY),
        (Process(), "api", False, NODE_IDENTITY),
        (Process(7, None), "api", False, NODE_IDENTITY),
        (Process(), "api", True, "refused"),
    ],
)
def test_captured_of_no_workload(
    sock: socket.socket, process: Process, default: str | None, refuse: bool, expected: str
) -> None:
    """Others speak for the default if it is open to all and it is certain that they are others."""
    chosen, _ = callers(
        Kernel(process), WEB, BATCH, local("api"), default=default and spiffe(default), refuse=refuse
    )
    caller = chosen.captured(sock)
    assert speaks(caller) == expected
    assert caller.process == process


@pytest.mark.parametrize(("default", "expected"), [("api", spiffe("api")), (None, NODE_IDENTITY)])
def test_where_nothing_is_declared(sock: socket.socket, default: str | None, expected: str) -> None:
    """Where no workload says who speaks for it, the kernel is not asked."""
    kernel = Kernel(WEB_PROCESS)
    chosen, _ = callers(kernel, local("api"), default=default and spiffe(default))
    assert speaks(chosen.captured(sock)) == expected
    assert speaks(chosen.explicit(sock, None)) == expected
    assert kernel.asked == []


@pytest.mark.parametrize(
    ("process", "speaks_for", "expected"),
    [
        (WEB_PROCESS, "web", spiffe("web")),
        (Process(7, "/x.slice"), "web", NODE_IDENTITY),
        (CRON, "web", NODE_IDENTITY),
        (Process(), "web", NODE_IDENTITY),
        (WEB_PROCESS, "api", spiffe("api")),
        (WEB_PROCESS, None, spiffe("web")),
        (CRON, None, NODE_IDENTITY),
    ],
)
def test_explicit(sock: socket.socket, process: Process, speaks_for: str | None, expected: str) -> None:
    """A listener for a workload that declares its processes is for those alone; others are as they were."""
    kernel = Kernel(process)
    chosen, _ = callers(kernel, WEB, BATCH, local("api"))
    assert speaks(chosen.explicit(sock, speaks_for and spiffe(speaks_for))) == expected
    assert kernel.asked == ([] if speaks_for == "api" else [False])


def test_tables_in_force(sock: socket.socket) -> None:
    """What is declared counts from the moment it is in force."""
    chosen, stage = callers(Kernel(WEB_PROCESS), local("web"))
    assert speaks(chosen.captured(sock)) == NODE_IDENTITY
    stage.enforce(snapshot(workloads=(WEB,)))
    assert speaks(chosen.captured(sock)) == spiffe("web")
