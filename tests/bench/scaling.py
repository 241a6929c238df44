"""Whether more workers carry more: ``python -m tests.bench.scaling``.

A pair of hosts with one worker each beside a pair with more, in turn. Each worker is held to a fraction of a
core, so that a machine of a few cores, on which the load runs too, has enough for all: a fraction stands for
a core, and only the ratios say something.
"""

import argparse
import contextlib
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from rich.console import Console
from rich.table import Table

from tests.bench.evenness import evenness, parts, watched
from tests.bench.jobs import METRICS, Job, bulk_job, request_job
from tests.bench.nodemesh import Pair, start_pair
from tests.bench.quota import Group, NoQuota, open_groups
from tests.bench.report import NOTHING, cell_of, label_of, plain_table, print_failures, spread_of
from tests.bench.results import Outcome, describe_machine
from tests.bench.session import keep, make_console, open_bench, run
from tests.bench.subjects import Site, Subject

# What each job is about.
_METRICS = ("rate_64", "rate_new", "up8", "down8")
_SIDES = {"near": "callers' side", "far": "service's side"}
_WHATS = {"connections": "connections", "tunnels": "tunnels", "cpu": "CPU s"}


def main() -> int:
    """Measure with one worker a side and with more, print, and keep the figures."""
    given = _arguments()
    console, date = make_console(), datetime.now(UTC)
    counts = {"1 worker": 1, f"{given.workers} workers": given.workers}
    with contextlib.ExitStack() as stack:
        # Entered first, since groups can be removed only when their workers are gone.
        groups = _open_groups(stack, console, 2 * sum(counts.values()), given.quota)
        limit = f"held to {given.quota} % of a core" if groups else "without a CPU quota"
        bench = stack.enter_context(open_bench(console))
        pairs: dict[str, Pair] = {}
        bench.start({name: partial(_launch, name, count, groups, pairs) for name, count in counts.items()})
        jobs = [
            request_job(bench.folder, given.seconds, 64),
            request_job(bench.folder, given.seconds, 32, new=True),
            *(bulk_job(given.seconds, way, 8) for way in ("up", "down")),
        ]
        bench.repeat([watched(job, pairs) for job in jobs], given.rounds)
    about = f"Each worker {limit}; {given.rounds} × {given.seconds} s a job; {describe_machine()}."
    console.print(_ratios(bench.outcomes))
    console.print()
    console.print(_parts(bench.outcomes, jobs))
    console.print()
    console.print(
        f"{date:%Y-%m-%d %H:%M} UTC. {about} Medians, lowest and highest in brackets. Tunnels are those"
        " opened until then. Evenness is the CPU time of the worker with least, divided by an equal part.",
        style="dim",
    )
    print_failures(console, bench.outcomes)
    document = {
        "date": date.isoformat(timespec="seconds"),
        "about": about,
        "ratios": {metric: _ratio(bench.outcomes, metric) for metric in _METRICS},
        "subjects": {
            name: {"absent": outcome.absent, "failures": outcome.failures, "figures": outcome.figures}
            for name, outcome in bench.outcomes.items()
        },
    }
    console.print(str(keep(date, document, kind="-scaling")), style="dim", soft_wrap=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.scaling", description="Measure what more workers carry more."
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each job is done with each count")
    parser.add_argument("--seconds", type=int, default=2, help="how long each job takes")
    parser.add_argument("--workers", type=int, default=2, help="how many a side are compared with one")
    parser.add_argument("--quota", type=int, default=10, help="how much of a core each may use, in percent")
    given = parser.parse_args()
    if given.workers < 2:
        parser.error("more than one worker is what is compared with one")
    return given


def _open_groups(stack: contextlib.ExitStack, console: Console, count: int, percent: int) -> list[Group]:
    """Make the groups, or say why there are none and nobody is held to anything."""
    try:
        return stack.enter_context(open_groups(count, percent / 100))
    except NoQuota as error:
        console.print(f"measured without CPU quotas: {error}", style="bold red", markup=False)
        return []


def _launch(name: str, count: int, groups: list[Group], pairs: dict[str, Pair], site: Site) -> Subject:
    """Start a pair, keep it by its name, and put each of its workers into a group that is empty."""
    pair = pairs[name] = start_pair(site, workers=count)
    # Only now, for starting takes long in a fraction of a core.
    for worker in pair.workers if groups else ():
        groups.pop().add(worker.process.pid)
    return pair.subject(name)


def _ratio(outcomes: Mapping[str, Outcome], metric: str) -> float | None:
    """Give the median with more workers divided by that with one."""
    one, more = (outcome.median(metric) for outcome in outcomes.values())
    return more / one if one and more else None


def _ratios(outcomes: Mapping[str, Outcome]) -> Table:
    table = plain_table("")
    for title in (*outcomes, "ratio"):
        table.add_column(title, justify="right")
    for metric in _METRICS:
        ratio = _ratio(outcomes, metric)
        cells = [cell_of(METRICS[metric], outcome, metric) for outcome in outcomes.values()]
        table.add_row(label_of(METRICS[metric]), *cells, NOTHING if ratio is None else f"{ratio:.2f}")
    return table


def _parts(outcomes: Mapping[str, Outcome], jobs: Sequence[Job]) -> Table:
    """Show what each worker of a side had."""
    table = plain_table("")
    table.add_column("")
    for what in _WHATS.values():
        for name in outcomes:
            table.add_column(f"{what},\n{name}", justify="right")
    table.add_column("\nevenness", justify="right")
    for job in jobs:
        for side, title in _SIDES.items():
            cells = [
                _sum(parts(outcome, job.name, side, what), 2 * (what == "cpu"))
                for what in _WHATS
                for outcome in outcomes.values()
            ]
            *_, used = (parts(outcome, job.name, side, "cpu") for outcome in outcomes.values())
            table.add_row(job.name, title, *cells, spread_of(evenness(used), 2))
    return table


def _sum(workers: Sequence[Sequence[float]], digits: int) -> str:
    return " + ".join(f"{statistics.median(rounds):,.{digits}f}" for rounds in workers) or NOTHING


if __name__ == "__main__":
    run(main)
