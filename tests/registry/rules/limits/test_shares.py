import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.rules.limits.shares import FLOOR, even_share, water_fill

demands = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1e6), min_size=1)


@given(demands, st.floats(0.1, 1e5))
def test_shares_add_up_to_the_limit(wanted: dict[str, float], limit: float) -> None:
    """All shares together are the limit, whatever is asked for: neither more passes nor is any lost."""
    assert sum(water_fill(wanted, limit).values()) == pytest.approx(limit)


@given(demands, st.floats(0.1, 1e5))
def test_nobody_lacks_while_another_has_more(wanted: dict[str, float], limit: float) -> None:
    """Who gets less than it asks for gets no less than anybody else: to ask for more than all is no use."""
    shares = water_fill(wanted, limit)
    most = max(shares.values())
    for name, demand in wanted.items():
        if shares[name] < demand * (1 - 1e-9):
            assert shares[name] == pytest.approx(most)


@given(demands, st.floats(0.1, 1e5))
def test_everybody_has_something(wanted: dict[str, float], limit: float) -> None:
    """A node that was asked for nothing yet can let the first requests through."""
    least = min(water_fill(wanted, limit).values())
    assert least >= limit * FLOOR / len(wanted) * (1 - 1e-9)


def test_small_demands_are_met() -> None:
    """A node that asks for little gets it, with something above; the busy ones divide the rest."""
    shares = water_fill({"a": 10, "b": 500, "c": 900}, 100)
    assert shares["a"] == pytest.approx(10 * 1.05)
    assert shares["b"] == shares["c"] == pytest.approx((100 - shares["a"]) / 2)


def test_what_is_left_is_for_all() -> None:
    """With less asked for than there is, all get the same above their demands."""
    shares = water_fill({"a": 10, "b": 40}, 100)
    assert shares["a"] > 10
    assert shares["b"] - 40 * 1.05 == pytest.approx(shares["a"] - 10 * 1.05)


@pytest.mark.parametrize("demand", [-5.0, math.nan, math.inf])
def test_no_number_is_no_demand(demand: float) -> None:
    """What a node says that cannot be true gives it nothing beyond the even."""
    shares = water_fill({"liar": demand, "b": 100}, 100)
    assert shares["liar"] == pytest.approx(100 * FLOOR / 2)


def test_nobody_shares_nothing() -> None:
    """Without nodes there are no shares."""
    assert water_fill({}, 100) == {}


def test_even_share() -> None:
    """A node that knows the others' number alone takes its part, and all when it is alone."""
    assert even_share(4) == 0.25
    assert even_share(0) == 1.0
