"""A workload that speaks gRPC, and callers of it, by grpcio."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

# Only keeps a broken test from hanging.
PATIENCE = 20


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc] # grpcio has no types
    """A gRPC service of bytes; `cancelled` says which calls ended before they were answered."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def service(self, details: Any) -> Any:
        """Find a method."""
        method = details.method.rsplit("/", 1)[1]
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Down": grpc.unary_stream_rpc_method_handler(self._down),
            "Up": grpc.stream_unary_rpc_method_handler(self._up),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
            "Never": grpc.unary_stream_rpc_method_handler(self._never),
            "Timeout": grpc.unary_unary_rpc_method_handler(self._timeout),
            "Fails": grpc.unary_unary_rpc_method_handler(self._fails),
        }.get(method)

    def _unary(self, request: bytes, context: Any) -> bytes:
        context.send_initial_metadata([("x-seen", dict(context.invocation_metadata()).get("x-sent", ""))])
        context.set_trailing_metadata([("x-after-bin", b"\x00\xff")])
        return request

    def _timeout(self, request: bytes, context: Any) -> bytes:
        """Answer how many seconds the caller still waits."""
        return str(context.time_remaining()).encode()

    def _down(self, request: bytes, context: Any) -> Any:
        for number in range(100):
            yield request + str(number).encode()

    def _up(self, requests: Any, context: Any) -> bytes:
        return str(sum(len(each) for each in requests)).encode()

    def _both(self, requests: Any, context: Any) -> Any:
        for each in requests:
            yield each[::-1]

    def _never(self, request: bytes, context: Any) -> Any:
        over = threading.Event()
        context.add_callback(over.set)
        yield b"begun"
        over.wait(PATIENCE)
        self.cancelled.append("Never")

    def _fails(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "50 % of it — never")
        return b""


@contextmanager
def run_grpc() -> Iterator[tuple[int, Echo]]:
    """Run a server on loopback; gives its port and what it does."""
    echo = Echo()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[echo])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port, echo
    finally:
        server.stop(0.1).wait()


@contextmanager
def calling(port: int) -> Iterator[Any]:
    """Connect to a port of this host."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def failure(call: Any) -> grpc.RpcError:
    """Give the error that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")
