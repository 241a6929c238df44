"""What a tunnel's other streams cost a flow of short requests: ``python -m tests.bench.starvation``.

One pair of workers, two tunnels. In the one are a bulk flow, a stream whose reader does not read, and an
asker; in the other is an asker alone. They ask in turns, so both meet the same machine under the same load,
and the ratio of their latencies is what the company in the tunnel costs.
"""

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from node_proxy.dataplane import telemetry
from tests.bench.jobs import Figures, JobFailed
from tests.bench.results import describe_machine
from tests.bench.subjects import CALLER, LOOPBACK, SERVICE
from tests.integration.certificates import Authority, spiffe
from tests.integration.hogs import stuff
from tests.integration.levels import total, wait_open
from tests.integration.snapshots import endpoint, local, service, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import call, read_exactly
from tests.support.processes import REPOSITORY, Process, Processes

OUTPUT = REPOSITORY / ".cache" / "bench"
# The bulk flow goes up from the callers' host, or down to it; each way has a caller and a service.
CALLERS = {"up": "pour", "down": "drain"}
SERVICES = {"up": "sink", "down": "spring"}
# A tunnel is shared by identities, so the asker that is to be apart asks a service with another one.
APART = spiffe("apart")
_PORT = 80
_PROGRAMS = "tests.support.programs."
_QUESTION = b"x" * 100
# More than windows and buffers hold.
_FLOOD = 256 << 20
# For the windows of the bulk flow to grow to what they stay at.
_WARM_UP_SECONDS = 1.0


