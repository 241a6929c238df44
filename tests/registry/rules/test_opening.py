"""Connections over which requests come, and requests that can be read in more than one way."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given

from registry.rules import AuthRequest, Denied, HttpRequest, Permit, authorize, explain
from registry.rules.request import Repeated
from tests.registry.rules.policies import WEB, callers, compiled, few_policies, policy, requests, targets

OPENING = AuthRequest(WEB, 80, opening=True)
PATHS = targets({"paths": ["/a"]})
HEADER = {"when": [{"key": "request.headers[x-role]", "values": ["admin", "ad*"]}]}
NOT_HEADER = {"when": [{"key": "request.headers[x-role]", "notValues": ["admin", "ad*"]}]}


@pytest.mark.parametrize(
    ("action", "rule", "admitted"),
    [
        ("ALLOW", PATHS, True),
        ("ALLOW", targets({"notPaths": ["/a"]}), True),
        ("ALLOW", HEADER, True),
        ("ALLOW", callers({"namespaces": ["batch"]}) | PATHS, False),
        ("ALLOW", targets({"ports": ["81"], "paths": ["/a"]}), False),
        ("DENY", PATHS, True),
        ("DENY", HEADER, True),
        ("DENY", targets({"paths": ["/a"]}, {"ports": ["80"]}), False),
        ("DENY", callers({"namespaces": ["default"]}), False),
        ("DENY", callers({"namespaces": ["default"]}) | PATHS, True),
        ("DENY", {}, False),
    ],
)
def test_opening(action: str, rule: Mapping[str, Any], admitted: bool) -> None:
    """A connection is let in when any request in it might be, whatever else of the rule must hold."""
    decision = authorize(compiled([policy("a", rule, action=action)]), OPENING)
    assert isinstance(decision, Permit if admitted else Denied)


def test_bytes_are_not_requests() -> None:
    """What is not read is not let in by a rule about requests, though a connection of requests is."""
    ready = compiled([policy("a", PATHS)])
    assert isinstance(authorize(ready, OPENING), Permit)
    assert isinstance(authorize(ready, AuthRequest(WEB, 80)), Denied)


def test_opening_is_not_audited() -> None:
    """A connection of requests counts for no AUDIT policy: each of its requests will."""
    ready = compiled([policy("a", {}, action="AUDIT")])
    assert authorize(ready, OPENING).audited == ()
    http = HttpRequest("GET", "/", "api")
    assert authorize(ready, AuthRequest(WEB, 80, http=http)).audited == ("default/a",)


def test_opening_is_explained() -> None:
    """It is said which rules wait for the requests."""
    (verdict,) = explain(compiled([policy("a", PATHS, action="DENY")]), OPENING).verdicts
    assert not verdict.matched
    assert verdict.rules[0].misses[0].found == "each request of the connection is asked about by itself"


@given(few_policies, requests)
def test_no_request_is_let_in_over_a_refused_connection(policies: Any, request: AuthRequest) -> None:
    """Whoever may ask anything may open a connection for it."""
    if request.http is None:
        return
    ready = compiled(policies)
    opening = AuthRequest(
        request.source,
        request.port,
        source_ip=request.source_ip,
        remote_ip=request.remote_ip,
        destination_ip=request.destination_ip,
        sni=request.sni,
        opening=True,
    )
    if isinstance(authorize(ready, request), Permit):
        assert isinstance(authorize(ready, opening), Permit)


def ask(rule: Mapping[str, Any], path: str, action: str = "ALLOW") -> bool:
    """Say whether a request for `path` is let in."""
    http = HttpRequest("GET", path, "api")
    ready = compiled([policy("a", rule, action=action)])
    return isinstance(authorize(ready, AuthRequest(WEB, 80, http=http)), Permit)


class TestEscapedSlashes:
    def test_allow(self) -> None:
        """A rule lets in a path with an escaped slash only if every reading of it is right."""
        rule = targets({"paths": ["/pub/*"]})
        assert ask(rule, "/pub/a%2Fb")
        assert not ask(rule, "/pub/..%2Fadmin")
        assert not ask(rule, "/x%2F..%2Fpub/a")
        assert not ask(rule, "/pub/x%2F..%2F..%2Fadmin%2Fy%5C..%5C..%5Cpub%5Cz")

    def test_allow_by_different_rules(self) -> None:
        """Each reading may be right by a rule of its own."""
        rule = targets({"paths": ["/a/b"]}, {"paths": ["/{*}"]})
        assert ask(rule, "/a%2fb")
        assert not ask(rule, "/a%2fc")

    def test_deny(self) -> None:
        """A rule refuses a path when any reading of it is meant."""
        rule = targets({"paths": ["/admin/*"]})
        assert not ask(rule, "/admin%2Fusers", "DENY")
        assert not ask(rule, "/admin/..%2Fusers", "DENY")
        assert not ask(rule, "/x/..%5Cadmin/users", "DENY")
        assert ask(rule, "/x%2Fadmin", "DENY")

    def test_decoded_once(self) -> None:
        """What is escaped twice is no slash to anybody who decodes once."""
        assert ask(targets({"paths": ["/admin/*"]}), "/admin/..%252Fx")
        assert ask(targets({"paths": ["/admin/*"]}), "/x/..%252Fadmin/", "DENY")

    def test_explained(self) -> None:
        """The explanation shows the reading that is refused."""
        http = HttpRequest("GET", "/pub/..%2Fadmin", "api")
        found = explain(
            compiled([policy("a", targets({"paths": ["/pub/*"]}))]), AuthRequest(WEB, 80, http=http)
        )
        assert isinstance(found.decision, Denied)
        assert found.verdicts[0].rules[0].misses[0].found == "/admin"

    def test_audited_in_any_reading(self) -> None:
        """An AUDIT policy hears of a request whichever reading it matches."""
        http = HttpRequest("GET", "/x%2Fadmin", "api")
        ready = compiled([policy("a", targets({"paths": ["/{*}"]}), action="AUDIT")])
        assert authorize(ready, AuthRequest(WEB, 80, http=http)).audited == ("default/a",)


@pytest.mark.parametrize(
    ("values", "allowed", "allowed_by_not", "denied", "denied_by_not"),
    [
        (("admin",), True, False, True, False),
        (("user",), False, True, False, True),
        (("admin", "user"), False, False, True, True),
        (("user", "admin"), False, False, True, True),
        (("admin1", "admin2"), True, False, True, False),
        (("user", "guest"), False, True, False, True),
    ],
)
def test_repeated_headers(
    values: tuple[str, ...], allowed: bool, allowed_by_not: bool, denied: bool, denied_by_not: bool
) -> None:
    """A header that comes several times lets in only if all its values do, and any of them is refused."""
    value = values[0] if len(values) == 1 else Repeated(values)
    request = AuthRequest(WEB, 80, http=HttpRequest("GET", "/", "api", {"x-role": value}))

    def permitted(rule: Mapping[str, Any], action: str) -> bool:
        return isinstance(authorize(compiled([policy("a", rule, action=action)]), request), Permit)

    assert permitted(HEADER, "ALLOW") is allowed
    assert permitted(NOT_HEADER, "ALLOW") is allowed_by_not
    assert permitted(HEADER, "DENY") is not denied
    assert permitted(NOT_HEADER, "DENY") is not denied_by_not
