"""One end of a flow that is always as fast as it can be; it ends when the other end does.

``sink`` and ``spring`` serve: they take all that a caller sends, or send to it without end. ``pour PORT`` and
``drain PORT`` are callers of the one and the other.
"""

import argparse
import contextlib
import socket
import sys
import threading
from collections.abc import Callable

_LOOPBACK = "127.0.0.1"
_BLOCK = bytes(1 << 18)


def _send(connection: socket.socket) -> None:
    while True:
        connection.sendall(_BLOCK)


def _receive(connection: socket.socket) -> None:
    buffer = bytearray(len(_BLOCK))
    while connection.recv_into(buffer):
        pass


def _serve(move: Callable[[socket.socket], None]) -> None:
    """Serve on a port that the only line of output tells."""
    with socket.create_server((_LOOPBACK, 0)) as listener:
        print(f"serving on {listener.getsockname()[1]}", flush=True)
        while True:
            connection, _address = listener.accept()
            threading.Thread(target=_use, args=(move, connection), daemon=True).start()


def _use(move: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection, contextlib.suppress(ConnectionError):
        move(connection)


def main() -> int:
    """Be one end."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("what", choices=["sink", "spring", "pour", "drain"])
    arguments.add_argument("port", type=int, nargs="?", help="of the service that a caller calls")
    given = arguments.parse_args()
    move = _receive if given.what in ("sink", "drain") else _send
    if given.port is None:
        _serve(move)
    else:
        _use(move, socket.create_connection((_LOOPBACK, given.port)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
