"""Plain TCP services for the tests to carry traffic to, and what callers of them do.

Blocking sockets, one thread per connection: the tests' own side must be too simple to be wrong.
"""

import hashlib
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

# Nothing here takes seconds when it works; a hang must fail its own test, not the whole run.
PATIENCE = 20.0
# Without progress: then there will be none. Both proxies and the programs may wait for the same two cores.
QUIET_SECONDS = 0.7
CHUNK = 1 << 16

Handler = Callable[[socket.socket], None]


class Workload:
    """A listening service; `accepted` counts the connections that reached it."""

    def __init__(self, handler: Handler, *, address: str = "127.0.0.1", port: int = 0) -> None:
        self.accepted = 0
        self._handler = handler
        self._listener = socket.create_server((address, port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                _quietly(partial(connection.shutdown, socket.SHUT_RDWR))
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            _quietly(partial(self._handler, connection))
            with self._lock:
                self._connections.discard(connection)


@contextmanager
def run_workload(handler: Handler, *, address: str = "127.0.0.1", port: int = 0) -> Iterator[Workload]:
    """Serve `handler` until the block ends."""
    workload = Workload(handler, address=address, port=port)
    try:
        yield workload
    finally:
        workload.close()


@contextmanager
def refusing_port(address: str = "127.0.0.1") -> Iterator[int]:
    """Hold a port that refuses connections: bound, so that nobody else gets it, but not listening."""
    with socket.socket() as held:
        held.bind((address, 0))
        yield held.getsockname()[1]


def echo(connection: socket.socket) -> None:
    """Give back every byte, then the end."""
    while data := connection.recv(CHUNK):
        connection.sendall(data)


def digest(connection: socket.socket) -> None:
    """Read to the end, then answer the SHA-256 of it: an answer after the caller's half-close."""
    connection.sendall(_digest_of(connection).encode())


def source(length: int, *, patient: bool = False) -> Handler:
    """Give a handler that sends `length` bytes of `blocks` and ends, if `patient` after the caller did."""

    def serve(connection: socket.socket) -> None:
        for block in blocks(length):
            connection.sendall(block)
        if patient:
            read_to_end(connection)

    return serve


class Farewell:
    """A handler that ends its own direction first, then reads on to the end: `received` has the digests."""

    def __init__(self) -> None:
        self.received: queue.Queue[str] = queue.Queue()

    def __call__(self, connection: socket.socket) -> None:
        """Serve one connection."""
        connection.sendall(b"farewell")
        connection.shutdown(socket.SHUT_WR)
        self.received.put(_digest_of(connection))


class Stalled:
    """A handler that does not read until `released`; then it answers the digest of all it was sent."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        """Serve one connection."""
        if self.released.wait(PATIENCE):
            digest(connection)


def blocks(length: int) -> Iterator[bytes]:
    """Give `length` bytes in which every block differs: loss, doubling and reordering change the digest."""
    body = random.Random(7).randbytes(CHUNK - 8)  # noqa: S311 - test data
    for index in range(0, length, CHUNK):
        yield (index.to_bytes(8) + body)[: length - index]


def digest_of_blocks(length: int) -> str:
    """Give the SHA-256 of `blocks(length)`."""
    digester = hashlib.sha256()
    for block in blocks(length):
        digester.update(block)
    return digester.hexdigest()


def call(port: int, *, address: str = "127.0.0.1") -> socket.socket:
    """Connect as a service on this host would."""
    try:
        return socket.create_connection((address, port), timeout=PATIENCE)
    except ConnectionResetError:
        # Accepted and reset before this process ran again: what a caller has then is a connection that ended.
        ended, other = socket.socketpair()
        other.close()
        return ended


def wait_quiet(progress: Callable[[], int]) -> int:
    """Wait until what is counted goes no further; give how far it came."""
    before, since = progress(), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(0.02)
        if (now := progress()) != before:
            before, since = now, time.monotonic()
    return before


def wait_refusing(port: int, *, address: str = "127.0.0.1") -> None:
    """Wait until nobody listens there any more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            call(port, address=address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError(f"{address}:{port} is still listened on")


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the other side ends."""
    return b"".join(iter(lambda: connection.recv(CHUNK), b""))


def read_exactly(connection: socket.socket, length: int) -> bytes:
    """Read `length` bytes; fewer when the other side ends before."""
    parts = bytearray()
    while len(parts) < length and (data := connection.recv(length - len(parts))):
        parts += data
    return bytes(parts)


def is_closed(connection: socket.socket) -> bool:
    """Wait for the connection to end, by FIN or by reset, without another byte."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def _digest_of(connection: socket.socket) -> str:
    digester = hashlib.sha256()
    while data := connection.recv(CHUNK):
        digester.update(data)
    return digester.hexdigest()


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError:
        # The other side is gone: that is how many of these tests end.
        return
