"""What people see of a run: two tables, and a plot when matplotlib is there."""

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
_NOTHING = "–"
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
    for name, outcome in results.outcomes.items():
        if outcome.absent:
            console.print(f"{name}: not measured: {outcome.absent}", style="bold red", markup=False)
        for failure in dict.fromkeys(outcome.failures):
            times = outcome.failures.count(failure)
            console.print(f"{name}: failed {times}×: {failure}", style="bold red", markup=False)


def _medians(results: Results) -> Table:
    table = _table("")
    for name, outcome in results.outcomes.items():
        table.add_column(f"{name}\n(not measured)" if outcome.absent else name, justify="right")
    for key in results.metrics():
        cells = [_cell(METRICS[key], outcome, key) for outcome in results.outcomes.values()]
        table.add_row(_label(METRICS[key]), *cells)
    return table


def _ratios(results: Results) -> Table:
    table = _table(f"{OURS} ÷")
    for peer in results.peers():
        table.add_column(peer, justify="right")
    table.add_column(f"better of {' and '.join(BEST)}", justify="right")
    for key in results.metrics():
        ratios = [
            *(results.ratio(key, peer) for peer in results.peers()),
            results.ratio(key, *BEST),
        ]
        cells = [_NOTHING if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        table.add_row(_label(METRICS[key]), *cells)
    return table


def _table(corner: str) -> Table:
    return Table(corner, box=None, header_style="bold", pad_edge=False)


def _label(metric: Metric) -> str:
    # The arrow points to where better is.
    return f"{metric.label}, {metric.unit} {'↑' if metric.more else '↓'}"


def _cell(metric: Metric, outcome: Outcome, key: str) -> str:
    median = outcome.median(key)
    if median is None:
        return _NOTHING
    values = outcome.figures[key]
    texts = [f"{value:,.{metric.digits}f}" for value in (median, min(values), max(values))]
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
    panel.set_title(_label(METRICS[key]), fontsize=9)
    panel.tick_params(labelsize=8)
