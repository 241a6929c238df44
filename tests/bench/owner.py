"""What it costs to learn who called: ``python -m tests.bench.owner``; as root also behind a redirect.

Connections are made first, then each is asked about once, as the worker does for each that it accepts.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import structlog

from node_proxy.agent.capture.apply import Kernel
from node_proxy.agent.capture.plan import plan
from node_proxy.agent.capture.terms import CaptureRules, CaptureView
from node_proxy.dataplane.callers import Callers
from node_proxy.dataplane.cgroups import Cgroups
from node_proxy.dataplane.owner_lookup import OwnerLookup
from node_proxy.snapshot import OwnerRule
from tests.fakes.context import scene, snapshot
from tests.integration.snapshots import local, owned

PORT, VIRTUAL = 15001, "240.240.0.7"
BATCH = 200
# What a host of many services declares.
DECLARED = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.owner", description="Cost of the owner look-up."
    )
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--redirected", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if given.redirected:
        _measure_redirected(given.connections)
        return
    with socket.create_server(("127.0.0.1", 0), backlog=BATCH) as listener:
        target = listener.getsockname()
        _report("no workload declares an owner", given.connections, listener, target, declared=0)
        _report("explicit listener", given.connections, listener, target, declared=DECLARED)
    if os.geteuid() == 0:
        command = [sys.executable, "-m", "tests.bench.owner", "--redirected"]
        subprocess.run(["unshare", "--net", *command, "--connections", str(given.connections)], check=True)


def _measure_redirected(count: int) -> None:
    for line in ("link set lo up", "addr add 10.77.0.1/32 dev lo"):
        subprocess.run(["ip", *line.split()], check=True)
    view = CaptureView(vip_ranges=("240.240.0.0/16",), vips={"default/api": (VIRTUAL,)})
    wanted, kernel = plan(CaptureRules(port=PORT, mark=1), view), Kernel()
    kernel.add_route(wanted.routes[0])
    kernel.load(wanted.ruleset({}))
    with socket.create_server(("127.0.0.1", PORT), backlog=BATCH) as listener:
        _report("captured by nftables", count, listener, (VIRTUAL, 80), declared=DECLARED)


def _report(
    what: str, count: int, listener: socket.socket, target: tuple[str, int], *, declared: int
) -> None:
    workloads = [owned(f"w{number}", OwnerRule(unit=f"w{number}.service")) for number in range(declared)]
    mine = owned("me", OwnerRule(uid=os.geteuid())) if declared else local("me")
    stage = scene(snapshot(workloads=(*workloads, mine)))
    tables = stage.context.enforced.tables
    lookup = OwnerLookup(stage.context, Cgroups(time.monotonic, lambda: tables.owners.rules))
    callers = Callers(
        stage.context, lookup, default=None if declared else mine.identity, refuse_unknown=False
    )
    redirected = listener.getsockname()[:2] != target

    def ask(accepted: socket.socket) -> None:
        caller = callers.captured(accepted) if redirected else callers.explicit(accepted, None)
        if getattr(caller, "text", "") != mine.identity:
            raise AssertionError(f"{caller} is not who called")

    times = sorted(_times(ask, count, listener, target))
    lookup.close()
    print(
        f"{what:32} median {statistics.median(times):6.1f} µs   mean {statistics.fmean(times):6.1f} µs   "
        f"99 % below {times[int(len(times) * 0.99)]:6.1f} µs",
        flush=True,
    )


def _times(
    ask: Callable[[socket.socket], None], count: int, listener: socket.socket, target: tuple[str, int]
) -> Iterator[float]:
    """Give the microseconds that each question took."""
    for _ in range(0, count, BATCH):
        pairs = [(socket.create_connection(target), listener.accept()[0]) for _ in range(BATCH)]
        for _caller, accepted in pairs:
            began = time.perf_counter()
            ask(accepted)
            yield (time.perf_counter() - began) * 1e6
        for pair in pairs:
            for each in pair:
                each.close()


if __name__ == "__main__":
    main()
