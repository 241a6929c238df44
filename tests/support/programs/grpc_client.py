"""A caller of `tests.support.programs.grpc_service`; prints what it saw as one JSON line."""

import argparse
import json
import os
import queue
import sys

import grpc

from tests.support.programs.grpc_service import EACH, ONCE
from tests.support.programs.peers import list_peers

_TIMEOUT = 10.0
# Several HTTP/2 windows of 64 KiB, within gRPC's own limit of 4 MiB a message.
_LARGE = 1 << 20


def converse(channel: grpc.Channel, count: int) -> int:
    """Say the next thing only when the last has come back; give how many did."""
    sayings = queue.SimpleQueue[bytes | None]()
    answers = channel.stream_stream(EACH)(iter(sayings.get, None), timeout=_TIMEOUT)
    echoed = 0
    for number in range(count):
        said = f"saying {number}".encode()
        sayings.put(said)
        echoed += next(answers) == said
    sayings.put(None)
    return echoed if list(answers) == [] else -1


def main() -> int:
    """Make one call and hold one conversation over one channel."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("target", help="name:port")
    arguments.add_argument("--count", type=int, default=100)
    given = arguments.parse_args()
    message = os.urandom(_LARGE)
    # The environment's HTTP proxy, if there is one, is for the world outside.
    with grpc.insecure_channel(given.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        once = channel.unary_unary(ONCE)(message, timeout=_TIMEOUT) == message
        echoed = converse(channel, given.count)
        print(json.dumps({"once": once, "echoed": echoed, "peers": list_peers()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
