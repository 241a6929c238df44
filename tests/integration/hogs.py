"""Flows that take all they can get: one that is always served, and one whose reader does not read."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from socket import SHUT_RDWR, socket
from typing import Self

from tests.integration.workloads import CHUNK, PATIENCE, blocks

_BLOCK = bytes(CHUNK)
# Taken nothing for so long, a reader is stalled.
_QUIET_SECONDS = 0.3


class Bulk:
    """Moves bytes over a connection as fast as it goes, until the block ends; `moved` counts them."""

    def __init__(self, connection: socket, move: Callable[[socket], int]) -> None:
        self.moved = 0
        self._connection = connection
        self._move = move
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # It may be in a call that waits, which this ends.
        with suppress(OSError):
            self._connection.shutdown(SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        with suppress(OSError):
            while amount := self._move(self._connection):
                self.moved += amount


def send(connection: socket) -> int:
    """Send a block, or what is taken of it."""
    return connection.send(_BLOCK)


def receive(connection: socket) -> int:
    """Receive what there is."""
    return len(connection.recv(CHUNK))


def swallow(connection: socket) -> None:
    """Serve one connection: read to the end."""
    while receive(connection):
        pass


def gush(connection: socket) -> None:
    """Serve one connection: once anything came, send until nobody takes it any more."""
    connection.recv(1)
    while send(connection):
        pass


def stuff(connection: socket, limit: int) -> int:
    """Send up to `limit` bytes of `blocks` until no more is taken; give how many were."""
    sent, last_progress = 0, time.monotonic()
    connection.setblocking(False)
    for block in blocks(limit):
        rest = memoryview(block)
        while rest and time.monotonic() - last_progress < _QUIET_SECONDS:
            try:
                taken = connection.send(rest)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            sent, rest, last_progress = sent + taken, rest[taken:], time.monotonic()
        if rest:
            break
    connection.settimeout(PATIENCE)
    return sent
