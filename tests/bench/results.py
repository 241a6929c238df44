"""The figures of a run: medians, ratios between subjects, and the JSON that is kept of them."""

import os
import platform
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.jobs import METRICS, Figures

OURS = "nodemesh"
# The best of the field: what we are held against.
BEST = ("envoy", "nginx")


@dataclass
class Outcome:
    """What came of one subject: figures, or why there are none (`absent`)."""

    figures: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    absent: str = ""

    def add(self, figures: Figures) -> None:
        """Take the figures of one job."""
        for metric, value in figures.items():
            self.figures[metric].append(value)

    def median(self, metric: str) -> float | None:
        """Give the median, None when it was not measured."""
        values = self.figures.get(metric)
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Results:
    """Everything a run found out."""

    date: datetime
    seconds: int
    rounds: int
    outcomes: dict[str, Outcome]

    def metrics(self) -> list[str]:
        """Give the metrics that anybody has a figure for, in the order of `METRICS`."""
        return [
            name for name in METRICS if any(each.median(name) is not None for each in self.outcomes.values())
        ]

    def peers(self) -> list[str]:
        """Give the subjects we are compared with."""
        return [name for name in self.outcomes if name != OURS]

    def ratio(self, metric: str, *peers: str) -> float | None:
        """Give our median divided by that of the best of these peers; None when one is not known."""
        ours = self.outcomes[OURS].median(metric) if OURS in self.outcomes else None
        theirs = [
            value
            for peer in peers
            if peer in self.outcomes and (value := self.outcomes[peer].median(metric)) is not None
        ]
        if ours is None or not theirs:
            return None
        best = max(theirs) if METRICS[metric].more else min(theirs)
        return ours / best if best else None

    def document(self) -> dict[str, Any]:
        """Give it all as JSON's types."""
        return {
            "date": self.date.isoformat(timespec="seconds"),
            "machine": describe_machine(),
            "seconds": self.seconds,
            "rounds": self.rounds,
            "metrics": {
                name: {
                    "label": metric.label,
                    "unit": metric.unit,
                    "better": "more" if metric.more else "less",
                }
                for name, metric in METRICS.items()
            },
            "subjects": {
                name: {
                    "absent": outcome.absent,
                    "failures": outcome.failures,
                    "figures": outcome.figures,
                    "medians": {metric: outcome.median(metric) for metric in outcome.figures},
                }
                for name, outcome in self.outcomes.items()
            },
            "ratios": {
                metric: {
                    **{peer: self.ratio(metric, peer) for peer in self.peers()},
                    "best": self.ratio(metric, *BEST),
                }
                for metric in self.metrics()
            },
        }


def describe_machine() -> str:
    """Give processor, cores, kernel and Python in a line."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = models[0] if models else platform.machine()
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"
    )
