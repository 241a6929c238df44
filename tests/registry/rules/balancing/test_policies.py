"""How requests are spread: by weight, by load, by time, in turn, by hash, by zone."""

import random

import pytest

from registry.model.backend_policy import (
    BalancingPolicy,
    HashKey,
    KeyType,
    LoadBalancing,
    Locality,
    LocalityPreference,
    OutlierEjection,
)
from registry.rules.balancing.keys import Keys
from registry.rules.balancing.outcome import Outcome
from registry.rules.balancing.settings import Home
from tests.registry.rules.balancing.endpoints import DRAWS, Endpoint, Service, assert_shares, names

WEIGHTED = (Endpoint("a", weight=100), Endpoint("b", weight=200), Endpoint("c", weight=700))
RING = LoadBalancing(
    policy=BalancingPolicy.RING_HASH, hash_on=HashKey(type=KeyType.SOURCE), bounded_load=1.25
)


def of(policy: BalancingPolicy) -> LoadBalancing:
    """Give the policy with nothing else."""
    return LoadBalancing(policy=policy)


class TestWeights:
    @pytest.mark.parametrize("policy", [BalancingPolicy.RANDOM, BalancingPolicy.ROUND_ROBIN])
    def test_shares(self, policy: BalancingPolicy) -> None:
        """Each gets as much as its weight says."""
        shares = Service(*WEIGHTED, balancing=of(policy)).shares()
        assert_shares(shares, {"a": 1, "b": 2, "c": 7})

    @pytest.mark.parametrize("policy", BalancingPolicy)
    def test_equal(self, policy: BalancingPolicy) -> None:
        """With equal weights and nothing known of them all get the same."""
        assert_shares(Service(*names(5), balancing=of(policy)).shares(), dict.fromkeys("abcde", 1))

    @pytest.mark.parametrize("policy", [BalancingPolicy.PEAK_EWMA, BalancingPolicy.LEAST_REQUEST])
    def test_load_follows_weight(self, policy: BalancingPolicy) -> None:
        """Requests that stay under way pile up in proportion to the weights."""
        service = Service(*WEIGHTED, balancing=of(policy))
        for _ in range(1000):
            chosen = service.choose()
            assert chosen is not None
            service.begin(chosen)
        loads = {name: service.records.of((name, 80)).in_flight for name in "abc"}
        assert loads["a"] == pytest.approx(100, rel=0.15)
        assert loads["b"] == pytest.approx(200, rel=0.15)
        assert loads["c"] == pytest.approx(700, rel=0.15)


class TestRoundRobin:
    def test_strict_turns(self) -> None:
        """Equals take turns without exception."""
        service = Service(*names(3), balancing=of(BalancingPolicy.ROUND_ROBIN))
        turns = [service.choose() for _ in range(9)]
        assert turns[:3] == turns[3:6] == turns[6:]
        assert len(set(turns)) == 3

    def test_begins_anywhere(self) -> None:
        """Workers do not all begin with the same endpoint."""
        begun = set()
        for seed in range(50):
            service = Service(*names(3), balancing=of(BalancingPolicy.ROUND_ROBIN))
            service.rng.seed(seed)
            begun.add(service.choose())
        assert len(begun) == 3

    def test_weighted_turns_are_spread(self) -> None:
        """Who has most weight is not asked in one go: each ten turns have all shares right."""
        service = Service(*WEIGHTED, balancing=of(BalancingPolicy.ROUND_ROBIN))
        for _ in range(20):
            counts = service.shares(draws=10)
            assert counts["c"] in (6, 7, 8)
            assert counts["a"] in (0, 1, 2)


class TestLeastRequest:
    def test_less_loaded_of_two(self) -> None:
        """Of two endpoints the one with fewer requests is chosen."""
        service = Service(*names(2), balancing=of(BalancingPolicy.LEAST_REQUEST))
        service.begin(Endpoint("a"))
        assert service.chosen() == {"b"}

    def test_most_loaded_of_many_is_never_chosen(self) -> None:
        """Whichever two are drawn, the one with most requests loses."""
        service = Service(*names(5), balancing=of(BalancingPolicy.LEAST_REQUEST))
        service.begin(Endpoint("c"), 2)
        service.begin(Endpoint("a"))
        assert service.chosen() == {"a", "b", "d", "e"}


