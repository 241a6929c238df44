"""A gRPC service that echoes: ``Once`` a message, ``Each`` every message of a stream as it comes.

Messages are bytes as they are: generic handlers need no generated code.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "nodemesh.test.Echo"
ONCE, EACH = f"/{SERVICE}/Once", f"/{SERVICE}/Each"
_THREADS = 4


def _once(message: bytes, context: grpc.ServicerContext) -> bytes:
    return message


def _each(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from messages


def main() -> int:
    """Serve until ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--listen", default="127.0.0.1")
    arguments.add_argument("--port", type=int, required=True)
    given = arguments.parse_args()
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    handlers = {
        "Once": grpc.unary_unary_rpc_method_handler(_once),
        "Each": grpc.stream_stream_rpc_method_handler(_each),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"{given.listen}:{given.port}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
