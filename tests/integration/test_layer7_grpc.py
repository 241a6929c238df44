"""What gRPC's own client and server count on between them: deadlines, early ends, keepalive, slow readers."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from registry.model.backend_policy import BackendTimeouts
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.grpc_workloads import failure
from tests.integration.pair import SERVICE_PORT, Pair, run_pair
from tests.integration.snapshots import backend_policy
from tests.integration.workloads import PATIENCE, wait_quiet

MEBIBYTE = 1 << 20
# Larger than gRPC's windows, which grow to some 4 MiB, and ours together; in messages of 64 KiB.
MESSAGE = bytes(range(256)) * 256
MESSAGES = 1000
MEMORY_ALLOWED = 32 * MEBIBYTE
DETAILS = b"\x08\x09\x12\x04full"
# Milliseconds between the pings of a nervous client: its library sends none sooner. By default servers of
# gRPC take one in five minutes, and end the connection with the fourth that comes before.
PING_INTERVAL = 1000
# Milliseconds after which the server wants every connection to be replaced.
AGE = 300


class Service(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """Methods that end early, late, or never."""

    def __init__(self) -> None:
        self.given_up = threading.Semaphore(0)
        self.released = threading.Event()
        self.received = 0
        self.sent = 0
        # The far ends of its connections.
        self.peers: set[str] = set()

    def service(self, details: Any) -> Any:
        """Find a method."""
        handlers: dict[str, Any] = {
            "/t.Edges/Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "/t.Edges/Left": grpc.unary_unary_rpc_method_handler(self._left),
            "/t.Edges/Refuse": grpc.stream_unary_rpc_method_handler(self._refuse),
            "/t.Edges/Talk": grpc.stream_stream_rpc_method_handler(self._talk),
            "/t.Edges/Slow": grpc.stream_unary_rpc_method_handler(self._slow),
            "/t.Edges/Flood": grpc.unary_stream_rpc_method_handler(self._flood),
        }
        return handlers.get(details.method)

    def _echo(self, request: bytes, context: Any) -> bytes:
        self.peers.add(context.peer())
        return request

    def _left(self, _request: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()

    def _refuse(self, requests: Any, context: Any) -> bytes:
        next(requests)
        context.set_trailing_metadata([("grpc-status-details-bin", DETAILS)])
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        return b""

    def _talk(self, requests: Any, context: Any) -> Iterator[bytes]:
        context.add_callback(self.given_up.release)
        yield from requests

    def _slow(self, requests: Any, _context: Any) -> bytes:
        assert self.released.wait(PATIENCE)
        for each in requests:
            self.received += len(each)
        return str(self.received).encode()

    def _flood(self, _request: bytes, _context: Any) -> Iterator[bytes]:
        for _ in range(MESSAGES):
            yield MESSAGE
            self.sent += 1


@contextmanager
def run_service(**options: int) -> Iterator[tuple[int, Service]]:
    """Run the service with options of grpcio's; gives its port."""
    service = Service()
    given = [(f"grpc.{name}", value) for name, value in options.items()]
    server = grpc.server(ThreadPoolExecutor(8), handlers=[service], options=given)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, service
    finally:
        service.released.set()
        server.stop(0.1).wait()


@dataclass(frozen=True)
class Stage:
    """The service behind both proxies."""

    pair: Pair
    service: Service

    @contextmanager
    def channel(self, **options: int) -> Iterator[Any]:
        """Connect as a client does, with options of grpcio's."""
        port = self.pair.near.ports[f"default/api:{SERVICE_PORT}"]
        given = [("grpc.enable_http_proxy", 0), *((f"grpc.{name}", value) for name, value in options.items())]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=given) as channel:
            yield channel


@contextmanager
def run_stage(authority: Authority, **options: int) -> Iterator[Stage]:
    """Run the service on a port that is said to speak gRPC."""
    with (
        run_service(**options) as (port, service),
        run_pair(authority, {"api": [port]}, protocol=PortProtocol.GRPC) as pair,
    ):
        yield Stage(pair, service)


@pytest.fixture(scope="module")
def stage(authority: Authority) -> Iterator[Stage]:
    """Run it without options."""
    with run_stage(authority) as made:
        yield made


def test_smaller_deadline(stage: Stage) -> None:
    """The service hears of the caller's deadline, or of the policy's when that comes first."""
    with stage.channel() as channel:
        left = channel.unary_unary("/t.Edges/Left")
        assert 5 < float(left(b"", timeout=10)) <= 10.1
        stage.pair.lead(policies=(backend_policy(timeouts=BackendTimeouts(request="4s")),))
        try:
            assert float(left(b"", timeout=10)) <= 4.1
            assert float(left(b"", timeout=2)) <= 2.1
            assert float(left(b"")) <= 4.1
        finally:
            stage.pair.lead()


