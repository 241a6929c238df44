"""Virtual IPs: unique, stable, and where the name says if that is free."""

from hypothesis import given
from hypothesis import strategies as st

from registry.vips import allocate, read_networks

BOTH = read_networks(("240.240.0.0/16", "fd6d:6573:6800::/64"))
SMALL = read_networks(("10.9.0.0/28",))


def test_one_of_each_family() -> None:
    """A service gets one address of each range, in the ranges' order."""
    (addresses,) = allocate({}, ["default/web"], BOTH).values()
    assert [":" in address for address in addresses] == [False, True]


def test_same_name_same_address() -> None:
    """A mesh made again from the same services gives them the same addresses."""
    names = [f"default/s{number}" for number in range(100)]
    assert allocate({}, names, BOTH) == allocate({}, names[::-1], BOTH)


names = st.sets(st.from_regex(r"[a-z]{1,3}/[a-z]{1,3}", fullmatch=True), max_size=20)


@given(held=names, wanting=names)
def test_unique_and_stable(held: set[str], wanting: set[str]) -> None:
    """Nobody's address moves when others come or go, and no address is given twice."""
    before = allocate({}, held, BOTH)
    after = allocate(before, held | wanting, BOTH)
    assert {name: after[name] for name in held} == before
    everything = [address for addresses in after.values() for address in addresses]
    assert len(everything) == len(set(everything)) == 2 * len(held | wanting)


def test_until_used_up() -> None:
    """A range gives every address but its first and last, then none, without giving one twice."""
    given = allocate({}, [f"default/s{number:02}" for number in range(20)], SMALL)
    addresses = {address for addresses in given.values() for address in addresses}
    assert addresses == {f"10.9.0.{host}" for host in range(1, 15)}


def test_freed() -> None:
    """The address of a service that is gone is given again."""
    full = allocate({}, [f"default/s{number:02}" for number in range(14)], SMALL)
    freed = full.pop("default/s03")
    assert allocate(full, ["default/new"], SMALL)["default/new"] == freed


def test_two_claim_one() -> None:
    """Of two services with one address the first by name keeps it."""
    given = allocate({"a/b": ("10.9.0.4",), "a/a": ("10.9.0.4",)}, ["a/a", "a/b"], SMALL)
    assert given["a/a"] == ("10.9.0.4",)
    assert given["a/b"] != ("10.9.0.4",)


def test_moved_range() -> None:
    """Addresses outside the ranges, and what is no address, are given up."""
    given = allocate({"a/a": ("240.240.1.1", "nonsense")}, ["a/a"], SMALL)
    assert given["a/a"][0].startswith("10.9.0.")


def test_kept_without_wanting() -> None:
    """A service that wants none keeps what it has, and gets none where it has none."""
    assert allocate({"a/a": ("10.9.0.4",), "a/b": ()}, [], SMALL) == {"a/a": ("10.9.0.4",), "a/b": ()}
