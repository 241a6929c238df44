import pytest

from registry.model.http_route import HTTPRouteMatch, Method, PathMatch, PathMatchType
from registry.rules.routing import HttpCall, compile_matches
from registry.rules.routing.call import MAX_QUERY_PARAMETERS


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("API", "api"),
        ("api:80", "api"),
        ("[FD00::1]:80", "[fd00::1]"),
        ("[fd00::1]", "[fd00::1]"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("", ""),
    ],
)
def test_hostname(authority: str, host: str) -> None:
    """The host is without its port and in lower case, an address of IPv6 too."""
    assert HttpCall(method="GET", host=authority, path="/").hostname == host


def test_joined_headers() -> None:
    """The values of one name are joined, in order."""
    call = HttpCall.read(b"GET", b"api", b"/", [(b"a", b"1"), (b"b", b"x"), (b"a", b"2")])
    assert call.headers == {"a": "1,2", "b": "x"}


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("", None),
        ("x", None),
        ("a", ""),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("&&a=1", "1"),
        ("a=%C3%A4+%2B", "ä +"),
        ("a=%FF", "\N{REPLACEMENT CHARACTER}"),
        ("a=%zz", "%zz"),
        ("a=1#a=2", "1"),
    ],
)
def test_parameter(query: str, value: str | None) -> None:
    """A parameter is decoded, whatever it holds."""
    assert HttpCall(method="GET", host="", path=f"/?{query}").parameter("a") == value


def test_many_parameters() -> None:
    """Only so many parameters are looked at."""
    before = "&".join("x" for _ in range(MAX_QUERY_PARAMETERS))
    assert HttpCall(method="GET", host="", path=f"/?{before}&a=1").parameter("a") is None
    assert HttpCall(method="GET", host="", path=f"/?{before[2:]}&a=1").parameter("a") == "1"


class TestMatchesOutsideOfRoutes:
    def test_none(self) -> None:
        """No matches match every request."""
        assert compile_matches(())(HttpCall(method="GET", host="", path="/x"))

    def test_any(self) -> None:
        """Of several any will do, each in all it asks for."""
        holds = compile_matches(
            (
                HTTPRouteMatch(path=PathMatch(value="/a"), method=Method.GET),
                HTTPRouteMatch(path=PathMatch(type=PathMatchType.REGULAR_EXPRESSION, value="/b[0-9]")),
            )
        )
        assert holds(HttpCall(method="GET", host="", path="/a/x"))
        assert holds(HttpCall(method="PUT", host="", path="/b7"))
        assert not holds(HttpCall(method="PUT", host="", path="/a/x"))
        assert not holds(HttpCall(method="GET", host="", path="/ab"))
        assert not holds(HttpCall(method="GET", host="", path="/b77"))
