"""Runs the benchmark: ``python -m tests.bench``.

Everything is on loopback and starts at once; then the jobs are taken in turn, subject by subject, in rounds,
so that whatever else the machine does hits all alike. Only the ratios say something, and they say it of this
machine with everything on it.
"""

import argparse
import contextlib
import json
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from tests.bench.report import WIDTH, print_results, write_plot
from tests.bench.results import Results
from tests.bench.run import LAUNCHES, Bench
from tests.bench.subjects import Launch, Missing
from tests.support.processes import REPOSITORY, Processes

OUTPUT = REPOSITORY / ".cache" / "bench"


def main() -> int:
    """Measure, print, and keep the figures."""
    given = _arguments()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    signal.signal(signal.SIGTERM, _interrupt)
    # A thousand connections are held here, and each proxy has two ends of each.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = time.monotonic()
    date = datetime.now(UTC)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nodemesh-bench-")))
        bench = Bench(folder, stack.enter_context(Processes(folder)), stack.enter_context(_saying(console)))
        try:
            bench.start(given.only)
        except Missing as error:
            console.print(f"nothing can be measured without {error}", style="bold red", markup=False)
            return 1
        bench.measure(rounds=given.rounds, seconds=given.seconds)
    results = Results(date, given.seconds, given.rounds, bench.outcomes)
    print_results(console, results)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    kept = OUTPUT / f"{date:%Y%m%d-%H%M%S}.json"
    kept.write_text(json.dumps(results.document(), indent=1))
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


@contextlib.contextmanager
def _saying(console: Console) -> Iterator[Callable[[str], None]]:
    """Give a way to tell what is being done: in one line on a terminal, line by line elsewhere."""
    if not console.is_terminal:
        yield lambda text: console.print(text, style="dim")
        return
    with console.status("starting") as status:
        yield status.update


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
