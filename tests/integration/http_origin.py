"""A server on Python's own `http.server` that does what origins do: lengths, chunks, trailers, 1xx, 204, 304.

Bodies are `blocks`, so that a digest tells whether one came through as it was.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.integration.workloads import CHUNK, PATIENCE, blocks, digest_of_blocks

ETAG = '"one"'


class Origin(ThreadingHTTPServer):
    """Answers on loopback.

    ``/blocks/<n>`` and ``/chunked/<n>`` are `n` bytes, with a length or in chunks with a trailer. ``/digest``
    takes a body and tells what it was; ``/patient`` begins to read it only when `released`, ``/picky`` wants
    none. ``/hints`` is preceded by 103, ``/nothing`` is 204, ``/known`` is 304 to who has it.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_port
        # Requests whose callers were told to go on with their bodies.
        self.continued = 0
        # Bytes of bodies that the kernel has taken.
        self.sent = 0
        self.released = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Origin

    def handle(self) -> None:
        # A caller that has gone is what some of the tests are about.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def handle_expect_100(self) -> bool:
        if self.path == "/picky":
            self._answer(417)
            self.close_connection = True
            return False
        self.server.continued += 1
        return super().handle_expect_100()

    def do_GET(self) -> None:
        kind, _, length = self.path.strip("/").partition("/")
        match kind:
            case "blocks":
                self._send_blocks(int(length))
            case "chunked":
                self._send_chunks(int(length))
            case "hints":
                self.send_response_only(103)
                self.send_header("link", "</style.css>; rel=preload")
                self.end_headers()
                self._answer(200, b"hinted")
            case "nothing":
                self.send_response(204)
                self.end_headers()
            case "known" if self.headers["if-none-match"] == ETAG:
                self.send_response(304)
                self.send_header("etag", ETAG)
                self.end_headers()
            case "known":
                self._answer(200, b"fresh", etag=ETAG)
            case _:
                self._answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if self.path == "/patient":
            assert self.server.released.wait(PATIENCE)
        digester, length = hashlib.sha256(), 0
        for part in self._body():
            digester.update(part)
            length += len(part)
        told = {"digest": digester.hexdigest(), "length": length}
        self._answer(200, json.dumps(told).encode())

    def do_PUT(self) -> None:
        self.do_POST()

    def _answer(self, status: int, body: bytes = b"", **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_blocks(self, length: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            for block in blocks(length):
                self.wfile.write(block)
                self.server.sent += len(block)

    def _send_chunks(self, length: int) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.send_header("trailer", "x-digest")
        self.end_headers()
        if self.command == "HEAD":
            return
        for block in blocks(length):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            self.server.sent += len(block)
        self.wfile.write(b"0\r\nx-digest: %b\r\n\r\n" % digest_of_blocks(length).encode())

    def _body(self) -> Iterator[bytes]:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            left = int(self.headers.get("content-length", 0))
            while left and (part := self.rfile.read(min(left, CHUNK))):
                left -= len(part)
                yield part
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


@contextmanager
def run_origin() -> Iterator[Origin]:
    """Run one until the block ends."""
    with Origin() as origin:
        thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield origin
        finally:
            origin.released.set()
            origin.shutdown()
            thread.join()
