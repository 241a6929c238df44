"""What is explained is what happened."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.rules.routing import HttpCall, RouteBook, explain_route
from tests.registry.rules.routing.cases import read_scenarios
from tests.registry.rules.routing.documents import API, SERVICES, Spec, grpc, http, path, rule

PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/s.A/M", "/s.A/N"]
HOSTS = ["a.example", "b.example", "x.a.example", "example", "api"]


def parts(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Spec]:
    return st.fixed_dictionaries({}, optional=optional)


matches = parts(
    path=st.one_of(
        st.builds(lambda value: {"value": value}, st.sampled_from(PATHS)),
        st.builds(lambda value: {"type": "Exact", "value": value}, st.sampled_from(PATHS)),
        st.sampled_from([{"type": "RegularExpression", "value": text} for text in ("/a.*", "/[ab]", "/.*")]),
    ),
    method=st.sampled_from(["GET", "POST"]),
    headers=st.sampled_from(
        [
            [{"name": "x-a", "value": "1"}],
            [{"name": "x-b", "value": "2|3", "type": "RegularExpression"}],
            [{"name": "x-a", "value": "1"}, {"name": "x-b", "value": "2"}],
        ]
    ),
    queryParams=st.just([{"name": "q", "value": "1"}]),
)
hostnames = st.lists(st.sampled_from(["a.example", "b.example", "*.example", "*.a.example"]), unique=True)
rules = st.lists(st.lists(matches, max_size=3), min_size=1, max_size=4)
routes = st.lists(st.tuples(rules, hostnames, st.integers(1, 3)), min_size=1, max_size=4)
calls = st.builds(
    lambda method, host, path, query, headers: HttpCall(
        method=method, host=host, path=path + query, headers=headers
    ),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(HOSTS),
    st.sampled_from(PATHS),
    st.sampled_from(["", "?q=1", "?q=2"]),
    st.fixed_dictionaries(
        {}, optional={"x-a": st.sampled_from(["1", "2"]), "x-b": st.sampled_from(["2", "3"])}
    ),
)


@settings(max_examples=300, deadline=None)
@given(routes, calls)
def test_agrees_with_the_index(written: list[tuple[Any, list[str], int]], call: HttpCall) -> None:
    """Asking every match in the order of precedence comes to what the index finds."""
    book = RouteBook(
        http_routes=tuple(
            (http(*(rule(*each) for each in found), name=f"r{i}", hostnames=hosts), revision)
            for i, (found, hosts, revision) in enumerate(written)
        ),
        services=SERVICES,
    )
    table = book.table(API, 80, None)
    assert table is not None
    explanation = explain_route(table, call)
    assert table.match(call) is explanation.found
    chosen = [each for each in explanation.verdicts if each.chosen]
    assert len(chosen) == (explanation.found is not None)
    assert all(bool(each.misses) is not each.matched for each in explanation.verdicts)


def test_agrees_with_the_cases() -> None:
    """So it does for each case that is data, gRPC's too."""
    for _, scenario in read_scenarios():
        book = scenario.book()
        for case in scenario.cases:
            table = book.table(*case.called, case.caller_namespace)
            if table is not None:
                call = HttpCall.read(*case.request)
                assert explain_route(table, call).found is table.match(call)


def test_what_was_in_the_way() -> None:
    """For a match that fails each field in the way is named, with what it wants and what it got."""
    asks = path("/a", method="POST", headers=[{"name": "X-A", "value": "1"}])
    asks["queryParams"] = [{"name": "q", "value": "[0-9]", "type": "RegularExpression"}]
    book = RouteBook(
        http_routes=((http(rule(path("/z"), asks), hostnames=["*.example"]), 1),), services=SERVICES
    )
    table = book.table(API, 80, None)
    assert table is not None
    call = HttpCall(method="GET", host="api:80", path="/ab?q=x", headers={"x-a": ""})
    (said,) = [each for each in explain_route(table, call).verdicts if each.number == 1]
    assert [(miss.field, miss.wanted, miss.found) for miss in said.misses] == [
        ("spec.hostnames", "*.example", "api"),
        ("spec.rules[0].matches[1].path", "/a or below", "/ab"),
        ("spec.rules[0].matches[1].method", "POST", "GET"),
        ("spec.rules[0].matches[1].headers[0]", "x-a=1", "an empty value"),
        ("spec.rules[0].matches[1].queryParams[0]", "q~[0-9]", "x"),
    ]


def test_why_it_matched() -> None:
    """For a match that holds the fields that it asked for are named, and no others."""
    book = RouteBook(
        grpc_routes=((grpc({"matches": [{"method": {"method": "Get"}}]}), 1),), services=SERVICES
    )
    table = book.table(API, 90, None)
    assert table is not None
    (said,) = explain_route(table, HttpCall(method="POST", host="api", path="/a.B/Get")).verdicts
    assert (said.chosen, said.because) == (True, ("spec.rules[0].matches[0].method",))
