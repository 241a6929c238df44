"""Floods on layer 7 through two real proxies: who floods is cut, others are served, nothing is left."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from node_proxy.dataplane.http.h2_blocks import write_block
from node_proxy.dataplane.http.sniff import PREFACE
from registry.model.service import PortProtocol
from tests.integration.attack import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from tests.integration.certificates import Authority
from tests.integration.http_recorder import Recorder, statuses
from tests.integration.layer7 import Stage, descriptors, push, run_stage
from tests.integration.workloads import CHUNK, PATIENCE, read_to_end

MEBIBYTE = 1 << 20
# A flood may leave a heap that is larger, but not what it sent.
MEMORY_ALLOWED = 48 * MEBIBYTE
# Tunnels, and connections to workloads that wait for another request.
DESCRIPTORS_ALLOWED = 40
CROWD = 200
GET = b"GET / HTTP/1.1\r\nhost: api\r\n\r\n"
BLOCK = write_block([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/")])
OK = write_block([(b":status", b"200")])
END_STREAM = 1


@pytest.fixture(scope="module")
def stage(authority: Authority) -> Iterator[Stage]:
    """Run the proxies that are attacked by each test in turn."""
    with run_stage(authority, Recorder()) as stage:
        assert statuses(stage.send(GET)) == [200]
        yield stage


@pytest.fixture(autouse=True)
def unharmed(stage: Stage) -> Iterator[None]:
    """After each flood the proxies serve as before, and hold no more than before."""
    workers = (stage.pair.near, stage.pair.far)
    before = [worker.memory() for worker in workers]
    yield
    assert statuses(stage.send(GET)) == [200]
    deadline = time.monotonic() + PATIENCE
    while any(descriptors(worker) > DESCRIPTORS_ALLOWED for worker in workers):
        assert time.monotonic() < deadline, [descriptors(worker) for worker in workers]
        time.sleep(0.05)
    for worker, memory in zip(workers, before, strict=True):
        assert worker.memory() - memory < MEMORY_ALLOWED, worker.node


def requests() -> Iterator[int]:
    """Give ids of streams that callers may open."""
    yield from range(1, 1 << 20, 2)


class TestCallers:
    """Callers that would rather cost than be served."""

    @pytest.mark.parametrize(
        "begun",
        [
            b"",
            b"GET / HT",
            b"GET / HTTP/1.1\r\nhost: api\r\nx: " + b"x" * 60_000,
            b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 60000\r\n\r\n" + b"x" * 50_000,
            b"POST / HTTP/1.1\r\nhost: api\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
            PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, BLOCK),
        ],
        ids=["nothing", "line", "field", "length", "chunk", "expectation", "HTTP/2"],
    )
    def test_many_that_never_end(self, stage: Stage, begun: bytes) -> None:
        """Hundreds of callers that begin and say no more hold up nobody, and leave nothing when they go."""
        with ExitStack() as open_now:
            for _ in range(CROWD):
                caller = open_now.enter_context(stage.pair.call("api"))
                caller.sendall(begun)
            assert statuses(stage.send(GET)) == [200]

    @pytest.mark.parametrize(
        "endless",
        [
            b"x: y\r\n",
            b"\r\n\r\n" + b"x" * 100,
        ],
    )
    def test_endless_head(self, stage: Stage, endless: bytes) -> None:
        """A header without end is refused at its limit."""
        with stage.pair.call("api") as caller, suppress(ConnectionError):
            caller.settimeout(PATIENCE)
            caller.sendall(b"GET / HTTP/1.1\r\nhost: api\r\n")
            for _ in range(64):
                caller.sendall(endless * 1024)
            assert statuses(read_to_end(caller))[0] in (200, 431)

    @pytest.mark.parametrize(
        ("piece", "refused"),
        [
            (frame(PING, 0, 0, b"\0" * 8) * 100, True),
            (frame(SETTINGS, 0, 0) * 100, True),
            (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 100, True),
            (frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1, b"") * 100, True),
            (frame(HEADERS, END_HEADERS, 1, BLOCK) + frame(DATA, 0, 1, b"") * 20_000, True),
            (frame(HEADERS, 0, 1, b"\x00\x01x\x7f\x81\x7f" + b"x" * 16_000) * 3, True),
        ],
        ids=["PING", "SETTINGS", "WINDOW_UPDATE", "CONTINUATION", "empty DATA", "interrupted"],
    )
    def test_control_frames(self, stage: Stage, piece: bytes, refused: bool) -> None:
        """A flood of frames that carry nothing ends its connection."""
        with stage.pair.call("api") as caller:
            caller.settimeout(PATIENCE)
            ended = False
            try:
                caller.sendall(PREFACE + frame(SETTINGS, 0, 0))
                for _ in range(2000):
                    caller.sendall(piece)
                read_to_end(caller)
                ended = True
            except ConnectionError:
                ended = True
            assert ended is refused

    def test_rapid_reset(self, stage: Stage) -> None:
        """Requests that are reset at once are no more at a time than any others, and end the connection."""
        with stage.pair.call("api") as caller, suppress(ConnectionError):
            caller.settimeout(PATIENCE)
            caller.sendall(PREFACE + frame(SETTINGS, 0, 0))
            ids = requests()
            for _ in range(200):
                caller.sendall(
                    b"".join(
                        frame(HEADERS, END_HEADERS | END_STREAM, each, BLOCK)
                        + frame(RST_STREAM, 0, each, b"\0\0\0\x08")
                        for each, _ in zip(ids, range(100), strict=False)
                    )
                )
            assert read_to_end(caller) is not None

    def test_answers_that_nobody_reads(self, stage: Stage) -> None:
        """A caller that pipelines and does not read is not read from, beyond a little."""
        with stage.pair.call("api") as caller:
            caller.settimeout(1.0)
            sent = 0
            with suppress(TimeoutError, ConnectionError):
                while sent < 64 * MEBIBYTE:
                    sent += caller.send(GET * 1000)
            assert sent < 32 * MEBIBYTE

    def test_uploads_that_nobody_reads(self, stage: Stage, authority: Authority) -> None:
        """What callers send to a workload that does not read waits with them."""
        enough = threading.Event()

        def deaf(connection: socket.socket) -> None:
            connection.sendall(frame(SETTINGS, 0, 0))
            enough.wait(PATIENCE)

        with run_stage(authority, deaf, protocol=PortProtocol.HTTP2) as other:
            before = [worker.memory() for worker in (other.pair.near, other.pair.far)]
            with ExitStack() as open_now:
                for _ in range(4):
                    caller = open_now.enter_context(other.pair.call("api"))
                    caller.settimeout(0.3)
                    caller.sendall(PREFACE + frame(SETTINGS, 0, 0))
                    with suppress(TimeoutError, ConnectionError):
                        for each, _ in zip(requests(), range(250), strict=False):
                            caller.sendall(
                                frame(HEADERS, END_HEADERS, each, BLOCK) + frame(DATA, 0, each, b"x" * 16_000)
                            )
                after = [worker.memory() for worker in (other.pair.near, other.pair.far)]
            enough.set()
        assert max(two - one for one, two in zip(before, after, strict=True)) < MEMORY_ALLOWED


class TestPeers:
    """Peers with a good certificate whose streams cost more than they carry."""

    @pytest.mark.parametrize(
        "piece",
        [
            frame(PING, 0, 0, b"\0" * 8) * 200,
            frame(SETTINGS, 0, 0) * 200,
            frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1, b"") * 200,
        ],
        ids=["PING", "SETTINGS", "CONTINUATION"],
    )
    def test_control_frames(self, stage: Stage, piece: bytes) -> None:
        """A flood within a stream ends the stream, and not the tunnel."""
        with stage.tunnel() as client:
            stream = stage.open(client)
            push(client, stream, PREFACE + frame(SETTINGS, 0, 0) + piece * 200)
            client.pump(lambda: stream.ended or stream.reset is not None)
            assert not client.closed
            again = stage.open(client)
            push(client, again, GET, end=True)
            client.pump(lambda: again.ended or again.reset is not None)
            assert statuses(bytes(again.data)) == [200]


class TestWorkloads:
    """Workloads that answer without end: their callers are told 502, or cut."""

    FLOODS = {
        "header": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        "informational": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
        "extension": (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"1;" + b"x" * 2000 + b"\r\na\r\n",
        ),
    }

    def test_http1(self, authority: Authority) -> None:
        """Whatever goes on for ever in HTTP/1.1 is cut at its limit, and never ends as if it were whole."""

        def pour(connection: socket.socket) -> None:
            begun, piece = self.FLOODS[name]
            connection.recv(CHUNK)
            connection.sendall(begun)
            for _ in range(100):
                connection.sendall(piece * 1000)

        with run_stage(authority, pour) as other:
            before = other.pair.far.memory()
            for name in self.FLOODS:
                answer = other.send(GET)
                final = [each for each in statuses(answer) if each >= 200]
                assert final in ([502], [200], []), name
                assert final != [200] or not answer.endswith(b"0\r\n\r\n"), name
            assert other.pair.far.memory() - before < MEMORY_ALLOWED

    FRAMES = {
        "PING": frame(PING, 0, 0, b"\0" * 8) * 100,
        "SETTINGS": frame(SETTINGS, 0, 0) * 100,
        "informational": frame(HEADERS, END_HEADERS, 1, write_block([(b":status", b"103")])),
        "CONTINUATION": frame(HEADERS, 0, 1, OK) + frame(CONTINUATION, 0, 1, b"") * 10_000,
        "empty DATA": frame(HEADERS, END_HEADERS, 1, OK) + frame(DATA, 0, 1, b"") * 20_000,
    }

    def test_http2(self, authority: Authority) -> None:
        """Whatever goes on for ever in HTTP/2 ends the connection."""

        def pour(connection: socket.socket) -> None:
            connection.sendall(frame(SETTINGS, 0, 0))
            while b"\x84" not in connection.recv(CHUNK):
                pass
            with suppress(ConnectionError):
                for _ in range(2000):
                    connection.sendall(self.FRAMES[name])

        with run_stage(authority, pour, protocol=PortProtocol.HTTP2) as other:
            for name in self.FRAMES:
                answer = other.send(GET)
                assert [each for each in statuses(answer) if each >= 200] in ([502], [200], []), name
