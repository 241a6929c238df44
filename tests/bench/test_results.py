import json
from datetime import UTC, datetime

from rich.console import Console

from tests.bench.report import WIDTH, print_results
from tests.bench.results import BEST, Outcome, Results


def outcome(**figures: list[float]) -> Outcome:
    made = Outcome()
    for metric, values in figures.items():
        for value in values:
            made.add({metric: value})
    return made


RESULTS = Results(
    date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    seconds=2,
    rounds=3,
    outcomes={
        "direct": outcome(rate_32=[400.0]),
        "nodemesh": outcome(rate_32=[90.0, 100.0, 500.0], p50_32=[30.0]),
        "envoy": outcome(rate_32=[200.0], p50_32=[20.0]),
        "nginx": outcome(rate_32=[50.0], p50_32=[10.0]),
        "stunnel": Outcome(absent="missing: stunnel4", failures=[]),
    },
)


def test_ratios_are_of_medians() -> None:
    """One wild round moves no ratio."""
    assert RESULTS.ratio("rate_32", "envoy") == 0.5


def test_the_better_peer_depends_on_the_metric() -> None:
    """The better of two is the one with more requests, or with less latency."""
    assert RESULTS.ratio("rate_32", *BEST) == 0.5
    assert RESULTS.ratio("p50_32", *BEST) == 3.0


def test_what_was_not_measured_has_no_ratio() -> None:
    """A peer without figures gives no ratio, and takes part in no comparison."""
    assert RESULTS.ratio("rate_32", "stunnel") is None
    assert RESULTS.ratio("p50_32", "direct", "stunnel", "nginx") == 3.0


def test_only_metrics_with_figures_are_shown() -> None:
    """A metric nobody has a figure for is left out."""
    assert RESULTS.metrics() == ["p50_32", "rate_32"]


def test_a_missing_peer_is_named() -> None:
    """The table keeps the column of a peer that is missing, and says why it is empty."""
    console = Console(width=WIDTH)
    with console.capture() as captured:
        print_results(console, RESULTS)
    text = captured.get()
    assert "(not measured)" in text
    assert "stunnel: not measured: missing: stunnel4" in text
    assert "100 (90–500)" in text


def test_the_document_is_json() -> None:
    """Everything that is kept can be written as JSON, medians and ratios with it."""
    kept = json.loads(json.dumps(RESULTS.document()))
    assert kept["subjects"]["nodemesh"]["medians"]["rate_32"] == 100.0
    assert kept["ratios"]["p50_32"]["best"] == 3.0
