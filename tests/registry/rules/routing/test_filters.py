"""What the cases that are data do not say of filters."""

from hypothesis import given
from hypothesis import strategies as st

from registry.rules.paths import forwardable, normalise
from registry.rules.routing import (
    Fields,
    HeaderChange,
    HttpCall,
    PathChange,
    RouteBook,
    change_headers,
    change_path,
)
from tests.registry.rules.routing.documents import API, SERVICES, http, path, rule

segments = st.lists(
    st.sampled_from(["a", "foo", "..", ".", "", "%2F", "%2f..%2F", "%5C..", "..;x", "b%20", "%2e%2e"]),
    max_size=6,
)
targets = st.builds(
    lambda found, query: "/" + "/".join(found) + query, segments, st.sampled_from(["", "?q=%2F.."])
)


@given(targets)
def test_replaced_prefix_is_not_left(target: str) -> None:
    """However dots and slashes are hidden, what takes the prefix's place stays in front."""
    book = RouteBook(http_routes=((http(rule(path("/foo"))), 1),), services=SERVICES)
    table = book.table(API, 80, None)
    assert table is not None
    match = table.match(HttpCall(method="GET", host="api", path=target))
    if match is not None:
        changed = change_path(target.encode(), match.prefix, PathChange("/new", prefix=True)).decode()
        behind = normalise(target).removeprefix("/foo")
        assert normalise(changed) == f"/new{behind}"
        assert changed.partition("?")[2] == target.partition("?")[2]


@given(targets)
def test_changed_paths_are_in_their_one_spelling(target: str) -> None:
    """What comes of a change is what would be sent on without further changes."""
    changed = change_path(target.encode(), "", PathChange("/new/", prefix=True)).decode()
    assert forwardable(changed) == changed


def test_asterisk_stays() -> None:
    """``OPTIONS *`` has no path to change."""
    for change in (PathChange("/x", prefix=True), PathChange("/x", prefix=False)):
        assert change_path(b"*", "", change) == b"*"


def test_nothing_is_changed_in_place() -> None:
    """The header that is given stays as it is."""
    fields: Fields = [(b"a", b"1"), (b"b", b"2")]
    change = HeaderChange(set=((b"a", b"9"),), add=((b"b", b"3"),), remove=frozenset({b"c"}))
    assert change_headers(fields, (change,)) == [(b"b", b"2"), (b"a", b"9"), (b"b", b"3")]
    assert fields == [(b"a", b"1"), (b"b", b"2")]


def test_several_lines_are_replaced_by_one() -> None:
    """What is set replaces every line of that name, and what is removed goes in all its lines."""
    fields: Fields = [(b"a", b"1"), (b"a", b"2"), (b"c", b"3"), (b"c", b"4")]
    change = HeaderChange(set=((b"a", b"9"),), remove=frozenset({b"c"}))
    assert change_headers(fields, (change,)) == [(b"a", b"9")]
