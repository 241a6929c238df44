"""What balancing does for callers, in simulated time."""

from functools import cache

import pytest

from registry.model.backend_policy import BalancingPolicy, LoadBalancing, OutlierEjection
from tests.bench.simulation import Host, Load, Run

GOOD = tuple(Host(f"good{number}") for number in range(4))
SLOW = Host("slow", seconds=0.1)
FAILING = Host("failing", failing=1.0)
STALLING = Host("stalling", stalls=10.0, stalls_until=15.0)
NO_EJECTION = OutlierEjection(max_ejected_percent=0)
BY_LOAD = (BalancingPolicy.PEAK_EWMA, BalancingPolicy.LEAST_REQUEST)


@cache
def slow(policy: BalancingPolicy) -> Run:
    """Run with one endpoint that takes ten times as long."""
    return Run((*GOOD, SLOW), LoadBalancing(policy=policy))


@pytest.mark.parametrize(("policy", "most"), [(BY_LOAD[0], 0.05), (BY_LOAD[1], 0.15)])
def test_share_of_a_slow_endpoint_is_cut(policy: BalancingPolicy, most: float) -> None:
    """By load a slow endpoint gets less than its fifth of the requests, by latency next to nothing."""
    assert slow(policy).share("slow") < most


@pytest.mark.parametrize("policy", [BalancingPolicy.ROUND_ROBIN, BalancingPolicy.RANDOM])
def test_blind_policies_do_not_see_it(policy: BalancingPolicy) -> None:
    """Without a look at the load a slow endpoint gets its whole share."""
    assert slow(policy).share("slow") == pytest.approx(0.2, abs=0.02)


def test_latency() -> None:
    """By latency the slow endpoint is hardly felt; by turns one request in five is slow."""
    assert slow(BalancingPolicy.PEAK_EWMA).quantile(0.95) < 0.04
    assert slow(BalancingPolicy.ROUND_ROBIN).quantile(0.95) > 0.1


@pytest.mark.parametrize("policy", BalancingPolicy)
def test_failing_endpoint_is_ejected(policy: BalancingPolicy) -> None:
    """An endpoint that fails everything, and quickly, costs a few requests and not a fifth of them."""
    run = Run((*GOOD, FAILING), LoadBalancing(policy=policy))
    assert run.failed() < 0.005
    without = Run((*GOOD, FAILING), LoadBalancing(policy=policy), ejection=NO_EJECTION)
    assert without.failed() > 0.15


@pytest.mark.parametrize("policy", BalancingPolicy)
def test_failing_endpoint_with_retries(policy: BalancingPolicy) -> None:
    """With one more try no request fails."""
    run = Run((*GOOD, FAILING), LoadBalancing(policy=policy), load=Load(retries=1))
    assert run.failed() == 0.0


@pytest.mark.parametrize("policy", BalancingPolicy)
def test_stall(policy: BalancingPolicy) -> None:
    """Of an endpoint that stalls for 5 s nothing is felt after 2 s, when tries are given up after 0.5 s."""
    run = Run(
        (*GOOD[:2], STALLING),
        LoadBalancing(policy=policy),
        load=Load(seconds=20.0, per_try=0.5, retries=2),
    )
    assert run.failed() == 0.0
    before = run.quantile(0.99, since=5.0, until=10.0)
    assert run.quantile(0.99, since=12.0, until=15.0) < 2 * before


def test_everyone_slow_together() -> None:
    """Where all are alike latency changes nothing: shares stay even."""
    run = Run(GOOD, LoadBalancing())
    for host in GOOD:
        assert run.share(host.address) == pytest.approx(0.25, abs=0.03)
