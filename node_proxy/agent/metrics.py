"""Metrics: the workers' counters summed over workers and their lives, and the agent's own gauges."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node_proxy.control import Sample

Key = tuple[str, tuple[tuple[str, str], ...]]


class WorkerTotals:
    """Sums samples over workers. A dead worker's counters stay in the sum, its gauges do not."""

    def __init__(self) -> None:
        self._live: dict[int, dict[Key, float]] = {}
        self._retired: dict[Key, float] = defaultdict(float)

    def update(self, worker: int, samples: Iterable[Sample]) -> None:
        """Take a worker's numbers as they stand."""
        self._live[worker] = {(sample.name, sample.labels): sample.value for sample in samples}

    def retire(self, worker: int) -> None:
        """Take note that the worker's process is gone."""
        for key, value in self._live.pop(worker, {}).items():
            if _is_counter(key[0]):
                self._retired[key] += value

    def samples(self) -> tuple[Sample, ...]:
        """Give the sums, ordered by name and labels."""
        sums: dict[Key, float] = defaultdict(float, self._retired)
        for numbers in self._live.values():
            for key, value in numbers.items():
                sums[key] += value
        return tuple(
            Sample(name=name, labels=labels, value=value) for (name, labels), value in sorted(sums.items())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One of the agent's own numbers: a gauge, or a counter when its name ends in ``_total``."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


def _is_counter(name: str) -> bool:
    return name.endswith("_total")


def families(samples: Sequence[Sample], gauges: Sequence[Gauge]) -> Iterator[Metric]:
    """Group numbers into the families that Prometheus' text format has."""
    found: dict[str, Metric] = {}
    helps = {gauge.name: gauge.help for gauge in gauges}
    numbers = [(gauge.name, gauge.labels, gauge.value) for gauge in gauges]
    numbers += [(sample.name, sample.labels, sample.value) for sample in samples]
    for name, labels, value in numbers:
        family = found.get(name)
        if family is None:
            kind = CounterMetricFamily if _is_counter(name) else GaugeMetricFamily
            # Workers send names without explanations: the name is all there is.
            family = found[name] = kind(name, helps.get(name, name.removesuffix("_total").replace("_", " ")))
        family.add_sample(name, dict(labels), value)
    yield from found.values()


class _Exposition(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()


def exposition(samples: Sequence[Sample], gauges: Sequence[Gauge]) -> bytes:
    """Write everything in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposition(lambda: families(samples, gauges)))
    return generate_latest(registry)