@pytest.mark.parametrize("by_deadline", [False, True])
def test_given_up_in_conversation(stage: Stage, by_deadline: bool) -> None:
    """A conversation that its caller gives up, or that is too late, ends at the service at once."""
    over = threading.Event()

    def say() -> Iterator[bytes]:
        yield b"hello"
        over.wait(PATIENCE)

    with stage.channel() as channel:
        call = channel.stream_stream("/t.Edges/Talk")(say(), timeout=1.0 if by_deadline else PATIENCE)
        assert next(call) == b"hello"
        if not by_deadline:
            call.cancel()
        error = failure(lambda: next(call))
        over.set()
        assert error.code().name == ("DEADLINE_EXCEEDED" if by_deadline else "CANCELLED")
        assert stage.service.given_up.acquire(timeout=PATIENCE / 4)


def test_refusal_before_the_end(stage: Stage) -> None:
    """A service that ends a call while its caller still talks is understood, to the last trailer."""

    def talk() -> Iterator[bytes]:
        while not over.is_set():
            yield MESSAGE

    over = threading.Event()
    with stage.channel() as channel:
        for _ in range(5):
            error: Any = failure(lambda: channel.stream_unary("/t.Edges/Refuse")(talk(), timeout=PATIENCE))
            assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
            assert dict(error.trailing_metadata())["grpc-status-details-bin"] == DETAILS
        over.set()


def test_service_that_does_not_read(stage: Stage) -> None:
    """It holds up its caller, not other calls of the same connection, and gets everything in the end."""
    said = 0

    def talk() -> Iterator[bytes]:
        nonlocal said
        for _ in range(MESSAGES):
            yield MESSAGE
            said += 1

    with stage.channel() as channel:
        echo = channel.unary_unary("/t.Edges/Echo")
        assert echo(MESSAGE, timeout=PATIENCE) == MESSAGE
        stage.service.released.clear()
        stage.service.received = 0
        held = stage.pair.memory()
        call = channel.stream_unary("/t.Edges/Slow").future(talk(), timeout=2 * PATIENCE)
        assert 0 < wait_quiet(lambda: said) < MESSAGES
        assert stage.pair.memory() - held < MEMORY_ALLOWED
        assert echo(MESSAGE, timeout=PATIENCE) == MESSAGE
        stage.service.released.set()
        assert call.result() == b"%d" % (MESSAGES * len(MESSAGE))


def test_caller_that_does_not_read(stage: Stage) -> None:
    """It holds up the service, not other calls of the same connection, and misses nothing."""
    with stage.channel() as channel:
        echo = channel.unary_unary("/t.Edges/Echo")
        assert echo(MESSAGE, timeout=PATIENCE) == MESSAGE
        stage.service.sent = 0
        held = stage.pair.memory()
        call = channel.unary_stream("/t.Edges/Flood")(b"", timeout=2 * PATIENCE)
        assert 0 < wait_quiet(lambda: stage.service.sent) < MESSAGES
        assert stage.pair.memory() - held < MEMORY_ALLOWED
        assert echo(MESSAGE, timeout=PATIENCE) == MESSAGE
        assert sum(each == MESSAGE for each in call) == MESSAGES


def test_compression(stage: Stage) -> None:
    """What gRPC compresses passes as it is."""
    with stage.channel() as channel:
        echo = channel.unary_unary("/t.Edges/Echo")
        assert echo(MESSAGE, timeout=PATIENCE, compression=grpc.Compression.Gzip) == MESSAGE


def test_keepalive(stage: Stage) -> None:
    """A client that pings to see whether its connection lives keeps it, in a call and between calls."""
    nervous = {
        "keepalive_time_ms": PING_INTERVAL,
        "keepalive_permit_without_calls": 1,
        "http2.max_pings_without_data": 0,
    }
    with stage.channel(**nervous) as channel:
        echo = channel.unary_unary("/t.Edges/Echo")
        states: list[Any] = []
        assert echo(b"first", timeout=PATIENCE) == b"first"
        channel.subscribe(states.append)
        time.sleep(4.5 * PING_INTERVAL / 1000)
        assert echo(b"second", timeout=PATIENCE) == b"second"
        assert set(states) == {grpc.ChannelConnectivity.READY}


def test_server_that_replaces_connections(authority: Authority) -> None:
    """No call fails of a server that wants its connections replaced all the time."""
    ages = {"max_connection_age_ms": AGE, "max_connection_age_grace_ms": 5000}
    with run_stage(authority, **ages) as stage, stage.channel() as channel:
        echo = channel.unary_unary("/t.Edges/Echo")
        until = time.monotonic() + 6 * AGE / 1000
        while time.monotonic() < until:
            calls = [echo.future(b"%d" % number, timeout=PATIENCE) for number in range(10)]
            assert [each.result() for each in calls] == [b"%d" % number for number in range(10)]
        assert len(stage.service.peers) > 2
