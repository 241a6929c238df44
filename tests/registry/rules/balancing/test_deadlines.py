import math

import pytest

from registry.model.backend_policy import BackendTimeouts
from registry.rules.balancing.deadlines import CONNECT, Timeouts, compile_timeouts
from registry.rules.routing.values import RouteTimeouts

POLICY = BackendTimeouts(connect="250ms", request="10s", per_try="2s", idle="1m")


def test_policy() -> None:
    """The policy's durations are taken over in seconds."""
    assert compile_timeouts(POLICY) == Timeouts(request=10.0, per_try=2.0, idle=60.0, connect=0.25)


def test_defaults() -> None:
    """Without a policy nothing is limited but the time to reach an endpoint."""
    assert compile_timeouts(BackendTimeouts()) == Timeouts(math.inf, math.inf, math.inf, CONNECT)


def test_zero_is_no_limit() -> None:
    """As in Gateway API, zero seconds are no limit."""
    assert compile_timeouts(BackendTimeouts(request="0s", connect="0s")).request == math.inf
    assert compile_timeouts(BackendTimeouts(request="0s", connect="0s")).connect == math.inf


@pytest.mark.parametrize(
    ("route", "request_", "per_try"),
    [
        (RouteTimeouts(), 10.0, 2.0),
        (RouteTimeouts(request=30.0), 30.0, 2.0),
        (RouteTimeouts(backend_request=0.5), 10.0, 0.5),
        (RouteTimeouts(request=math.inf, backend_request=math.inf), math.inf, math.inf),
    ],
)
def test_route_goes_first(route: RouteTimeouts, request_: float, per_try: float) -> None:
    """What a route says replaces what the policy says, also when it says that there is no limit."""
    timeouts = compile_timeouts(POLICY, route)
    assert (timeouts.request, timeouts.per_try) == (request_, per_try)
    assert (timeouts.idle, timeouts.connect) == (60.0, 0.25)


@pytest.mark.parametrize(("asked", "deadline"), [(None, 110.0), (3.0, 103.0), (60.0, 110.0)])
def test_smaller_wins(asked: float | None, deadline: float) -> None:
    """Of what the caller asks for and what the policy allows the smaller holds."""
    assert compile_timeouts(POLICY).deadline(100.0, asked) == deadline


def test_tries_end_with_the_request() -> None:
    """A try has its own time, but never more than is left of the request's."""
    timeouts = compile_timeouts(POLICY)
    assert timeouts.try_deadline(100.0, 110.0) == 102.0
    assert timeouts.try_deadline(109.0, 110.0) == 110.0
