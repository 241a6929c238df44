"""How much of a job each worker of a host had: connections, tunnels, CPU seconds."""

import statistics
from collections.abc import Iterator, Mapping

from node_proxy.dataplane import telemetry
from tests.bench.jobs import Figures, Job
from tests.bench.nodemesh import Pair
from tests.bench.results import Outcome
from tests.bench.subjects import Subject
from tests.bench.usage import cpu_seconds
from tests.integration.levels import total

# Of the callers' host and of the service's, with what telemetry calls their connections and tunnels.
SIDES = {"near": "outbound", "far": "inbound"}


def watched(job: Job, pairs: Mapping[str, Pair]) -> Job:
    """Let a job of one of these pairs also give what each worker had of it (`key`)."""

    def run(subject: Subject) -> Figures:
        pair = pairs[subject.name]
        before = _take_stock(pair)
        figures = job.run(subject)
        after = _take_stock(pair)
        # Tunnels live longer than a job, so they are all that were opened until its end.
        figures |= {
            key(job.name, *each): value - (0 if each[1] == "tunnels" else before[each])
            for each, value in after.items()
        }
        return figures

    return Job(job.name, run)


def key(job: str, side: str, what: str, index: int) -> str:
    """Name a figure: ``connections``, ``tunnels`` or ``cpu`` seconds of a job that a worker of a side had."""
    return f"{job}, {side} {index}, {what}"


def parts(outcome: Outcome, job: str, side: str, what: str) -> list[list[float]]:
    """Give the figures of each round for each worker."""
    found: list[list[float]] = []
    while values := outcome.figures.get(key(job, side, what, len(found))):
        found.append(values)
    return found


def evenness(workers: list[list[float]]) -> list[float]:
    """Say for each round how much of an equal part the worker with the least had: 1 is even, 0 idle."""
    return [min(values) / mean for values in zip(*workers, strict=True) if (mean := statistics.mean(values))]


def _take_stock(pair: Pair) -> dict[tuple[str, str, int], float]:
    """Give what each worker has done since it started, by side, what it is, and the worker's place."""
    return dict(_each(pair))


def _each(pair: Pair) -> Iterator[tuple[tuple[str, str, int], float]]:
    workers = {"near": pair.near, "far": pair.far}
    # At once, and what happens while they report is nothing.
    used = {side: [cpu_seconds([worker.process]) for worker in workers[side]] for side in SIDES}
    pair.wait_reports()
    for side, direction in SIDES.items():
        for index, worker in enumerate(workers[side]):
            report = worker.reports[-1]
            yield (side, "connections", index), total(report, telemetry.CONNECTIONS_OPENED, side=direction)
            yield (side, "tunnels", index), total(report, telemetry.TUNNELS_OPENED, side=direction)
            yield (side, "cpu", index), used[side][index]
