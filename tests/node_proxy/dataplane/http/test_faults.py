import random

import pytest

from node_proxy.dataplane.http.faults import ABORT_STATUS, Drawn, Faults
from registry.model.backend_policy import Abort, Delay, Fault
from registry.model.http_route import HTTPRouteMatch, PathMatch
from registry.rules.routing import HttpCall

RNG = random.Random(7)  # noqa: S311 - the same choices in every run


def call(path: str = "/") -> HttpCall:
    """Give a request for a path."""
    return HttpCall(method="GET", host="api", path=path)


def test_none() -> None:
    """Without faults nothing happens, and nothing is asked."""
    assert not Faults(())
    assert Faults(()).draw(call(), RNG) is None


def test_matches() -> None:
    """Only what matches suffers."""
    matches = (HTTPRouteMatch(path=PathMatch(value="/slow")),)
    faults = Faults([Fault(name="slow", matches=matches, delay=Delay(percent=100, duration="2s"))])
    assert faults.draw(call("/slow/x"), RNG) == Drawn(delay=2.0, delayed_by="slow")
    assert faults.draw(call("/slower"), RNG) is None


def test_delays_add_up_and_the_first_abort_ends_it() -> None:
    """All that match happen in their order, until one aborts."""
    faults = Faults(
        [
            Fault(name="a", delay=Delay(percent=100, duration="1s")),
            Fault(
                name="b",
                delay=Delay(percent=100, duration="500ms"),
                abort=Abort(percent=100, http_status=418, grpc_status=9),
            ),
            Fault(name="c", abort=Abort(percent=100, http_status=500)),
        ]
    )
    assert faults.draw(call(), RNG) == Drawn(1.5, "a", 418, 9, "b")


def test_abort_of_grpc_alone() -> None:
    """An abort that names only a gRPC status is 503 to who speaks no gRPC."""
    faults = Faults([Fault(name="a", abort=Abort(percent=100, grpc_status=8))])
    assert faults.draw(call(), RNG) == Drawn(status=ABORT_STATUS, grpc_status=8, aborted_by="a")


@pytest.mark.parametrize("percent", [0, 0.5, 20, 100])
def test_share(percent: float) -> None:
    """The share that suffers is the one asked for, within what chance allows."""
    rng = random.Random(7)  # noqa: S311
    faults = Faults([Fault(name="a", abort=Abort(percent=percent, http_status=500))])
    hit = sum(faults.draw(call(), rng) is not None for _ in range(20_000)) / 200
    assert hit == pytest.approx(percent, abs=1)
