from collections.abc import Iterator, Mapping

from registry.rules.routing import HttpCall, RouteBook, RouteTable
from tests.registry.rules.routing.documents import API, SERVICES, Spec, http, path, rule

FIELD: Spec = {"headers": [{"name": "x-a", "value": "1"}]}


class Counted(Mapping[str, str]):
    """A header that counts how often it is asked for something."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = fields
        self.asked = 0

    def __getitem__(self, name: str) -> str:
        self.asked += 1
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def table_of(*matches: Spec, **spec: object) -> RouteTable:
    """Give a table of so many rules that each has one of these matches."""
    routes = tuple(
        (http(*(rule(match) for match in matches[i : i + 16]), name=f"r{i}", **spec), i)
        for i in range(0, len(matches), 16)
    )
    table = RouteBook(http_routes=routes, services=SERVICES).table(API, 80, None)
    assert table is not None
    return table


def asked(table: RouteTable, target: str, **fields: str) -> tuple[bool, int]:
    """Say whether a rule matches, and how often a header was asked for on the way."""
    headers = Counted({"x-other": "1"} | fields)
    found = table.match(HttpCall(method="GET", host="api", path=target, headers=headers))
    return found is not None, headers.asked


def test_exact_paths_are_looked_up() -> None:
    """Of a thousand rules with exact paths the one with the request's path is asked."""
    table = table_of(*(path(f"/a/{i}", "Exact", **FIELD) for i in range(1000)))
    assert asked(table, "/a/777", **{"x-a": "1"}) == (True, 1)
    assert asked(table, "/b") == (False, 0)


def test_prefixes_are_looked_up() -> None:
    """Of a thousand rules with prefixes only those of the request's own path are asked."""
    table = table_of(*(path(f"/a/{i}", **FIELD) for i in range(1000)), path("/a", **FIELD))
    assert asked(table, "/a/777/x/y/z", **{"x-a": "1"}) == (True, 1)
    assert asked(table, "/a/777/x/y/z") == (False, 2)
    assert asked(table, "/b/777") == (False, 0)


def test_expressions_are_asked_together() -> None:
    """Of a hundred rules with expressions only those that match the path are asked for the rest."""
    table = table_of(*(path(f"/a{i}/[0-9]+", "RegularExpression", **FIELD) for i in range(100)))
    assert asked(table, "/a77/5", **{"x-a": "1"}) == (True, 1)
    assert asked(table, "/a77/x") == (False, 0)


def test_hosts_are_looked_up() -> None:
    """Of a thousand routes with hostnames only those of the request's host are asked."""
    routes = tuple(
        (http(rule(path("/", **FIELD)), name=f"r{i}", hostnames=[f"h{i}.example", f"*.w{i}.example"]), i)
        for i in range(300)
    )
    table = RouteBook(http_routes=routes, services=SERVICES).table(API, 80, None)
    assert table is not None
    for host in ("h77.example", "x.y.w77.example"):
        headers = Counted({"x-a": "1"})
        assert table.match(HttpCall(method="GET", host=host, path="/", headers=headers)) is not None
        assert headers.asked == 1


def test_deep_path() -> None:
    """However deep a path is, no more prefixes are looked up than the longest has characters."""
    table = table_of(path("/a/b"))
    match = table.match(HttpCall(method="GET", host="api", path="/a/b" + "/x" * 8000))
    assert match is not None
    assert match.prefix == "/a/b"


def test_long_host() -> None:
    """A host that is longer than any hostname matches those routes alone that have none."""
    host = "a." * 20_000 + "example"
    narrow = table_of(path("/"), hostnames=["*.example"])
    assert narrow.match(HttpCall(method="GET", host=host, path="/")) is None
    assert table_of(path("/")).match(HttpCall(method="GET", host=host, path="/")) is not None