class TestPeakEwma:
    def test_without_answers_the_less_loaded(self) -> None:
        """Endpoints that nothing is known of, such as those of connections, are chosen by load alone."""
        service = Service(*names(2))
        service.begin(Endpoint("a"), 2)
        service.begin(Endpoint("b"), 1)
        assert service.chosen() == {"b"}

    def test_slow_answers(self) -> None:
        """An endpoint that answers slowly is not chosen beside a quick one that is idle."""
        service = Service(*names(2))
        for name, seconds in (("a", 0.5), ("b", 0.01)):
            service.group.ended(service.records.of((name, 80)), Outcome.SUCCESS, seconds=seconds, now=0.0)
        assert service.chosen() == {"b"}

    def test_quick_until_it_is_busier_than_slow(self) -> None:
        """The quick one is preferred until what waits for it outweighs the slow one's time."""
        service = Service(*names(2))
        for name, seconds in (("a", 0.05), ("b", 0.01)):
            service.group.ended(service.records.of((name, 80)), Outcome.SUCCESS, seconds=seconds, now=0.0)
        service.begin(Endpoint("b"), 3)
        assert service.chosen() == {"b"}
        service.begin(Endpoint("b"), 2)
        assert service.chosen() == {"a"}

    def test_stall_is_felt_at_once_and_forgiven_slowly(self) -> None:
        """One slow answer is enough to be avoided; later the endpoint is asked again."""
        service = Service(*names(2))
        a, b = (service.records.of((name, 80)) for name in "ab")
        for moment in range(100):
            for record in (a, b):
                service.group.ended(record, Outcome.SUCCESS, seconds=0.01, now=moment / 10)
        service.now = 10.0
        service.group.ended(a, Outcome.SUCCESS, seconds=5.0, now=10.0)
        assert service.chosen() == {"b"}
        for moment in range(1000):
            service.now = 10.0 + moment / 10
            service.group.ended(b, Outcome.SUCCESS, seconds=0.01, now=service.now)
            if service.choose() == Endpoint("a"):
                break
        # 5 s against 10 ms: the logarithm of 500, times the decay of 10 s.
        assert 60 < service.now - 10.0 < 75

    def test_unknown_one_is_probed_by_one(self) -> None:
        """A new endpoint gets one request, and no second before that is answered."""
        a, b = names(2)
        service = Service(a, b)
        service.group.ended(service.records.of(("b", 80)), Outcome.SUCCESS, seconds=0.05, now=0.0)
        assert service.chosen() == {"a"}
        service.begin(a)
        assert service.chosen() == {"b"}

    def test_to_fail_fast_attracts_nobody(self) -> None:
        """Quick failures do not make an endpoint look quick."""
        service = Service(*names(2), ejection=OutlierEjection(consecutive_failures=1000))
        a, b = (service.records.of((name, 80)) for name in "ab")
        for record in (a, b):
            service.group.ended(record, Outcome.SUCCESS, seconds=0.05, now=0.0)
        for moment in range(100):
            service.group.ended(a, Outcome.SERVER_ERROR, seconds=0.001, now=moment / 100)
        assert a.latency == 0.05
        service.group.ended(a, Outcome.TIMEOUT, seconds=2.0, now=1.0)
        assert a.latency == 2.0


class TestRingHash:
    @staticmethod
    def _where(service: Service, count: int = 2000) -> dict[int, str]:
        found = ((number, service.choose(keys=Keys(b"key %d" % number))) for number in range(count))
        return {number: endpoint.address for number, endpoint in found if endpoint}

    def test_same_key_same_endpoint(self) -> None:
        """A key always leads to the same endpoint, in whichever order they are listed."""
        forward = Service(*names(5), balancing=RING)
        backward = Service(*reversed(names(5)), balancing=RING)
        assert self._where(forward) == self._where(forward) == self._where(backward)

    def test_keys_are_spread(self) -> None:
        """Each endpoint gets its part of the keys, within a third."""
        where = list(self._where(Service(*names(5), balancing=RING), 10_000).values())
        assert all(1350 < where.count(name) < 2650 for name in "abcde")

    def test_weights(self) -> None:
        """Keys follow the weights."""
        where = list(self._where(Service(*WEIGHTED, balancing=RING), 10_000).values())
        assert where.count("a") == pytest.approx(1000, rel=0.4)
        assert where.count("b") == pytest.approx(2000, rel=0.35)
        assert where.count("c") == pytest.approx(7000, rel=0.2)

    def test_only_keys_of_the_lost_move(self) -> None:
        """When an endpoint goes, or fails, its keys move and no others; they come back with it."""
        a, *others = names(5)
        service = Service(a, *others, balancing=RING)
        before = self._where(service)
        service.change(*others)
        gone = self._where(service)
        service.change(Endpoint("a", healthy=False), *others)
        failing = self._where(service)
        assert gone == failing
        assert all(gone[key] == name for key, name in before.items() if name != "a")
        assert len({gone[key] for key, name in before.items() if name == "a"}) > 1
        service.change(a, *others)
        assert self._where(service) == before

    def test_bounded_load(self) -> None:
        """However popular a key, nobody gets more than 1.25 times an even share of what is under way."""
        service = Service(*names(5), balancing=RING)
        for _ in range(1000):
            chosen = service.choose(keys=Keys(b"popular"))
            assert chosen is not None
            service.begin(chosen)
        loads = sorted(service.records.of((name, 80)).in_flight for name in "abcde")
        assert loads[-1] == 250
        assert sum(loads) == 1000

    def test_without_a_key(self) -> None:
        """Requests without a key go anywhere."""
        assert_shares(Service(*names(4), balancing=RING).shares(), dict.fromkeys("abcd", 1))


