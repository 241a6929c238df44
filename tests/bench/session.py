"""What a measurement is run with: a console, a folder with its processes, a place for the figures."""

import contextlib
import json
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from tests.bench.report import WIDTH
from tests.bench.run import Bench
from tests.bench.subjects import Missing
from tests.support.processes import REPOSITORY, Processes

OUTPUT = REPOSITORY / ".cache" / "bench"


def run(main: Callable[[], int]) -> None:
    """Run a program to its exit status; SIGTERM ends it as Ctrl-C does, with all that it started."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(main())
    except Missing as error:
        sys.exit(f"nothing can be measured without {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def make_console() -> Console:
    """Give a console that is wide enough for the tables where nobody folds its lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


@contextlib.contextmanager
def open_bench(console: Console) -> Iterator[Bench]:
    """Give a benchmark in a temporary folder; leaving ends what it started."""
    # A thousand connections are held here, and each proxy has two ends of each.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with (
        tempfile.TemporaryDirectory(prefix="nodemesh-bench-") as folder,
        Processes(Path(folder)) as processes,
        _saying(console) as say,
    ):
        yield Bench(Path(folder), processes, say)


def keep(date: datetime, document: Mapping[str, Any], *, kind: str = "") -> Path:
    """Keep the figures as JSON; `kind` ends the file's name."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    kept = OUTPUT / f"{date:%Y%m%d-%H%M%S}{kind}.json"
    kept.write_text(json.dumps(document, indent=1))
    return kept


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
