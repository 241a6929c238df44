"""What people see of a run: two tables, and a plot when matplotlib is there."""

import statistics
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.jobs import METRICS, Metric
from tests.bench.results import BEST, OURS, Outcome, Results, describe_machine

# Narrower than this the columns break; what is no terminal can be scrolled.
WIDTH = 190
NOTHING = "–"
_COLOURS = {
    "direct": "#999999",
    "nodemesh": "#d62728",
    "envoy": "#9467bd",
    "nginx": "#2ca02c",
    "haproxy": "#1f77b4",
    "stunnel": "#8c564b",
}


def print_results(console: Console, results: Results) -> None:
    """Print medians with their spread, then our ratios to the others, then what was not measured."""
    console.print(_medians(results))
    if OURS in results.outcomes:
        console.print()
        console.print(_ratios(results))
    console.print()
    console.print(
        f"{results.date:%Y-%m-%d %H:%M} UTC, {describe_machine()}. Medians over {results.rounds} rounds,"
        f" {results.seconds} s a job, taken in turn; lowest and highest in brackets. Load, proxies and"
        " backends shared the cores. Direct is plain TCP. CPU is of both proxies together, memory of the"
        " larger one, measured once.",
        style="dim",
    )
    print_failures(console, results.outcomes)


def print_failures(console: Console, outcomes: Mapping[str, Outcome]) -> None:
    """Say what was not measured."""
    for name, outcome in outcomes.items():
        if outcome.absent:
            console.print(f"{name}: not measured: {outcome.absent}", style="bold red", markup=False)
        for failure in dict.fromkeys(outcome.failures):
            times = outcome.failures.count(failure)
            console.print(f"{name}: failed {times}×: {failure}", style="bold red", markup=False)


def _medians(results: Results) -> Table:
    table = plain_table("")
    for name, outcome in results.outcomes.items():
        table.add_column(f"{name}\n(not measured)" if outcome.absent else name, justify="right")
    for key in results.metrics():
        cells = [cell_of(METRICS[key], outcome, key) for outcome in results.outcomes.values()]
        table.add_row(label_of(METRICS[key]), *cells)
    return table


def _ratios(results: Results) -> Table:
    table = plain_table(f"{OURS} ÷")
    for peer in results.peers():
        table.add_column(peer, justify="right")
    table.add_column(f"better of {' and '.join(BEST)}", justify="right")
    for key in results.metrics():
        ratios = [
            *(results.ratio(key, peer) for peer in results.peers()),
            results.ratio(key, *BEST),
        ]
        cells = [NOTHING if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        table.add_row(label_of(METRICS[key]), *cells)
    return table


def plain_table(corner: str) -> Table:
    """Give a table without lines."""
    return Table(corner, box=None, header_style="bold", pad_edge=False)


def label_of(metric: Metric) -> str:
    """Give a metric's name with its unit."""
    # The arrow points to where better is.
    return f"{metric.label}, {metric.unit} {'↑' if metric.more else '↓'}"


def cell_of(metric: Metric, outcome: Outcome, key: str) -> str:
    """Give a figure as it was measured in all rounds."""
    return spread_of(outcome.figures.get(key, []), metric.digits)


def spread_of(values: Sequence[float], digits: int) -> str:
    """Give the median, with the lowest and the highest when there are several."""
    if not values:
        return NOTHING
    texts = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return texts[0] if len(values) == 1 else f"{texts[0]} ({texts[1]}–{texts[2]})"


def write_plot(path: Path, results: Results) -> bool:
    """Draw a panel of bars for each metric; False when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    # By name, since only `make bench` installs it and types are checked without it.
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    keys = results.metrics()
    columns = 4
    rows = -(-len(keys) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 2.4 * rows), squeeze=False)
    panels = axes.flat
    for panel, key in zip(panels, keys, strict=False):
        _draw_panel(panel, key, results)
    for panel in list(panels):
        panel.axis("off")
    figure.suptitle(f"{results.date:%Y-%m-%d}, {describe_machine()}", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _draw_panel(panel: Any, key: str, results: Results) -> None:
    measured = {name: each for name, each in results.outcomes.items() if each.median(key) is not None}
    medians = [each.median(key) or 0.0 for each in measured.values()]
    spread = [
        [median - min(each.figures[key]) for median, each in zip(medians, measured.values(), strict=True)],
        [max(each.figures[key]) - median for median, each in zip(medians, measured.values(), strict=True)],
    ]
    panel.barh(
        list(measured),
        medians,
        xerr=spread,
        color=[_COLOURS.get(name, "#333333") for name in measured],
        error_kw={"elinewidth": 1, "capsize": 2},
    )
    panel.invert_yaxis()
    panel.set_title(label_of(METRICS[key]), fontsize=9)
    panel.tick_params(labelsize=8)
