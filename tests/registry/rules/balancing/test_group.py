"""Who may be chosen at all, and when that changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.model.backend_policy import BalancingPolicy, HashKey, KeyType, LoadBalancing, OutlierEjection
from registry.rules.balancing.keys import Keys
from registry.rules.balancing.outcome import Outcome
from tests.registry.rules.balancing.endpoints import Endpoint, Service, assert_shares, names

UP = Endpoint("up")
UP2 = Endpoint("up2")
DOWN = Endpoint("down", healthy=False)
DRAINED = Endpoint("drained", weight=0)
DRAINED_DOWN = Endpoint("drained-down", weight=0, healthy=False)
SLOW_START = LoadBalancing(slow_start="10s")


@pytest.mark.parametrize("policy", BalancingPolicy)
@pytest.mark.parametrize(
    ("endpoints", "chosen"),
    [
        ([], set()),
        ([UP], {"up"}),
        ([UP, UP2], {"up", "up2"}),
        ([UP, DOWN, DRAINED], {"up"}),
        ([DOWN, DRAINED], {"drained"}),
        ([DOWN, DRAINED_DOWN], {"down"}),
        ([DRAINED, DRAINED_DOWN], {"drained"}),
        ([DRAINED_DOWN], {"drained-down"}),
    ],
)
def test_who_is_chosen(endpoints: list[Endpoint], chosen: set[str], policy: BalancingPolicy) -> None:
    """Good endpoints are chosen; without any, drained ones; without these, whoever there is."""
    balancing = LoadBalancing(policy=policy, hash_on=HashKey(type=KeyType.SOURCE))
    service = Service(*endpoints, balancing=balancing)
    assert service.chosen(draws=200) == chosen
    assert service.chosen(draws=200, key=lambda number: Keys(b"%d" % number)) == chosen


@pytest.mark.parametrize(("healthy", "used"), [(3, 3), (2, 10), (0, 10), (10, 10)])
def test_panic(healthy: int, used: int) -> None:
    """With fewer than the share of good ones that the policy names, all are used."""
    endpoints = [Endpoint(f"{number}", healthy=number < healthy) for number in range(10)]
    service = Service(*endpoints, ejection=OutlierEjection(panic_percent=30))
    assert len(service.chosen()) == used


def test_panic_believes_refused_connections() -> None:
    """In panic those that cannot be reached are still passed over."""
    endpoints = [Endpoint(f"{number}", healthy=number < 2) for number in range(10)]
    service = Service(*endpoints)
    service.unreachable = dict.fromkeys(endpoints[5:], 1.0)
    assert service.chosen() == {"0", "1", "2", "3", "4"}


def test_all_unreachable() -> None:
    """When none can be reached all are tried: there is nothing to lose."""
    service = Service(UP, UP2)
    service.unreachable = {UP: 1.0, UP2: 1.0}
    assert service.chosen() == {"up", "up2"}


def test_unreachable_until() -> None:
    """An endpoint that could not be reached is used again when its time is over."""
    service = Service(UP, UP2)
    service.unreachable = {UP: 5.0}
    assert service.chosen() == {"up2"}
    service.now = 4.9
    assert service.chosen() == {"up2"}
    service.now = 5.0
    assert service.chosen() == {"up", "up2"}


def test_what_is_known_by_then_counts() -> None:
    """What was found out about an endpoint counts as soon as the records say that something changed."""
    service = Service(UP, UP2)
    assert service.chosen() == {"up", "up2"}
    service.unreachable = {UP: 5.0}
    service.records.changed()
    assert service.chosen() == {"up2"}


class TestTried:
    def test_passed_over(self) -> None:
        """What was tried is not chosen again, whatever the policy."""
        for policy in BalancingPolicy:
            service = Service(*names(3), balancing=LoadBalancing(policy=policy))
            assert service.chosen(Endpoint("a")) == {"b", "c"}
            assert service.chosen(Endpoint("a"), Endpoint("b")) == {"c"}
            assert service.choose(*names(3)) is None

    def test_better_one_that_fails_than_none(self) -> None:
        """When all good ones were tried, drained ones are, then the rest."""
        service = Service(UP, DOWN, DRAINED)
        assert service.chosen(UP) == {"drained"}
        assert service.chosen(UP, DRAINED) == {"down"}

    def test_key_of_one_that_was_tried(self) -> None:
        """A key whose endpoint was tried goes to the next on the ring, always the same."""
        balancing = LoadBalancing(policy=BalancingPolicy.RING_HASH)
        service = Service(*names(4), balancing=balancing)
        keys = Keys(b"session")
        first = service.choose(keys=keys)
        assert first is not None
        others = {service.choose(first, keys=keys) for _ in range(50)}
        assert len(others) == 1
        assert first not in others


class TestSlowStart:
    def test_newcomer_grows(self) -> None:
        """A new endpoint begins with a tenth of its weight, and has all of it when its time is over."""
        service = Service(*names(2), balancing=LoadBalancing(policy=BalancingPolicy.RANDOM, slow_start="10s"))
        service.now = 100.0
        service.change(*names(3))
        assert_shares(service.shares(), {"a": 10, "b": 10, "c": 1})
        service.now = 105.0
        assert_shares(service.shares(), {"a": 10, "b": 10, "c": 5})
        service.now = 110.0
        assert_shares(service.shares(), {"a": 10, "b": 10, "c": 10})

    def test_recovered_grows(self) -> None:
        """An endpoint that is healthy again grows like a new one."""
        a, b = names(2)
        service = Service(
            a,
            Endpoint("b", healthy=False),
            balancing=LoadBalancing(policy=BalancingPolicy.RANDOM, slow_start="10s"),
        )
        service.now = 50.0
        service.change(a, b)
        assert_shares(service.shares(), {"a": 10, "b": 1})

    def test_none_at_the_start(self) -> None:
        """Endpoints that were there when the worker first looked are not slow."""
        service = Service(*names(2), balancing=SLOW_START)
        assert_shares(service.shares(), {"a": 1, "b": 1})

    def test_change_of_others(self) -> None:
        """Who stays is not made slow by those that come and go."""
        service = Service(*names(3), balancing=LoadBalancing(policy=BalancingPolicy.RANDOM, slow_start="10s"))
        service.change(*names(2))
        assert_shares(service.shares(), {"a": 1, "b": 1})


def test_records_outlive_the_group() -> None:
    """What is known of an endpoint stays when the endpoints change: an ejected one stays ejected."""
    a, b, c = names(3)
    service = Service(a, b, c)
    record = service.records.of(("a", 80))
    for _ in range(5):
        service.group.ended(record, Outcome.SERVER_ERROR, now=0.0)
    assert service.chosen() == {"b", "c"}
    service.change(a, b)
    assert service.chosen() == {"b"}


def test_records_are_forgotten() -> None:
    """Records of endpoints that are gone are dropped, but not while in use or ejected."""
    service = Service(*names(4))
    service.begin(Endpoint("b"))
    service.records.of(("c", 80)).ejected_until = 5.0
    service.records.keep([("a", 80)], now=0.0)
    assert len(service.records) == 3
    service.records.keep([("a", 80)], now=5.0)
    assert len(service.records) == 2


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=6),
    st.sets(st.integers(0, 5)),
    st.sampled_from(BalancingPolicy),
    st.integers(0, 2**16),
)
def test_always_one_that_was_not_tried(
    shape: list[tuple[bool, int]], tried: set[int], policy: BalancingPolicy, seed: int
) -> None:
    """An endpoint is chosen exactly when one was not tried, and it is one of those."""
    endpoints = [
        Endpoint(f"{n}", healthy=healthy, weight=weight) for n, (healthy, weight) in enumerate(shape)
    ]
    service = Service(*endpoints, balancing=LoadBalancing(policy=policy))
    service.rng.seed(seed)
    passed = [endpoint for endpoint in endpoints if int(endpoint.address) in tried]
    for keys in (Keys(), Keys(b"%d" % seed)):
        chosen = service.choose(*passed, keys=keys)
        left = [endpoint for endpoint in endpoints if endpoint not in passed]
        assert (chosen in left) if left else (chosen is None)