@dataclass
class Latencies:
    """Seconds of each request, by who asked."""

    beside: list[float] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)

    def figures(self, way: str) -> Figures:
        """Give the percentiles in µs and the ratio of the last, for bulk that went this way."""
        figures = {
            f"p{percent}_{name}_{way}": 1e6 * sorted(values)[len(values) * percent // 100]
            for percent in (50, 99)
            for name, values in (("apart", self.apart), ("beside", self.beside))
        }
        ratio = figures[f"p99_beside_{way}"] / figures[f"p99_apart_{way}"]
        return {f"asked_{way}": len(self.beside), **figures, f"starved_{way}": ratio}


class Scene:
    """The running pair; `ports` are those where callers reach each service."""

    def __init__(self, near: Worker, far: Worker, processes: Processes) -> None:
        self.ports = {name.removeprefix("default/").partition(":")[0]: at for name, at in near.ports.items()}
        self._far = far
        self._processes = processes

    def measure(self, way: str, seconds: float) -> Latencies:
        """Ask for so many seconds while bulk goes that way.

        Raises:
            JobFailed: the flows are not in the tunnels where they should be.
        """
        latencies = Latencies()
        with contextlib.ExitStack() as stack:
            askers = [
                (stack.enter_context(call(self.ports[where])), kept)
                for where, kept in (("beside", latencies.beside), ("apart", latencies.apart))
            ]
            stuck = stack.enter_context(call(self.ports["stuck"]))
            bulk = _start(self._processes, CALLERS[way], str(self.ports[SERVICES[way]]))
            stack.callback(bulk.kill)
            # All in their tunnels before any is filled, since what comes later may be given another.
            tunnels = total(wait_open(self._far, len(askers) + 2), telemetry.TUNNELS_OPEN)
            if tunnels != len(askers):
                raise JobFailed(f"the flows are in {tunnels:.0f} tunnels instead of {len(askers)}")
            stuff(stuck, _FLOOD)
            time.sleep(_WARM_UP_SECONDS)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                for connection, kept in askers:
                    kept.append(_ask(connection))
            if not bulk.running():
                raise JobFailed(f"the bulk flow ended\n{bulk.tail()}")
        return latencies


@contextlib.contextmanager
def open_scene(processes: Processes) -> Iterator[Scene]:
    """Run the pair with its services."""
    authority = Authority("bench")
    beside, apart = (_serve(processes, "echo_service", name) for name in ("beside", "apart"))
    ends = {name: _serve(processes, "bulk", name, name) for name in SERVICES.values()}
    # Nobody accepts what the kernel takes here, so nobody reads it either.
    with socket.create_server((LOOPBACK, 0)) as unread:
        together = {"beside": beside, "stuck": unread.getsockname()[1], **ends}
        near = Worker(
            "near", "127.0.0.2", calls=[(f"default/{name}", _PORT, CALLER) for name in (*together, "apart")]
        )
        far = Worker("far", "127.0.0.3")
        with stopping(near, far):
            far.start(
                snapshot(far, workloads=(local("api", *together.values()), local("apart", apart))),
                [authority.issue(SERVICE), authority.issue(APART)],
                authority.root_pem,
            )
            targets = [(name, port, SERVICE) for name, port in together.items()] + [("apart", apart, APART)]
            views = tuple(
                service(
                    f"default/{name}",
                    _PORT,
                    endpoint(far.node, far.address, far.tunnel_port, port, identity=identity),
                )
                for name, port, identity in targets
            )
            near.start(
                snapshot(near, services=views, workloads=(local("web"),)),
                [authority.issue(CALLER)],
                authority.root_pem,
            )
            yield Scene(near, far, processes)


def measure_starvation(processes: Processes, seconds: float) -> Figures:
    """Ask for so many seconds beside bulk of each way.

    Raises:
        JobFailed: a flow ended, was answered wrongly, or is in another tunnel than it should be; or a worker
            is in trouble.
    """
    figures: Figures = {}
    for way in CALLERS:
        # A pair of its own, whose tunnels have no history.
        try:
            with open_scene(processes) as scene:
                figures |= scene.measure(way, seconds).figures(way)
        except AssertionError as error:
            # How processes of tests say what is wrong with them.
            raise JobFailed(str(error)) from error
    return figures


def _ask(connection: socket.socket) -> float:
    began = time.perf_counter()
    connection.sendall(_QUESTION)
    if read_exactly(connection, len(_QUESTION)) != _QUESTION:
        raise JobFailed("a wrong answer")
    return time.perf_counter() - began


def _start(processes: Processes, name: str, *arguments: str) -> Process:
    return processes.start_module(name, [], f"{_PROGRAMS}bulk", name, *arguments)


def _serve(processes: Processes, program: str, name: str, *arguments: str) -> int:
    """Start a service; give its port."""
    process = processes.start_module(name, [], _PROGRAMS + program, *arguments)
    return int(process.wait_log("serving").rpartition(" ")[2])


def main() -> int:
    """Measure each way, print, and keep the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.starvation", description="Measure what sharing a tunnel costs."
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="how long to ask, for each way of the bulk"
    )
    given = parser.parse_args()
    console, date = Console(highlight=False), datetime.now(UTC)
    with (
        tempfile.TemporaryDirectory(prefix="nodemesh-bench-") as folder,
        Processes(Path(folder)) as processes,
    ):
        figures = measure_starvation(processes, given.seconds)
    console.print(_table(figures))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    kept = OUTPUT / f"{date:%Y%m%d-%H%M%S}-starvation.json"
    document = {"date": date.isoformat(timespec="seconds"), "machine": describe_machine(), "figures": figures}
    kept.write_text(json.dumps(document, indent=1))
    console.print(
        f"Beside: in the tunnel of the bulk flow and a stalled reader. Apart: in another one. {kept}",
        style="dim",
        soft_wrap=True,
    )
    return 0


def _table(figures: Figures) -> Table:
    table = Table("bulk", box=None, header_style="bold", pad_edge=False)
    for title in ("requests", "p50 apart, µs", "p50 beside", "p99 apart", "p99 beside", "p99 ÷"):
        table.add_column(title, justify="right")
    for way in CALLERS:
        texts = [
            f"{value:,.{2 * ('starved' in name)}f}" for name, value in figures.items() if name.endswith(way)
        ]
        table.add_row(way, *texts)
    return table


if __name__ == "__main__":
    sys.exit(main())
