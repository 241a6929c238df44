"""Watches an interface for TCP; prints what it found as one JSON line on SIGUSR1 and when told to end.

The streams of the ports given are read as TLS. Prints ``watching`` when it has begun.
"""

import argparse
import contextlib
import json
import signal
import socket
import sys
from types import FrameType

from tests.support.wire import Capture

_ETH_P_ALL = 3
# Segments arrive as the kernel batches them: up to 64 KiB, more with large offloads.
_FRAME = 1 << 18


class _Stop(Exception):
    """SIGTERM came."""


def _on_term(_number: int, _frame: FrameType | None) -> None:
    raise _Stop


def main() -> int:
    """Watch until SIGTERM."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("interface")
    arguments.add_argument("--port", type=int, action="append", default=[])
    arguments.add_argument("--marker", action="append", default=[])
    given = arguments.parse_args()
    markers = tuple(marker.encode() for marker in given.marker)
    capture = Capture(ports=frozenset(given.port), markers=markers)

    def tell(*_: object) -> None:
        print(json.dumps({"tls": capture.tls.as_dict(), "other": capture.other.as_dict()}), flush=True)

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        tap.bind((given.interface, 0))
        signal.signal(signal.SIGTERM, _on_term)
        signal.signal(signal.SIGUSR1, tell)
        print("watching", flush=True)
        with contextlib.suppress(_Stop):
            _watch(tap, capture, loopback=given.interface == "lo")
    tell()
    return 0


def _watch(tap: socket.socket, capture: Capture, *, loopback: bool) -> None:
    buffer = bytearray(_FRAME)
    view = memoryview(buffer)
    while True:
        size, origin = tap.recvfrom_into(buffer)
        # The loopback shows every frame twice: as sent and as received.
        if not (loopback and origin[2] == socket.PACKET_OUTGOING):
            capture.feed(bytes(view[:size]))


if __name__ == "__main__":
    sys.exit(main())
