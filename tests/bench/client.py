"""Measures a `tests.support.programs.tcp_service` with plain blocking sockets; prints one JSON line."""

import argparse
import json
import socket
import statistics
import sys
import time
from collections.abc import Callable

_MESSAGE = b"x" * 100
_TIMEOUT = 30.0


def throughput(address: tuple[str, int], count: int) -> dict[str, float]:
    """Receive `count` MiB on one connection."""
    size = count << 20
    buffer = bytearray(1 << 20)
    with socket.create_connection(address, _TIMEOUT) as sock:
        began = time.monotonic()
        sock.sendall(f"download {size}\n".encode())
        left = size
        while left:
            received = sock.recv_into(buffer)
            if not received:
                raise EOFError(f"the connection ended {left} bytes early")
            left -= received
        return {"Gbit/s": size * 8 / 1e9 / (time.monotonic() - began)}


def latency(address: tuple[str, int], count: int) -> dict[str, float]:
    """Exchange `count` small messages on one connection, one after the other."""
    times = []
    with socket.create_connection(address, _TIMEOUT) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"echo\n")
        for _ in range(count):
            began = time.perf_counter()
            _exchange(sock)
            times.append((time.perf_counter() - began) * 1e6)
    times.sort()
    return {"p50 µs": statistics.median(times), "p99 µs": times[int(count * 0.99)]}


def connections(address: tuple[str, int], count: int) -> dict[str, float]:
    """Make `count` connections one after the other, with one small exchange on each."""
    began = time.monotonic()
    for _ in range(count):
        with socket.create_connection(address, _TIMEOUT) as sock:
            sock.sendall(b"echo\n")
            _exchange(sock)
    return {"connections/s": count / (time.monotonic() - began)}


def _exchange(sock: socket.socket) -> None:
    sock.sendall(_MESSAGE)
    left = len(_MESSAGE)
    while left:
        received = sock.recv(left)
        if not received:
            raise EOFError("the connection ended in mid-exchange")
        left -= len(received)


_MEASURES: dict[str, Callable[[tuple[str, int], int], dict[str, float]]] = {
    "throughput": throughput,
    "latency": latency,
    "connections": connections,
}


def main() -> int:
    """Take one measurement: which, host, port, how much."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("measure", choices=sorted(_MEASURES))
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    arguments.add_argument("count", type=int)
    given = arguments.parse_args()
    print(json.dumps(_MEASURES[given.measure]((given.host, given.port), given.count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
