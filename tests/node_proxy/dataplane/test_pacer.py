from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from node_proxy.buckets import Buckets
from node_proxy.dataplane.pacer import Pacer
from node_proxy.dataplane.shaping import Lane, Meter
from registry.rules.limits.bucket import Bucket
from registry.rules.limits.compiled import EVENNESS, LEAST_BURST

RATE = 1_000_000
QUICK = Bucket.of(RATE, per=1.0, burst=RATE * EVENNESS)


@dataclass(eq=False)
class Flow:
    """A connection that has bytes for ever: takes what it may, whenever it is called."""

    lane: Lane
    piece: int = 65536
    passed: list[tuple[float, int]] = field(default_factory=list)
    crash: bool = False
    errors: list[Exception] = field(default_factory=list)

    def on_paced(self) -> None:
        """Take until nothing more may pass, and wait."""
        if self.crash:
            raise ValueError("a bug")
        while count := self.lane.take(self.piece):
            self.passed.append((trio.current_time(), count))
        self.lane.wait(self)

    def on_crash(self, error: Exception) -> None:
        """Remember the bug."""
        self.errors.append(error)

    @property
    def total(self) -> int:
        """All bytes that have passed."""
        return sum(count for _, count in self.passed)


@dataclass
class Road:
    """Buckets and a pacer under trio's clock."""

    buckets: Buckets = field(default_factory=lambda: Buckets(None))
    crashes: int = 0
    pacer: Pacer = field(init=False)

    def __post_init__(self) -> None:
        self.pacer = Pacer(trio.current_time, self.crashed)

    def crashed(self) -> None:
        """Count a bug."""
        self.crashes += 1

    def flow(self, *limits: tuple[str, Bucket]) -> Flow:
        """Give a connection under these limits, by name."""
        meters = [Meter(bucket, self.buckets.key(name), named=True) for name, bucket in limits]
        return Flow(Lane(self.buckets, meters, trio.current_time, self.pacer))


async def drive(road: Road, flows: list[Flow], seconds: float) -> None:
    """Let the flows go for so long."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.pacer.run)
        for flow in flows:
            flow.on_paced()
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_rate(autojump_clock: trio.testing.MockClock) -> None:
    """A flow passes at the rate of its limit, beside the burst of its beginning."""
    road = Road()
    flow = road.flow(("a", QUICK))
    await drive(road, [flow], 4.0)
    assert flow.total == pytest.approx(4 * RATE + RATE * EVENNESS, rel=0.01)


async def test_evenness(autojump_clock: trio.testing.MockClock) -> None:
    """No tenth of a second sees more than its own worth and the small burst, nor half of it less."""
    road = Road()
    flow = road.flow(("a", QUICK))
    await drive(road, [flow], 4.0)
    begin = flow.passed[0][0]
    per_window = [0] * 40
    for moment, count in flow.passed:
        per_window[min(39, int((moment - begin) / 0.1))] += count
    assert max(per_window[1:]) <= RATE * 0.11
    assert min(per_window[1:]) >= RATE * 0.09


async def test_many_share_evenly(autojump_clock: trio.testing.MockClock) -> None:
    """Twenty flows under one limit get the same, and the limit together."""
    road = Road()
    flows = [road.flow(("a", QUICK)) for _ in range(20)]
    await drive(road, flows, 10.0)
    totals = [flow.total for flow in flows]
    assert sum(totals) == pytest.approx(10 * RATE, rel=0.02)
    assert min(totals) >= 0.8 * max(totals)


async def test_limits_are_apart(autojump_clock: trio.testing.MockClock) -> None:
    """A flow under one limit is not slowed by the crowd under another."""
    road = Road()
    alone = road.flow(("alone", QUICK))
    await drive(road, [alone, *(road.flow(("crowd", QUICK)) for _ in range(20))], 2.0)
    assert alone.total == pytest.approx(2 * RATE, rel=0.05)


async def test_the_tightest_of_several_limits(autojump_clock: trio.testing.MockClock) -> None:
    """A flow under two limits passes at the lower rate, and takes from the other no more than that."""
    road = Road()
    slow = Bucket.of(RATE / 10, per=1.0, burst=RATE / 10 * EVENNESS)
    both, rest = road.flow(("all", QUICK), ("own", slow)), road.flow(("all", QUICK))
    await drive(road, [both, rest], 5.0)
    assert both.total == pytest.approx(5 * RATE / 10, rel=0.05)
    assert rest.total == pytest.approx(5 * RATE * 0.9, rel=0.05)


async def test_a_low_rate_passes_in_packets(autojump_clock: trio.testing.MockClock) -> None:
    """Below a packet's worth in a second, what passes still passes by the packet."""
    road = Road()
    flow = road.flow(("a", Bucket.of(1000, per=1.0, burst=LEAST_BURST)))
    await drive(road, [flow], 20.0)
    assert flow.total == pytest.approx(20_000 + LEAST_BURST, abs=LEAST_BURST)
    assert {count for _, count in flow.passed} == {LEAST_BURST}


async def test_a_bug_costs_its_connection_alone(autojump_clock: trio.testing.MockClock) -> None:
    """A waiter that raises is told to give up, and the others go on."""
    road = Road()
    good, bad = road.flow(("a", QUICK)), road.flow(("a", QUICK))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.pacer.run)
        good.on_paced()
        bad.on_paced()
        bad.crash = True
        await trio.sleep(2.0)
        nursery.cancel_scope.cancel()
    assert road.crashes == 1
    assert [str(error) for error in bad.errors] == ["a bug"]
    assert good.total == pytest.approx(2 * RATE, rel=0.05)


async def test_who_is_forgotten_is_not_called(autojump_clock: trio.testing.MockClock) -> None:
    """A waiter that has gone is called no more; forgetting it again changes nothing."""
    road = Road()
    flow = road.flow(("a", QUICK))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(road.pacer.run)
        flow.on_paced()
        before = flow.total
        flow.lane.forget(flow)
        flow.lane.forget(flow)
        await trio.sleep(2.0)
        nursery.cancel_scope.cancel()
    assert flow.total == before


async def test_given_back(autojump_clock: trio.testing.MockClock) -> None:
    """What did not pass after all may pass later."""
    road = Road()
    lane = road.flow(("a", QUICK)).lane
    assert lane.take(65536) == 50_000
    lane.give_back(30_000)
    assert lane.take(65536) == 30_000
