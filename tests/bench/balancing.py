"""What each way of balancing does for callers when one endpoint is bad: ``python -m tests.bench.balancing``.

Simulated time (`tests.bench.simulation`), the real rules: five endpoints that take some 10 ms, and of these
one that takes 100 ms, or fails everything at once, or stalls for five seconds. Draws a plot where matplotlib
is installed.
"""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.table import Table

from registry.model.backend_policy import BalancingPolicy, LoadBalancing, OutlierEjection
from tests.bench.session import keep, make_console, run
from tests.bench.simulation import Host, Load, Run

GOOD = tuple(Host(f"good{number}") for number in range(4))
BAD = "bad"
STALL = (10.0, 15.0)
NEVER = OutlierEjection(max_ejected_percent=0)
Figures = dict[str, float]
# What is bad about the one, and what callers do about it.
CASES: Mapping[str, tuple[Host, Load]] = {
    "one slow": (Host(BAD, seconds=0.1), Load()),
    "one failing": (Host(BAD, failing=1.0), Load()),
    "one failing, one retry": (Host(BAD, failing=1.0), Load(retries=1)),
    "one stalls 5 s": (
        Host(BAD, stalls=STALL[0], stalls_until=STALL[1]),
        Load(rate=500.0, seconds=20.0, per_try=0.5, retries=2),
    ),
}
COLUMNS = {
    "bad": "bad one's share",
    "failed": "failed",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "after": "p99 2 s on",
}


def main() -> int:
    """Simulate, print, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.balancing", description="Compare policies.")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another run")
    given = parser.parse_args()
    console, date = make_console(), datetime.now(UTC)
    found: dict[str, dict[str, Figures]] = {}
    for case, (bad, load) in CASES.items():
        found[case] = {
            _label(policy, ejection): _figures(bad, load, policy, ejection, given.seed)
            for policy in BalancingPolicy
            for ejection in (OutlierEjection(), NEVER)
        }
    console.print(_table(found))
    kept = keep(date, {"date": date.isoformat(timespec="seconds"), "figures": found}, kind="-balancing")
    plot = kept.with_suffix(".svg")
    drawn = str(plot) if _draw(plot, found) else "no plot, matplotlib is not installed"
    console.print(
        "Five endpoints of 10 ms, each serving four requests at once. An even share is 20 %. "
        f"`p99 2 s on` is of the requests from two seconds after the stall began. {kept}; {drawn}",
        style="dim",
        soft_wrap=True,
    )
    return 0


def _label(policy: BalancingPolicy, ejection: OutlierEjection) -> str:
    return policy.value + (", no ejection" if ejection is NEVER else "")


def _figures(bad: Host, load: Load, policy: BalancingPolicy, ejection: OutlierEjection, seed: int) -> Figures:
    balancing = LoadBalancing(policy=policy)
    result = Run((*GOOD, bad), balancing, ejection=ejection, load=load, seed=seed)
    figures = {
        "bad": result.share(BAD),
        "failed": result.failed(),
        "p50": result.quantile(0.5) * 1e3,
        "p99": result.quantile(0.99) * 1e3,
    }
    if bad.stalls:
        figures["after"] = result.quantile(0.99, since=STALL[0] + 2.0, until=STALL[1]) * 1e3
    return figures


def _table(found: Mapping[str, Mapping[str, Figures]]) -> Table:
    table = Table("", "policy", box=None, header_style="bold", pad_edge=False)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for case, policies in found.items():
        for number, (policy, figures) in enumerate(policies.items()):
            cells = [_cell(name, figures.get(name)) for name in COLUMNS]
            table.add_row("" if number else case, policy, *cells, end_section=number == len(policies) - 1)
    return table


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if name in ("bad", "failed") else f"{value:,.0f}"


def _draw(path: Path, found: Mapping[str, Mapping[str, Figures]]) -> bool:
    """Draw p99 and the bad one's share for each case; False when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return False
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(2, len(found), figsize=(4 * len(found), 7), sharex="row", sharey=True)
    for column, (case, policies) in enumerate(found.items()):
        names: Sequence[str] = list(policies)[::-1]
        for row, (metric, title) in enumerate((("p99", "p99, ms"), ("bad", "the bad one's share, %"))):
            panel = panels[row][column]
            scale = 100 if metric == "bad" else 1
            panel.barh(names, [policies[name][metric] * scale for name in names])
            panel.set_title(f"{case}: {title}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    return True


if __name__ == "__main__":
    run(main)
