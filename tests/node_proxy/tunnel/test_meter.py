from node_proxy.tunnel.meter import INTERVAL, Meter


def test_rate_of_a_steady_flow() -> None:
    """Bytes over the time in which they moved."""
    meter = Meter(10.0)
    meter.moved += 1000
    assert meter.rate(10.0 + INTERVAL) == 1000 / INTERVAL


def test_rate_holds_within_an_interval() -> None:
    """Between two intervals the last one's rate stands, whatever moves meanwhile."""
    meter = Meter(0.0)
    meter.moved += 1000
    first = meter.rate(INTERVAL)
    meter.moved += 1_000_000
    assert meter.rate(INTERVAL * 1.5) == first


def test_rate_falls_when_nothing_moves() -> None:
    """A flow that has ended is forgotten after an interval."""
    meter = Meter(0.0)
    meter.moved += 1000
    meter.rate(INTERVAL)
    assert meter.rate(2 * INTERVAL) == 0
