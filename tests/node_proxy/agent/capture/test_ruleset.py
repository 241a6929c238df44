import re

from hypothesis import given
from hypothesis import strategies as st

from node_proxy.agent.capture.ruleset import difference, refill

elements = st.dictionaries(
    st.sampled_from(["vips4", "vips6", "inbound_ports"]),
    st.frozensets(st.integers(0, 20).map(str)),
)
LINE = re.compile(r"(?:(add|delete) element|(flush) set) inet nodemesh (\w+)(?: \{ (.*) \})?\n")


def applied(held: dict[str, frozenset[str]], changes: str) -> dict[str, frozenset[str]]:
    """Do what nft would; deleting what is not there, or adding what is, is an error."""
    after = {name: set(values) for name, values in held.items()}
    assert "".join(match[0] for match in LINE.finditer(changes)) == changes
    for verb, flush, name, listed in LINE.findall(changes):
        values, named = after.setdefault(name, set()), set(listed.split(", "))
        if flush:
            values.clear()
        elif verb == "add":
            assert not named & values
            values |= named
        else:
            assert named <= values
            values -= named
    return {name: frozenset(values) for name, values in after.items() if values}


def filled(held: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Leave empty sets out."""
    return {name: values for name, values in held.items() if values}


@given(elements, elements)
def test_difference(old: dict[str, frozenset[str]], new: dict[str, frozenset[str]]) -> None:
    """A difference turns the old elements into the new ones by adding and deleting elements alone."""
    new = {**dict.fromkeys(old, frozenset()), **new}
    assert applied(old, difference(old, new)) == filled(new)
    assert difference(new, new) == ""


@given(elements, elements)
def test_refill(held: dict[str, frozenset[str]], wanted: dict[str, frozenset[str]]) -> None:
    """A refilled set holds what is wanted, whatever it held."""
    assert applied(held, refill(wanted)) == filled({**held, **wanted})
