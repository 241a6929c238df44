from prometheus_client.parser import text_string_to_metric_families

from node_proxy.agent.metrics import Gauge, WorkerTotals, exposition
from node_proxy.control import Sample


def sample(name: str, value: float, **labels: str) -> Sample:
    """Give one number of a worker."""
    return Sample(name=name, labels=tuple(labels.items()), value=value)


def sums(totals: WorkerTotals) -> dict[str, float]:
    """Give the sums by name."""
    return {each.name: each.value for each in totals.samples()}


def test_sums_over_workers() -> None:
    """A number is the sum of what each worker says last."""
    totals = WorkerTotals()
    totals.update(0, [sample("x_total", 1), sample("open", 5)])
    totals.update(0, [sample("x_total", 3), sample("open", 2)])
    totals.update(1, [sample("x_total", 10)])
    assert sums(totals) == {"x_total": 13, "open": 2}


def test_counters_never_fall() -> None:
    """When a worker dies its counters stay in the sum; its successor's are added; its gauges vanish."""
    totals = WorkerTotals()
    totals.update(0, [sample("x_total", 3), sample("open", 2)])
    totals.retire(0)
    assert sums(totals) == {"x_total": 3}
    totals.update(0, [sample("x_total", 1), sample("open", 1)])
    assert sums(totals) == {"x_total": 4, "open": 1}
    totals.retire(0)
    totals.retire(0)
    assert sums(totals) == {"x_total": 4}


def test_labels_are_kept_apart() -> None:
    """Numbers with different labels are different numbers."""
    totals = WorkerTotals()
    totals.update(0, [sample("x_total", 1, service="a"), sample("x_total", 2, service="b")])
    totals.update(1, [sample("x_total", 4, service="b")])
    assert [(dict(each.labels), each.value) for each in totals.samples()] == [
        ({"service": "a"}, 1),
        ({"service": "b"}, 6),
    ]


def test_exposition_is_what_prometheus_reads() -> None:
    """Names that end in _total are counters, others gauges, with their labels and the agent's own help."""
    text = exposition(
        [sample("nodemesh_sent_bytes_total", 7, service='a"b\n'), sample("nodemesh_open", 2)],
        [
            Gauge(name="nodemesh_worker_up", help="whether it runs", value=True, labels=(("worker", "0"),)),
            Gauge(name="nodemesh_worker_up", help="whether it runs", value=False, labels=(("worker", "1"),)),
        ],
    )
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    assert {name: family.type for name, family in families.items()} == {
        "nodemesh_sent_bytes": "counter",
        "nodemesh_open": "gauge",
        "nodemesh_worker_up": "gauge",
    }
    assert families["nodemesh_sent_bytes"].samples[0].labels == {"service": 'a"b\n'}
    assert families["nodemesh_sent_bytes"].samples[0].value == 7
    assert [each.value for each in families["nodemesh_worker_up"].samples] == [1, 0]
    assert families["nodemesh_worker_up"].documentation == "whether it runs"
