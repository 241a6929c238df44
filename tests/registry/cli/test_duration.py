import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.cli.duration import InvalidDuration, parse_duration, render_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("7d", 604_800), ("1d2h3m4s", 93_784)],
)
def test_units_add_up(text: str, seconds: int) -> None:
    """Each unit counts for its seconds, and several add up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1w", "1m1h", "1.5h", "-1h", "+1h", "1h ", " 1h", "1h1h", "٣h"])
def test_other_text_is_refused(text: str) -> None:
    """Anything else is refused with an example of what to write."""
    with pytest.raises(InvalidDuration, match="1h30m"):
        parse_duration(text)


def test_a_bare_number_is_refused_with_its_units() -> None:
    """A number alone could mean any unit, so the message offers them."""
    with pytest.raises(InvalidDuration, match="write 60s, 60m or 60h"):
        parse_duration("60")


@pytest.mark.parametrize("text", ["0s", "0h0m"])
def test_no_time_at_all_is_refused(text: str) -> None:
    """A token that lives no time is a mistake."""
    with pytest.raises(InvalidDuration, match="no time at all"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**9))
def test_rendering_loses_less_than_the_second_unit(seconds: int) -> None:
    """What is written keeps the two largest units of a length, never more than there is."""
    read = parse_duration(render_duration(seconds))
    assert 0 <= seconds - read < max(60, seconds / 24)


def test_a_past_moment_is_no_time_left() -> None:
    """A negative length is written as none."""
    assert render_duration(-5) == "0s"
