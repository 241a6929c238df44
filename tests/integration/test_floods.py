"""Peers with a good certificate that break HTTP/2 or abuse it: they are cut, the others are not."""

import struct
from collections.abc import Callable, Iterator

import hpack
import pytest

from tests.integration.attack import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Attack,
    connect_block,
    frame,
)
from tests.integration.certificates import Authority, client_context, server_name, spiffe
from tests.integration.hbone import Stream, TunnelClient
from tests.integration.snapshots import local, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import Workload, echo, run_workload

API = spiffe("api")
MEBIBYTE = 1 << 20
MEMORY_ALLOWED = 64 * MEBIBYTE
PROTOCOL_ERROR = 1
ENHANCE_YOUR_CALM = 11


class Yard:
    """A worker with an echo workload, and a bystander whose tunnel must never suffer.

    `counted` is a workload that one test alone attacks: what it accepted is that test's doing.
    """

    def __init__(self, worker: Worker, workload: Workload, counted: Workload, authority: Authority) -> None:
        self.worker = worker
        self.workload = workload
        self.counted = counted
        self.target = f"{worker.address}:{workload.port}"
        self._context = client_context(authority.issue(spiffe("web")), authority.root_pem)

    def open(self) -> TunnelClient:
        """Open a tunnel and let the settings be exchanged."""
        client = TunnelClient(
            (self.worker.address, self.worker.tunnel_port), self._context, name=server_name(API)
        )
        stream = client.connect(f"{self.worker.address}:1")
        assert stream.status == 404
        return client


@pytest.fixture(scope="module")
def yard(authority: Authority) -> Iterator[Yard]:
    """Run the worker that is attacked by each test in turn."""
    worker = Worker("yard", "127.0.0.6")
    with stopping(worker), run_workload(echo) as workload, run_workload(echo) as counted:
        worker.start(
            snapshot(worker, workloads=(local("api", workload.port, counted.port),)),
            [authority.issue(API)],
            authority.root_pem,
        )
        yield Yard(worker, workload, counted, authority)


@pytest.fixture
def bystander(yard: Yard) -> Iterator[tuple[TunnelClient, Stream]]:
    """Hold an open stream in a tunnel of its own; after the test it must still work."""
    with yard.open() as client:
        stream = client.connect(yard.target)
        assert stream.status == 200
        assert client.exchange(stream, b"before") == b"before"
        before = yard.worker.memory()
        yield client, stream
        assert client.exchange(stream, b"after") == b"after"
        assert yard.worker.memory() - before < MEMORY_ALLOWED


BROKEN: dict[str, bytes] = {
    "garbage": b"\xff" * 200,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2,
    "DATA on an idle stream": frame(DATA, 0, 101, b"x"),
    "DATA on stream 0": frame(DATA, 0, 0, b"x"),
    "HEADERS on stream 0": frame(HEADERS, END_HEADERS, 0, b"\x82"),
    "HEADERS on a stream of the server's": frame(HEADERS, END_HEADERS, 102, b"\x82"),
    "undecodable header block": frame(HEADERS, END_HEADERS, 101, b"\xff\xff\xff\xff\xff\xff"),
    "CONTINUATION without HEADERS": frame(CONTINUATION, END_HEADERS, 101, b"\x82"),
    "header block interrupted": frame(HEADERS, 0, 101, b"\x82") + frame(PING, 0, 0, b"\0" * 8),
    "PUSH_PROMISE": frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + b"\x82"),
    "SETTINGS of odd size": frame(SETTINGS, 0, 0, b"\0" * 5),
    "SETTINGS on a stream": frame(SETTINGS, 0, 1, b""),
    "SETTINGS acknowledged with a payload": frame(SETTINGS, ACK, 0, b"\0" * 6),
    "PING of odd size": frame(PING, 0, 0, b"\0" * 7),
    "RST_STREAM on an idle stream": frame(RST_STREAM, 0, 101, b"\0" * 4),
    "RST_STREAM on stream 0": frame(RST_STREAM, 0, 0, b"\0" * 4),
    "WINDOW_UPDATE of nothing": frame(WINDOW_UPDATE, 0, 0, b"\0" * 4),
    "WINDOW_UPDATE beyond 2^31": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "WINDOW_UPDATE of odd size": frame(WINDOW_UPDATE, 0, 0, b"\0" * 3),
    "a window setting beyond 2^31": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31)),
    "a frame larger than allowed": frame(DATA, 0, 1, b"\0" * (1 << 20)),
}


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_frames_end_the_tunnel(yard: Yard, kind: str) -> None:
    """A peer that breaks HTTP/2 loses its tunnel; the bystander's goes on."""
    with yard.open() as client:
        attack = Attack(client)
        attack.push(BROKEN[kind])
        attack.wait(lambda: attack.ended)


