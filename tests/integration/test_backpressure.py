"""Readers that do not read: what they hold up, and what they must not."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from socket import SHUT_WR, socket
from threading import Event

import pytest

from node_proxy.tunnel.windows import LARGEST_WINDOW
from tests.integration.certificates import Authority
from tests.integration.pair import Pair, run_pair
from tests.integration.workloads import (
    CHUNK,
    PATIENCE,
    Stalled,
    blocks,
    digest_of_blocks,
    echo,
    read_exactly,
    read_to_end,
    run_workload,
    source,
)

MEBIBYTE = 1 << 20
# Far more than windows, socket buffers and any sane user-space buffer hold together.
FLOOD = 256 * MEBIBYTE
# Generous: the interpreter alone moves by a few MiB.
MEMORY_ALLOWED = 64 * MEBIBYTE
QUIET_SECONDS = 0.5
STALLED_STREAMS = 32


@dataclass
class Slow:
    """A running workload that does not read until it is released."""

    port: int
    released: Event


@pytest.fixture
def slow() -> Iterator[Slow]:
    """Run a stalled workload; whatever still hangs on it is released at the end."""
    handler = Stalled()
    with run_workload(handler) as workload:
        yield Slow(workload.port, handler.released)
        handler.released.set()


@pytest.fixture
def quick() -> Iterator[int]:
    """Run an echo workload; gives its port."""
    with run_workload(echo) as workload:
        yield workload.port


def flood(connections: Sequence[socket], limit: int) -> list[int]:
    """Send up to `limit` bytes on each until none takes any more; give how many bytes each took."""
    streams = [blocks(limit) for _ in connections]
    pending = [memoryview(next(stream)) for stream in streams]
    sent = [0] * len(connections)
    for connection in connections:
        connection.setblocking(False)
    last_progress = time.monotonic()
    while time.monotonic() - last_progress < QUIET_SECONDS and any(count < limit for count in sent):
        for index, connection in enumerate(connections):
            if sent[index] >= limit:
                continue
            try:
                taken = connection.send(pending[index])
            except BlockingIOError:
                continue
            last_progress = time.monotonic()
            sent[index] += taken
            pending[index] = pending[index][taken:] or memoryview(next(streams[index], b""))
        time.sleep(0)
    for connection in connections:
        connection.settimeout(PATIENCE)
    return sent


def check_echo(pair: Pair) -> None:
    """Carry a mebibyte there and back on a stream of its own."""
    with pair.call("echo") as connection:
        for block in blocks(MEBIBYTE):
            connection.sendall(block)
            assert read_exactly(connection, len(block)) == block


def memory(pair: Pair) -> int:
    """Give the resident memory of both workers together."""
    return pair.near.memory() + pair.far.memory()


def test_stalled_workload_holds_up_only_its_caller(authority: Authority, slow: Slow, quick: int) -> None:
    """A workload that does not read stops its caller, nobody else, and loses nothing once it reads."""
    services = {"stalled": [slow.port], "echo": [quick]}
    with run_pair(authority, services) as pair, pair.call("stalled") as connection:
        check_echo(pair)
        before = memory(pair)
        (sent,) = flood([connection], FLOOD)
        assert sent < FLOOD
        check_echo(pair)
        assert memory(pair) - before < MEMORY_ALLOWED
        slow.released.set()
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection).decode() == digest_of_blocks(sent)


def test_stalled_caller_holds_up_only_itself(authority: Authority, quick: int) -> None:
    """A caller that does not read stops its workload, nobody else, and loses nothing once it reads."""
    length = FLOOD // 4
    with run_workload(source(length)) as fast:
        services = {"source": [fast.port], "echo": [quick]}
        with run_pair(authority, services) as pair, pair.call("source") as connection:
            check_echo(pair)
            before = memory(pair)
            assert read_exactly(connection, CHUNK) == next(blocks(length))
            time.sleep(QUIET_SECONDS)
            check_echo(pair)
            assert memory(pair) - before < MEMORY_ALLOWED
            rest = blocks(length)
            next(rest)
            assert all(read_exactly(connection, len(block)) == block for block in rest)


def test_many_stalled_streams_hold_no_more_than_their_windows(
    authority: Authority, slow: Slow, quick: int
) -> None:
    """Stalled streams cost at most their windows, leave the tunnel to the others, and lose nothing."""
    services = {"stalled": [slow.port], "echo": [quick]}
    with ExitStack() as stack:
        pair = stack.enter_context(run_pair(authority, services))
        check_echo(pair)
        before = memory(pair)
        connections = [stack.enter_context(pair.call("stalled")) for _ in range(STALLED_STREAMS)]
        sent = flood(connections, FLOOD)
        assert max(sent) < FLOOD
        check_echo(pair)
        assert memory(pair) - before < STALLED_STREAMS * LARGEST_WINDOW
        slow.released.set()
        for connection in connections:
            connection.shutdown(SHUT_WR)
        answers = [read_to_end(connection).decode() for connection in connections]
        assert answers == [digest_of_blocks(count) for count in sent]
