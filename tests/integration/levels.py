"""What a running worker holds, seen from outside: memory, descriptors, and what it reports as open."""

import os
from dataclasses import dataclass

from node_proxy.control import Report
from node_proxy.dataplane import telemetry
from tests.integration.worker import LogLine, Worker
from tests.support.processes import wait_until

# Longer than any count takes to settle; only keeps a broken test from hanging.
PATIENCE = 30.0
DRAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Level:
    """Resident bytes and descriptors of a process."""

    memory: int
    descriptors: int


def level(worker: Worker) -> Level:
    """Give what the worker holds now."""
    return Level(worker.memory(), len(os.listdir(f"/proc/{worker.process.pid}/fd")))


def total(report: Report, name: str, **labels: str) -> float:
    """Add up the samples of this name that have these labels."""
    return sum(
        sample.value
        for sample in report.samples
        if sample.name == name and labels.items() <= dict(sample.labels).items()
    )


def wait_open(worker: Worker, count: int) -> Report:
    """Wait for a report of so many open connections; give it."""

    def reported() -> Report | None:
        report = worker.wait_report()
        return report if total(report, telemetry.CONNECTIONS_OPEN) == count else None

    report = wait_until(reported, what=f"{count} connections open at {worker.node}", deadline=PATIENCE)
    assert report is not None
    return report


def drain(worker: Worker) -> LogLine:
    """Let the worker finish what it has and end; give its last words, which count what it had to cut."""
    worker.drain(DRAIN_SECONDS)
    assert worker.wait_exit() == 0
    return worker.wait_log("worker stopped")