def reset_flood(yard: Yard) -> Iterator[bytes]:
    """CVE-2023-44487: open and reset."""
    block = connect_block(yard.target)
    for stream_id in range(101, 101 + 2 * 50_000, 2):
        yield frame(HEADERS, END_HEADERS, stream_id, block) + frame(RST_STREAM, 0, stream_id, b"\0\0\0\x08")


def repeated(unit: bytes, count: int) -> Iterator[bytes]:
    """Give `unit` `count` times, many to a piece."""
    for _ in range(count // 100):
        yield unit * 100


def continuation_flood(_: Yard) -> Iterator[bytes]:
    """A header block that never ends."""
    yield frame(HEADERS, 0, 101, b"\x82")
    yield from repeated(frame(CONTINUATION, 0, 101, b"\0\x01a\x01b" * 100), 50_000)


def empty_continuation_flood(_: Yard) -> Iterator[bytes]:
    """A header block that never ends, of empty frames."""
    yield frame(HEADERS, 0, 101, b"\x82")
    yield from repeated(frame(CONTINUATION, 0, 101), 200_000)


def header_bomb(_: Yard) -> Iterator[bytes]:
    """A large entry in the dynamic table, referred to over and over."""
    encoder = hpack.Encoder()
    large = encoder.encode([(b":method", b"CONNECT"), (b"x", b"a" * 3900)])
    # 0xbe is the newest entry of the dynamic table (RFC 7541 appendix A has 61 static ones).
    for stream_id in range(101, 101 + 2 * 200, 2):
        yield frame(HEADERS, END_HEADERS, stream_id, large + b"\xbe" * 12_000)


FLOODS: dict[str, Callable[[Yard], Iterator[bytes]]] = {
    "rapid reset": reset_flood,
    "PING": lambda _: repeated(frame(PING, 0, 0, b"\0" * 8), 200_000),
    "SETTINGS": lambda _: repeated(frame(SETTINGS, 0, 0), 200_000),
    "PRIORITY": lambda _: repeated(frame(PRIORITY, 0, 101, struct.pack(">IB", 0, 1)), 200_000),
    "WINDOW_UPDATE": lambda _: repeated(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"), 200_000),
    "unknown frames": lambda _: repeated(frame(0xBE, 0, 0), 200_000),
    "CONTINUATION": continuation_flood,
    "empty CONTINUATION": empty_continuation_flood,
    "header bomb": header_bomb,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_flood_is_bounded(yard: Yard, bystander: tuple[TunnelClient, Stream], kind: str) -> None:
    """A peer that floods is cut before it is done; the bystander is served meanwhile."""
    neighbour, stream = bystander
    with yard.open() as client:
        attack = Attack(client)
        for count, piece in enumerate(FLOODS[kind](yard)):
            attack.push(piece)
            if attack.ended:
                break
            if count % 500 == 0:
                assert neighbour.exchange(stream, b"meanwhile") == b"meanwhile"
        attack.wait(lambda: attack.ended)
    # A peer whose bytes were still under way when it was cut sees a reset in place of the GOAWAY.
    assert attack.goaway in (None, PROTOCOL_ERROR, ENHANCE_YOUR_CALM)


@pytest.mark.usefixtures("bystander")
def test_empty_data_flood_is_bounded(yard: Yard) -> None:
    """Empty DATA frames on an open stream cost no window, so their number is bounded otherwise."""
    with yard.open() as client:
        stream = client.connect(yard.target)
        assert stream.status == 200
        attack = Attack(client)
        for piece in repeated(frame(DATA, 0, stream.stream_id), 200_000):
            attack.push(piece)
        attack.wait(lambda: attack.ended)


@pytest.mark.usefixtures("bystander")
def test_streams_beyond_the_limit_are_not_carried(yard: Yard) -> None:
    """A peer that opens more streams than were announced loses the excess or its tunnel, nothing else."""
    target = f"{yard.worker.address}:{yard.counted.port}"
    with yard.open() as client:
        limit = client.h2.remote_settings.max_concurrent_streams
        attack = Attack(client)
        for index in range(limit + 100):
            attack.push(frame(HEADERS, END_HEADERS, 101 + 2 * index, connect_block(target)))
        attack.wait(lambda: attack.ended or attack.resets >= 100)
    assert yard.counted.accepted <= limit
