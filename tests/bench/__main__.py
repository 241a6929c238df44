"""Runs the benchmark: ``python -m tests.bench``.

Everything is on loopback and starts at once; then the jobs are taken in turn, subject by subject, in rounds,
so that whatever else the machine does hits all alike. Only the ratios say something, and they say it of this
machine with everything on it.
"""

import argparse
import time
from datetime import UTC, datetime

from tests.bench.report import print_results, write_plot
from tests.bench.results import Results
from tests.bench.run import LAUNCHES
from tests.bench.session import keep, make_console, open_bench, run
from tests.bench.subjects import Launch


def main() -> int:
    """Measure, print, and keep the figures."""
    given = _arguments()
    console = make_console()
    began = time.monotonic()
    date = datetime.now(UTC)
    with open_bench(console) as bench:
        bench.start(given.only)
        bench.measure(rounds=given.rounds, seconds=given.seconds)
    results = Results(date, given.seconds, given.rounds, bench.outcomes)
    print_results(console, results)
    kept = keep(date, results.document())
    plot = kept.with_suffix(".png")
    drawn = str(plot) if write_plot(plot, results) else "no plot, matplotlib is not installed"
    console.print(f"{time.monotonic() - began:.0f} s in all; {kept}, {drawn}", style="dim", soft_wrap=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Compare proxies, on loopback."
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each job is done for each subject")
    parser.add_argument("--seconds", type=int, default=1, help="how long each job takes")
    parser.add_argument(
        "--only", type=_subjects, default=LAUNCHES, metavar="NAMES", help=f"some of: {', '.join(LAUNCHES)}"
    )
    return parser.parse_args()


def _subjects(names: str) -> dict[str, Launch]:
    wanted = names.replace(",", " ").split() or list(LAUNCHES)
    if unknown := [name for name in wanted if name not in LAUNCHES]:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(LAUNCHES)}")
    return {name: launch for name, launch in LAUNCHES.items() if name in wanted}


if __name__ == "__main__":
    run(main)
