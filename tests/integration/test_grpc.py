"""gRPC through both proxies: the caller and the workload are grpcio's."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from registry.model.backend_policy import Abort, Fault
from registry.model.mesh import DefaultAuthorization
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.grpc_workloads import Echo, calling, failure, run_grpc
from tests.integration.pair import SERVICE_PORT, Pair, run_pair
from tests.integration.snapshots import backend_policy
from tests.integration.workloads import refusing_port

SECONDS = 5


class Services:
    """A running pair of proxies, the workload behind them, and the caller's channel."""

    def __init__(self, pair: Pair, echo: Echo, channel: Any) -> None:
        self.pair = pair
        self.echo = echo
        self.channel = channel


@pytest.fixture(scope="module")
def services(authority: Authority) -> Iterator[Services]:
    """Run a gRPC service, and one that is down."""
    with (
        run_grpc() as (port, echo),
        refusing_port() as refusing,
        run_pair(authority, {"api": [port], "down": [refusing]}, protocol=PortProtocol.GRPC) as pair,
        calling(pair.near.ports[f"default/api:{SERVICE_PORT}"]) as channel,
    ):
        yield Services(pair, echo, channel)


def test_unary(services: Services) -> None:
    """A call passes, with metadata both ways and binary trailers."""
    answer, call = services.channel.unary_unary("/t.Echo/Unary").with_call(
        b"hello", metadata=[("x-sent", "one")], timeout=SECONDS
    )
    assert answer == b"hello"
    assert dict(call.initial_metadata())["x-seen"] == "one"
    assert dict(call.trailing_metadata())["x-after-bin"] == b"\x00\xff"


def test_large(services: Services) -> None:
    """Messages of many windows pass whole."""
    body = bytes(range(256)) * 12_000
    assert services.channel.unary_unary("/t.Echo/Unary")(body, timeout=SECONDS) == body


def test_streams(services: Services) -> None:
    """All three kinds of streaming pass, in order."""
    channel = services.channel
    down = list(channel.unary_stream("/t.Echo/Down")(b"n", timeout=SECONDS))
    assert down == [b"n%d" % number for number in range(100)]
    assert channel.stream_unary("/t.Echo/Up")(iter([b"x" * 1000] * 500), timeout=SECONDS) == b"500000"
    both = channel.stream_stream("/t.Echo/Both")(iter([b"ab", b"cd"]), timeout=SECONDS)
    assert list(both) == [b"ba", b"dc"]


def test_conversation(services: Services) -> None:
    """Each message of a stream passes at once, without waiting for the next."""
    answers: list[bytes] = []

    def ask() -> Iterator[bytes]:
        for number in range(5):
            yield b"%d!" % number
            while len(answers) <= number:
                time.sleep(0.001)

    for answer in services.channel.stream_stream("/t.Echo/Both")(ask(), timeout=SECONDS):
        answers.append(answer)  # noqa: PERF402 - `ask` looks at it meanwhile
    assert answers == [b"!%d" % number for number in range(5)]


def test_status(services: Services) -> None:
    """A status and its message pass as the workload gave them."""
    error = failure(lambda: services.channel.unary_unary("/t.Echo/Fails")(b"", timeout=SECONDS))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "50 % of it — never"


def test_unknown_method(services: Services) -> None:
    """So does what the workload says of a method that it does not have."""
    error = failure(lambda: services.channel.unary_unary("/t.Echo/None")(b"", timeout=SECONDS))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_deadline_passed_on(services: Services) -> None:
    """The workload learns how long its caller still waits."""
    left = float(services.channel.unary_unary("/t.Echo/Timeout")(b"", timeout=SECONDS))
    # grpcio rounds up what it says.
    assert SECONDS - 3 < left < SECONDS + 0.5


@pytest.mark.parametrize("by_deadline", [False, True])
def test_cancellation(services: Services, by_deadline: bool) -> None:
    """A call that is cancelled, or too late, ends at the workload long before it would by itself."""
    before = len(services.echo.cancelled)
    call = services.channel.unary_stream("/t.Echo/Never")(b"", timeout=0.5 if by_deadline else SECONDS)
    assert next(call) == b"begun"
    if not by_deadline:
        call.cancel()
    error = failure(lambda: next(call))
    assert error.code().name == ("DEADLINE_EXCEEDED" if by_deadline else "CANCELLED")
    began = time.monotonic()
    while len(services.echo.cancelled) == before:
        time.sleep(0.01)
        assert time.monotonic() - began < SECONDS


def test_many_at_once(services: Services) -> None:
    """A hundred calls at a time share the caller's connection."""
    method = services.channel.unary_unary("/t.Echo/Unary")
    calls = [method.future(b"%d" % number, timeout=SECONDS) for number in range(100)]
    assert [each.result() for each in calls] == [b"%d" % number for number in range(100)]


def test_down(services: Services) -> None:
    """A workload that is not there is UNAVAILABLE, with the mesh's reason."""
    with calling(services.pair.near.ports[f"default/down:{SERVICE_PORT}"]) as channel:
        error = failure(lambda: channel.unary_unary("/t.Echo/Unary")(b"", timeout=SECONDS))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "nodemesh-reason" in dict(error.trailing_metadata())


def test_fault(services: Services) -> None:
    """A fault has the status that a policy gives it."""
    fault = Fault(name="off", abort=Abort(percent=100, http_status=503))
    services.pair.lead(policies=(backend_policy(faults=(fault,)),))
    try:
        error = failure(lambda: services.channel.unary_unary("/t.Echo/Unary")(b"", timeout=SECONDS))
    finally:
        services.pair.lead()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(error.trailing_metadata())["nodemesh-reason"] == "fault"


def test_denied(services: Services) -> None:
    """A denial by the far host is PERMISSION_DENIED, and ends with the policy."""
    services.pair.enforce(default=DefaultAuthorization.DENY)
    try:
        error = failure(lambda: services.channel.unary_unary("/t.Echo/Unary")(b"", timeout=SECONDS))
    finally:
        services.pair.enforce()
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert services.channel.unary_unary("/t.Echo/Unary")(b"again", timeout=SECONDS) == b"again"
