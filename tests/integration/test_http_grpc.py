"""gRPC through both proxies, between grpcio's client and server."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from registry.model.backend_policy import Abort, Fault, Retries
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.pair import SERVICE_PORT, Pair, run_pair
from tests.integration.snapshots import backend_policy

UNARY = "/test.Echo/Unary"
SERVER_STREAM = "/test.Echo/ServerStream"
CLIENT_STREAM = "/test.Echo/ClientStream"
BOTH = "/test.Echo/Both"
SLOW = "/test.Echo/Slow"
FAILING = "/test.Echo/Failing"
PATIENCE = 20.0


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers in each of gRPC's ways; `cancelled` is set when a slow call was given up."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.metadata: dict[str, str] = {}
        self.calls = 0

    def service(self, details: Any) -> Any:
        """Find the handler of a method."""
        handlers: dict[str, Any] = {
            UNARY: grpc.unary_unary_rpc_method_handler(self._unary),
            SERVER_STREAM: grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request] * 3)),
            CLIENT_STREAM: grpc.stream_unary_rpc_method_handler(lambda requests, _: b"".join(requests)),
            BOTH: grpc.stream_stream_rpc_method_handler(
                lambda requests, _: (b"<" + each for each in requests)
            ),
            SLOW: grpc.unary_unary_rpc_method_handler(self._slow),
            FAILING: grpc.unary_unary_rpc_method_handler(self._failing),
        }
        return handlers.get(details.method)

    def _unary(self, request: bytes, context: Any) -> bytes:
        self.metadata = {str(name): str(value) for name, value in context.invocation_metadata()}
        context.set_trailing_metadata((("x-trailer", "yes"),))
        return request

    def _slow(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(PATIENCE)
        return request

    def _failing(self, _request: bytes, context: Any) -> bytes:
        self.calls += 1
        if self.calls % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b"well"


def _mark(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
    return (b"<" + each for each in requests)


@contextmanager
def run_echo() -> Iterator[tuple[Echo, int]]:
    """Run the service; gives it with its port."""
    with ThreadPoolExecutor(8) as threads:
        server = grpc.server(threads)
        echo = Echo()
        server.add_generic_rpc_handlers((echo,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield echo, port
        finally:
            echo.cancelled.set()
            server.stop(None).wait()


@pytest.fixture(scope="module")
def both(authority: Authority) -> Iterator[tuple[Pair, Echo]]:
    """Run the service behind both proxies."""
    with (
        run_echo() as (echo, port),
        run_pair(authority, {"api": [port]}, protocol=PortProtocol.GRPC) as pair,
    ):
        yield pair, echo


@pytest.fixture
def channel(both: tuple[Pair, Echo]) -> Iterator[Any]:
    """Give a client's channel that goes through both proxies."""
    port = both[0].near.ports[f"default/api:{SERVICE_PORT}"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made


def status_of(call: Callable[[], object]) -> Any:
    """Give the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
def test_unary(channel: Any, size: int) -> None:
    """A unary call comes back whole, with its trailers."""
    answer, call = channel.unary_unary(UNARY).with_call(b"x" * size, timeout=PATIENCE)
    assert len(answer) == size
    assert ("x-trailer", "yes") in [(each.key, each.value) for each in call.trailing_metadata()]


def test_streams(channel: Any) -> None:
    """All three ways of streaming work, and one call does not wait for another."""
    assert list(channel.unary_stream(SERVER_STREAM)(b"a", timeout=PATIENCE)) == [b"a"] * 3
    assert channel.stream_unary(CLIENT_STREAM)(iter([b"a", b"b"]), timeout=PATIENCE) == b"ab"
    assert list(channel.stream_stream(BOTH)(iter([b"a", b"b"]), timeout=PATIENCE)) == [b"<a", b"<b"]


def test_conversation(channel: Any) -> None:
    """In a stream both ways each message is answered before the next is sent."""
    turn = threading.Semaphore(1)

    def ask() -> Iterator[bytes]:
        for number in range(10):
            assert turn.acquire(timeout=PATIENCE)
            yield b"%d" % number

    heard = []
    for answer in channel.stream_stream(BOTH)(ask(), timeout=PATIENCE):
        heard.append(answer)
        turn.release()
    assert heard == [b"<%d" % number for number in range(10)]


def test_deadline(both: tuple[Pair, Echo], channel: Any) -> None:
    """A call's deadline holds on its way, and the service hears that it was given up."""
    both[1].cancelled.clear()
    began = time.monotonic()
    error = status_of(lambda: channel.unary_unary(SLOW)(b"", timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5
    assert both[1].cancelled.wait(5)


def test_cancellation(both: tuple[Pair, Echo], channel: Any) -> None:
    """A call that its caller gives up ends at the service."""
    both[1].cancelled.clear()
    future = channel.unary_unary(SLOW).future(b"")
    time.sleep(0.3)
    future.cancel()
    assert both[1].cancelled.wait(5)


def test_who_calls(both: tuple[Pair, Echo], channel: Any) -> None:
    """The service hears who calls from the mesh, whatever the caller says."""
    channel.unary_unary(UNARY)(b"", metadata=[("nodemesh-caller", "evil")], timeout=PATIENCE)
    assert both[1].metadata["nodemesh-caller"] == "spiffe://nodemesh.local/ns/default/sa/web"


def test_status_that_is_tried_again(both: tuple[Pair, Echo], channel: Any) -> None:
    """A status that the policy names is tried again, though calls are POST."""
    assert status_of(lambda: channel.unary_unary(FAILING)(b"", timeout=PATIENCE)).details() == "not now"
    both[0].lead(policies=(backend_policy(retries=Retries(grpc_codes=(14,))),))
    both[1].calls = 0
    answer = channel.unary_unary(FAILING)(b"", timeout=PATIENCE)
    both[0].lead()
    assert answer == b"well"


def test_fault(both: tuple[Pair, Echo], channel: Any) -> None:
    """What the mesh answers itself is gRPC too."""
    fault = Fault(name="full", abort=Abort(percent=100, grpc_status=8))
    both[0].lead(policies=(backend_policy(faults=(fault,)),))
    error = status_of(lambda: channel.unary_unary(UNARY)(b"", timeout=PATIENCE))
    both[0].lead()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