class TestLocality:
    NEAR = tuple(Endpoint(f"near{n}", zone="z1", region="r1") for n in range(4))
    REGIONAL = tuple(Endpoint(f"regional{n}", zone="z2", region="r1") for n in range(4))
    FAR = tuple(Endpoint(f"far{n}", zone="z1", region="r2") for n in range(4))
    HOME = Home(region="r1", zone="z1")

    def _shares(
        self, *endpoints: Endpoint, prefer: LocalityPreference, home: Home = HOME
    ) -> dict[str, float]:
        balancing = LoadBalancing(
            policy=BalancingPolicy.RANDOM, locality=Locality(prefer=prefer, healthy_percent=70)
        )
        shares = Service(*endpoints, balancing=balancing, home=home).shares()
        return {
            name: sum(count for address, count in shares.items() if address.startswith(name)) / DRAWS
            for name in ("near", "regional", "far")
        }

    @staticmethod
    def _failing(endpoints: tuple[Endpoint, ...], count: int) -> tuple[Endpoint, ...]:
        return tuple(
            Endpoint(each.address, zone=each.zone, region=each.region, healthy=number >= count)
            for number, each in enumerate(endpoints)
        )

    def test_zone_first(self) -> None:
        """While enough of the zone is healthy nothing leaves it; a zone of another region is not it."""
        shares = self._shares(
            *self._failing(self.NEAR, 1), *self.REGIONAL, *self.FAR, prefer=LocalityPreference.ZONE
        )
        assert shares == {"near": 1, "regional": 0, "far": 0}

    def test_overflow(self) -> None:
        """With half of the zone healthy, where 70 % are wanted, two sevenths go on to the region."""
        shares = self._shares(
            *self._failing(self.NEAR, 2), *self.REGIONAL, *self.FAR, prefer=LocalityPreference.ZONE
        )
        assert shares["near"] == pytest.approx(5 / 7, abs=0.03)
        assert shares["regional"] == pytest.approx(2 / 7, abs=0.03)
        assert shares["far"] == 0

    def test_overflow_further(self) -> None:
        """What the region cannot take either goes further."""
        near, regional = self._failing(self.NEAR, 3), self._failing(self.REGIONAL, 3)
        shares = self._shares(*near, *regional, *self.FAR, prefer=LocalityPreference.ZONE)
        assert shares["near"] == pytest.approx(0.25 / 0.7, abs=0.03)
        assert shares["regional"] == pytest.approx(0.25 / 0.7, abs=0.03)
        assert shares["far"] == pytest.approx(1 - 0.5 / 0.7, abs=0.03)

    def test_nobody_near(self) -> None:
        """Without a healthy endpoint nearby all go on."""
        shares = self._shares(*self._failing(self.NEAR, 4), *self.REGIONAL, prefer=LocalityPreference.ZONE)
        assert shares == {"near": 0, "regional": 1, "far": 0}

    def test_not_enough_anywhere(self) -> None:
        """When no level has enough, each gets its part of what there is."""
        near, regional = self._failing(self.NEAR, 3), self._failing(self.REGIONAL, 3)
        far = self._failing(self.FAR, 4)
        shares = self._shares(*near, *regional, *far, prefer=LocalityPreference.ZONE)
        assert shares["near"] == pytest.approx(1 / 2, abs=0.03)
        assert shares["regional"] == pytest.approx(1 / 2, abs=0.03)

    def test_region(self) -> None:
        """With the region preferred its zones are all alike."""
        shares = self._shares(*self.NEAR, *self.REGIONAL, *self.FAR, prefer=LocalityPreference.REGION)
        assert shares["near"] == pytest.approx(0.5, abs=0.03)
        assert shares["far"] == 0

    @pytest.mark.parametrize(
        ("prefer", "home"), [(LocalityPreference.NONE, HOME), (LocalityPreference.ZONE, Home())]
    )
    def test_no_preference(self, prefer: LocalityPreference, home: Home) -> None:
        """Without a preference, or a place of one's own, distance does not matter."""
        shares = self._shares(*self.NEAR, *self.REGIONAL, *self.FAR, prefer=prefer, home=home)
        assert all(share == pytest.approx(1 / 3, abs=0.03) for share in shares.values())


def test_seeds_decide() -> None:
    """The same seed chooses the same endpoints: nothing but the argument is random."""
    for policy in BalancingPolicy:
        runs = []
        for _ in range(2):
            service = Service(*WEIGHTED, balancing=of(policy))
            service.rng = random.Random(3)  # noqa: S311 - repeatable on purpose
            runs.append([service.choose() for _ in range(50)])
        assert runs[0] == runs[1]
