"""The jobs: each drives one subject for some seconds and gives figures by the names in `METRICS`."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.subjects import LOOPBACK, Subject, find_program
from tests.bench.usage import cpu_seconds, resident_bytes

IDLE_CONNECTIONS = 1000
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
# Beyond its seconds a job only starts and stops its program.
_PATIENCE = 20.0
# For what was closed or opened to be noticed at every hop.
_SETTLE = 1.0
_WRK_REPORT = """
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\nfigures {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""

Figures = dict[str, float]


class JobFailed(Exception):
    """A job gave no figures; the message says what its program said."""


@dataclass(frozen=True)
class Metric:
    """How a figure is called and read. `more` says whether more of it is better."""

    label: str
    unit: str
    more: bool
    digits: int = 0


METRICS = {
    "up1": Metric("bulk up, 1 flow", "Gbit/s", more=True, digits=2),
    "down1": Metric("bulk down, 1 flow", "Gbit/s", more=True, digits=2),
    "up8": Metric("bulk up, 8 flows", "Gbit/s", more=True, digits=2),
    "down8": Metric("bulk down, 8 flows", "Gbit/s", more=True, digits=2),
    "cpu_up": Metric("CPU, bulk up", "s/GB", more=False, digits=2),
    "cpu_down": Metric("CPU, bulk down", "s/GB", more=False, digits=2),
    "p50_1": Metric("wrk -c1 p50", "µs", more=False),
    "p99_1": Metric("wrk -c1 p99", "µs", more=False),
    "rate_1": Metric("wrk -c1", "requests/s", more=True),
    "cpu_1": Metric("CPU, wrk -c1", "s/1,000", more=False, digits=3),
    "p50_32": Metric("wrk -c32 p50", "µs", more=False),
    "p99_32": Metric("wrk -c32 p99", "µs", more=False),
    "rate_32": Metric("wrk -c32", "requests/s", more=True),
    "cpu_32": Metric("CPU, wrk -c32", "s/1,000", more=False, digits=3),
    "rate_64": Metric("wrk -c64", "requests/s", more=True),
    "rate_new": Metric("new connections", "1/s", more=True),
    "cpu_new": Metric("CPU, new connections", "s/1,000", more=False, digits=3),
    # By `starvation`: p99 in the tunnel of a bulk flow and a stalled reader, by that in another tunnel.
    "starved_up": Metric("p99 beside bulk up ÷ apart", "×", more=False, digits=2),
    "starved_down": Metric("p99 beside bulk down ÷ apart", "×", more=False, digits=2),
    "errors": Metric("requests that failed", "", more=False),
    "rss_idle": Metric("RSS at start", "MB", more=False, digits=1),
    "rss_held": Metric("RSS, 1,000 idle connections", "MB", more=False, digits=1),
    "rss_each": Metric("RSS per idle connection", "KB", more=False, digits=1),
    "rss_after": Metric("RSS after all jobs", "MB", more=False, digits=1),
}


@dataclass(frozen=True)
class Job:
    """A measurement that is repeated in each round."""

    name: str
    run: Callable[[Subject], Figures]


def repeated_jobs(folder: Path, seconds: int) -> list[Job]:
    """Give the jobs of a round, of so many seconds each; they keep a file in `folder`."""
    return [
        *(bulk_job(seconds, way, flows) for flows in (1, 8) for way in ("up", "down")),
        *(request_job(folder, seconds, connections) for connections in (1, 32)),
        request_job(folder, seconds, 32, new=True),
    ]


def bulk_job(seconds: int, way: str, flows: int) -> Job:
    """Give the job of so many iperf3 flows, ``up`` to the service or ``down`` from it."""

    def run(subject: Subject) -> Figures:
        command = [find_program("iperf3", "iperf3"), "-c", LOOPBACK, "-p", str(subject.ports.bulk), "--json"]
        command += ["-t", str(seconds), "-P", str(flows), *(["-R"] if way == "down" else [])]
        before = cpu_seconds(subject.sides)
        answer = _parse(_output(command, seconds))
        used = cpu_seconds(subject.sides) - before
        if "error" in answer:
            raise JobFailed(answer["error"])
        received = answer["end"]["sum_received"]
        figures = {f"{way}{flows}": received["bits_per_second"] / 1e9}
        return figures | _cpu(subject, f"cpu_{way}", used, received["bytes"] / 1e9)

    return Job(f"bulk {way}, {flows} flow{'s' * (flows > 1)}", run)


def request_job(folder: Path, seconds: int, connections: int, *, new: bool = False) -> Job:
    """Give the job of so many wrk connections, with a `new` one for each request or not."""
    name = "new" if new else str(connections)
    options = ["-H", "Connection: close"] if new else []
    script = folder / "report.lua"
    script.write_text(_WRK_REPORT)

    def run(subject: Subject) -> Figures:
        command = [find_program("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
        command += [*options, f"http://{LOOPBACK}:{subject.ports.http}/"]
        before = cpu_seconds(subject.sides)
        output = _output(command, seconds)
        used = cpu_seconds(subject.sides) - before
        answer = _parse(output.rpartition("figures ")[2])
        if not answer["requests"]:
            raise JobFailed(output)
        figures = {f"rate_{name}": answer["requests"] / answer["seconds"]}
        if answer["errors"]:
            figures["errors"] = answer["errors"]
        if not new:
            figures |= {f"p50_{name}": answer["p50"], f"p99_{name}": answer["p99"]}
        return figures | _cpu(subject, f"cpu_{name}", used, answer["requests"] / 1000)

    return Job("new connections" if new else f"wrk -c{connections}", run)


def hold_idle_connections(subject: Subject) -> Figures:
    """Hold a thousand connections that were used once; give memory before and meanwhile."""
    if not subject.sides:
        return {}
    before = resident_bytes(subject.sides)
    with ExitStack() as held:
        for _ in range(IDLE_CONNECTIONS):
            address = (LOOPBACK, subject.ports.http)
            connection = held.enter_context(socket.create_connection(address, _PATIENCE))
            connection.sendall(_REQUEST)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise JobFailed("an idle connection got no answer")
        time.sleep(_SETTLE)
        meanwhile = resident_bytes(subject.sides)
    growth = max(held - free for held, free in zip(meanwhile, before, strict=True))
    return {
        "rss_idle": max(before) / 1e6,
        "rss_held": max(meanwhile) / 1e6,
        "rss_each": growth / 1e3 / IDLE_CONNECTIONS,
    }


def measure_memory_left(subject: Subject) -> Figures:
    """Give the memory that is still used when all is done."""
    return {"rss_after": max(resident_bytes(subject.sides)) / 1e6} if subject.sides else {}


def _cpu(subject: Subject, name: str, used: float, work: float) -> Figures:
    return {name: used / work} if subject.sides else {}


def _output(command: Sequence[str], seconds: int) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + _PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise JobFailed(f"{command[0]} did not end") from error
    if not done.stdout:
        raise JobFailed(done.stderr)
    return done.stdout


def _parse(text: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise JobFailed(f"not JSON: {text[-1000:]}") from error
    return answer
