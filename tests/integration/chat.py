"""A WebSocket server of the `websockets` library, and a caller that talks while it listens."""

import contextlib
import hashlib
import queue
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection, serve
from websockets.uri import parse_uri

from tests.integration.http_programs import url_of
from tests.integration.pair import Pair
from tests.integration.workloads import CHUNK, PATIENCE, blocks, digest_of_blocks

MEBIBYTE = 1 << 20
LENGTH = 16 * MEBIBYTE
# More than all buffers on the way hold.
FLOOD = 64 * MEBIBYTE
# Of the codes that RFC 6455 section 7.4.2 leaves to applications.
LEAVING = 4001


class Chat:
    """Serves by path: echoes, talks while it listens, talks without end, or hangs up."""

    def __init__(self) -> None:
        self.flooded = 0
        # How callers of a path said good-bye.
        self.ended: dict[str, queue.SimpleQueue[tuple[int, str]]] = defaultdict(queue.SimpleQueue)

    def __call__(self, connection: ServerConnection) -> None:
        """Serve one connection."""
        assert connection.request
        path = connection.request.path
        # The caller may leave when it likes.
        with contextlib.suppress(ConnectionClosed):
            match path:
                case "/echo":
                    for message in connection:
                        connection.send(message)
                case "/both":
                    _exchange(connection)
                case "/flood":
                    for block in blocks(FLOOD):
                        connection.send(block)
                        self.flooded += len(block)
                case "/leave":
                    connection.close(LEAVING, "enough")
        try:
            connection.recv(PATIENCE)
        except ConnectionClosed as closed:
            if closed.rcvd:
                self.ended[path].put((closed.rcvd.code, closed.rcvd.reason))


def _send(connection: ServerConnection, length: int) -> None:
    """Send so many bytes in messages."""
    for block in blocks(length):
        connection.send(block)


def receive(connection: ServerConnection | ClientConnection, length: int) -> str:
    """Receive so many bytes; give their digest."""
    digester = hashlib.sha256()
    while length > 0:
        message = connection.recv(PATIENCE, decode=False)
        length -= len(message)
        digester.update(message)
    return digester.hexdigest()


def _exchange(connection: ServerConnection) -> None:
    """Send LENGTH bytes while as many are received, then the digest of those."""
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(_send, connection, LENGTH)
        digest = receive(connection, LENGTH)
        sending.result()
    connection.send(digest)


class _Caller:
    """A caller on the library's protocol that reads whatever its sending waits for.

    The library's own connections do not: two that fill each other's buffers wait for ever, mesh or no mesh.
    """

    def __init__(self, connection: socket.socket, url: str) -> None:
        self._connection = connection
        self._protocol = ClientProtocol(parse_uri(url), max_size=None)
        self._lock = threading.Lock()
        self._protocol.send_request(self._protocol.connect())
        connection.sendall(b"".join(self._protocol.data_to_send()))
        self._messages = self._receive()
        assert isinstance(next(self._messages), Response)

    def send(self, length: int) -> None:
        """Send so many bytes in messages."""
        for block in blocks(length):
            with self._lock:
                self._protocol.send_binary(block)
                pieces = self._protocol.data_to_send()
            self._connection.sendall(b"".join(pieces))

    def next(self) -> bytes:
        """Receive a message."""
        message = next(self._messages)
        assert isinstance(message, Frame)
        return bytes(message.data)

    def receive(self, length: int) -> str:
        """Receive so many bytes; give their digest."""
        digester = hashlib.sha256()
        while length > 0:
            message = self.next()
            length -= len(message)
            digester.update(message)
        return digester.hexdigest()

    def _receive(self) -> Iterator[Event]:
        while data := self._connection.recv(CHUNK):
            with self._lock:
                self._protocol.receive_data(data)
                events = self._protocol.events_received()
            yield from events


@contextmanager
def run_chat() -> Iterator[tuple[int, Chat]]:
    """Run the server; gives its port."""
    chat = Chat()
    with serve(chat, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1], chat
        finally:
            server.shutdown()
            thread.join()


def ws_url(pair: Pair, path: str, name: str = "api") -> str:
    """Give the URL of a path of a service."""
    return url_of(pair, name).replace("http:", "ws:") + path


def talk_at_once(pair: Pair, name: str = "api") -> None:
    """Talk and listen to a service that does the same, neither with a pause; both must hear all."""
    with pair.call(name) as connection, ThreadPoolExecutor(1) as threads:
        caller = _Caller(connection, ws_url(pair, "/both", name))
        sending = threads.submit(caller.send, LENGTH)
        assert caller.receive(LENGTH) == digest_of_blocks(LENGTH)
        sending.result()
        assert caller.next() == digest_of_blocks(LENGTH).encode()
