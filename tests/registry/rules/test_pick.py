import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.rules import pick


@dataclass(frozen=True)
class Endpoint:
    name: str
    healthy: bool = True
    weight: int = 100
    load: float = 0.0
    ejected: bool = False


def _pick(
    endpoints: list[Endpoint], *, seed: int = 0, exclude: frozenset[Endpoint] = frozenset()
) -> Endpoint | None:
    return pick(
        endpoints,
        load=lambda endpoint: endpoint.load,
        rng=random.Random(seed),  # noqa: S311 (repeatable on purpose)
        exclude=exclude,
        ejected=lambda endpoint: endpoint.ejected,
    )


def _picked(endpoints: list[Endpoint], *, exclude: frozenset[Endpoint] = frozenset()) -> set[str]:
    """Give all that are ever picked."""
    picks = (_pick(endpoints, seed=seed, exclude=exclude) for seed in range(300))
    return {endpoint.name for endpoint in picks if endpoint}


def _shares(endpoints: list[Endpoint], draws: int = 4000) -> Counter[str]:
    rng = random.Random(1)  # noqa: S311 (repeatable on purpose)
    picks = (pick(endpoints, load=lambda endpoint: endpoint.load, rng=rng) for _ in range(draws))
    return Counter(endpoint.name for endpoint in picks if endpoint)


UP = Endpoint("up")
UP2 = Endpoint("up2")
DOWN = Endpoint("down", healthy=False)
EJECTED = Endpoint("ejected", ejected=True)
DRAINED = Endpoint("drained", weight=0)
DRAINED_DOWN = Endpoint("drained-down", weight=0, healthy=False)


@pytest.mark.parametrize(
    ("endpoints", "picked"),
    [
        ([], set()),
        ([UP], {"up"}),
        ([UP, UP2], {"up", "up2"}),
        ([UP, DOWN, EJECTED, DRAINED], {"up"}),
        ([DOWN, DRAINED], {"drained"}),
        ([EJECTED, DRAINED], {"drained"}),
        ([DOWN, EJECTED], {"down", "ejected"}),
        ([DOWN, DRAINED_DOWN], {"down"}),
        ([DRAINED_DOWN], {"drained-down"}),
        ([DRAINED, Endpoint("drained2", weight=0)], {"drained", "drained2"}),
    ],
)
def test_who_is_picked(endpoints: list[Endpoint], picked: set[str]) -> None:
    """Healthy ones with weight, else drained ones, else (panic) any that are left."""
    assert _picked(endpoints) == picked


@pytest.mark.parametrize(
    ("endpoints", "excluded", "picked"),
    [
        ([UP, UP2], [UP], {"up2"}),
        ([UP, UP2], [UP, UP2], set()),
        ([UP, DOWN], [UP], {"down"}),
        ([DOWN, EJECTED], [DOWN], {"ejected"}),
        ([UP, DRAINED, DOWN], [UP], {"drained"}),
    ],
)
def test_excluded(endpoints: list[Endpoint], excluded: list[Endpoint], picked: set[str]) -> None:
    """What was tried is never picked again, in panic neither."""
    assert _picked(endpoints, exclude=frozenset(excluded)) == picked


def test_less_loaded_of_two() -> None:
    """Of two endpoints the less loaded is always taken."""
    assert _picked([Endpoint("busy", load=5), Endpoint("idle", load=4)]) == {"idle"}


def test_busiest_of_many() -> None:
    """The busiest of several is never taken, because it loses to whichever is drawn with it."""
    endpoints = [Endpoint(str(load), load=load) for load in range(5)]
    assert _picked(endpoints) == {"0", "1", "2", "3"}


def test_even_when_idle() -> None:
    """Endpoints without load share evenly."""
    shares = _shares([Endpoint(name) for name in "abcd"])
    assert all(900 < shares[name] < 1100 for name in "abcd")


def test_weights_when_idle() -> None:
    """Endpoints without load share by weight."""
    shares = _shares([Endpoint("a", weight=100), Endpoint("b", weight=300)])
    assert 900 < shares["a"] < 1100


@pytest.mark.parametrize(("light", "taken"), [(1.0, "light"), (1.1, "heavy")])
def test_load_per_weight(light: float, taken: str) -> None:
    """Load counts relative to weight: three times the weight may carry three times the load."""
    assert _picked([Endpoint("light", weight=1, load=light), Endpoint("heavy", weight=3, load=3.2)]) == {
        taken
    }


def test_same_seed() -> None:
    """The choice is a function of its arguments, randomness included."""
    endpoints = [Endpoint(str(i)) for i in range(10)]
    assert [_pick(endpoints, seed=7)] * 5 == [_pick(endpoints, seed=7) for _ in range(5)]


def test_endpoint_listed_twice() -> None:
    """The same endpoint listed twice is picked like any other."""
    assert _picked([UP, UP]) == {"up"}


endpoints_strategy = st.lists(
    st.builds(
        Endpoint,
        name=st.sampled_from("abcdefgh"),
        healthy=st.booleans(),
        weight=st.sampled_from([0, 1, 100]),
        load=st.floats(0, 100),
        ejected=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda endpoint: endpoint.name,
)


@given(endpoints_strategy, st.integers(0, 1000), st.data())
def test_somebody_unless_all_are_excluded(endpoints: list[Endpoint], seed: int, data: st.DataObject) -> None:
    """An endpoint that is not excluded is found whenever there is one."""
    exclude = frozenset(data.draw(st.sets(st.sampled_from(endpoints)))) if endpoints else frozenset()
    picked = _pick(endpoints, seed=seed, exclude=exclude)
    assert (picked is None) is (set(endpoints) <= exclude)
    assert picked not in exclude


@given(endpoints_strategy, st.integers(0, 1000))
def test_never_worse_than_need_be(endpoints: list[Endpoint], seed: int) -> None:
    """While a healthy endpoint with weight is there, no other is picked."""
    good = [each for each in endpoints if each.healthy and not each.ejected and each.weight]
    picked = _pick(endpoints, seed=seed)
    assert not good or picked in good
