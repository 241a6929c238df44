"""Worker to worker on loopback: what callers get, byte for byte."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from socket import AF_INET6, SHUT_WR, create_server, socket

import pytest

from tests.integration.certificates import Authority
from tests.integration.pair import API, WEB, Pair, run_pair
from tests.integration.workloads import (
    Farewell,
    Handler,
    blocks,
    digest,
    digest_of_blocks,
    echo,
    is_closed,
    read_exactly,
    read_to_end,
    refusing_port,
    run_workload,
    source,
)

MEBIBYTE = 1 << 20
LONG = 100 * MEBIBYTE


def _has_ipv6() -> bool:
    try:
        create_server(("::1", 0), family=AF_INET6).close()
    except OSError:
        return False
    return True


@dataclass
class Bench:
    """A pair of workers with one workload of each kind behind it."""

    pair: Pair
    farewell: Farewell

    def call(self, name: str) -> socket:
        """Connect to a service."""
        return self.pair.call(name)


@pytest.fixture(scope="module")
def bench(authority: Authority) -> Iterator[Bench]:
    """Run one pair for all tests here that change nothing about it."""
    farewell = Farewell()
    with ExitStack() as stack:
        handlers: dict[str, Handler] = {
            "echo": echo,
            "digest": digest,
            "source": source(LONG),
            "farewell": farewell,
        }
        services = {
            name: [stack.enter_context(run_workload(handler)).port] for name, handler in handlers.items()
        }
        closed = stack.enter_context(refusing_port())
        services |= {"down": [closed], "half-down": [closed, *services["echo"]]}
        yield Bench(stack.enter_context(run_pair(authority, services)), farewell)


def test_bytes_come_back(bench: Bench) -> None:
    """What a caller sends reaches the workload and its answer comes back."""
    with bench.call("echo") as connection:
        connection.sendall(b"hello")
        assert read_exactly(connection, 5) == b"hello"


def test_the_end_of_a_connection_is_logged_with_both_identities(bench: Bench) -> None:
    """Both workers tell who spoke to whom and how many bytes went each way."""
    with bench.call("echo") as connection:
        connection.sendall(b"seven b")
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection) == b"seven b"
    amounts = {"bytes_sent": 7, "bytes_received": 7}
    for worker in (bench.pair.near, bench.pair.far):
        worker.wait_log("connection closed", source=WEB, identity=API, outcome="done", **amounts)


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_tunnel_over_ipv6(authority: Authority) -> None:
    """A far host with an IPv6 address is dialled, and named in CONNECT, by it."""
    with run_workload(digest) as workload:
        services = {"digest": [workload.port]}
        with run_pair(authority, services, far_address="::1") as pair, pair.call("digest") as connection:
            connection.sendall(b"".join(blocks(MEBIBYTE)))
            connection.shutdown(SHUT_WR)
            assert read_to_end(connection).decode() == digest_of_blocks(MEBIBYTE)


def test_callers_half_close_reaches_the_workload(bench: Bench) -> None:
    """A caller that ended its direction still gets the answer that the workload gives only then."""
    with bench.call("digest") as connection:
        connection.sendall(b"".join(blocks(MEBIBYTE)))
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection).decode() == digest_of_blocks(MEBIBYTE)


def test_workloads_half_close_reaches_the_caller(bench: Bench) -> None:
    """A workload that ended its direction first still gets everything the caller sends."""
    with bench.call("farewell") as connection:
        assert read_to_end(connection) == b"farewell"
        connection.sendall(b"".join(blocks(MEBIBYTE)))
        connection.shutdown(SHUT_WR)
        assert bench.farewell.received.get(timeout=10) == digest_of_blocks(MEBIBYTE)


def test_a_hundred_megabytes_up(bench: Bench) -> None:
    """100 MiB from caller to workload arrive whole and in order."""
    with bench.call("digest") as connection:
        for block in blocks(LONG):
            connection.sendall(block)
        connection.shutdown(SHUT_WR)
        assert read_to_end(connection).decode() == digest_of_blocks(LONG)


def test_a_hundred_megabytes_down(bench: Bench) -> None:
    """100 MiB from workload to caller arrive whole and in order."""
    with bench.call("source") as connection:
        assert all(read_exactly(connection, len(block)) == block for block in blocks(LONG))
        assert read_to_end(connection) == b""


def test_two_hundred_connections_at_once(bench: Bench) -> None:
    """200 open connections each carry their own bytes, through a handful of tunnels."""
    with ExitStack() as stack:
        connections = [stack.enter_context(bench.call("echo")) for _ in range(200)]
        for index, connection in enumerate(connections):
            connection.sendall(b"%04d" % index)
        for index, connection in enumerate(connections):
            assert read_exactly(connection, 4) == b"%04d" % index
        assert 1 <= bench.pair.tunnels() <= 4


def test_connections_in_turn_share_a_tunnel(bench: Bench) -> None:
    """Fifty connections one after the other open no tunnel of their own."""
    with bench.call("echo") as connection:
        connection.sendall(b"x")
        assert read_exactly(connection, 1) == b"x"
        before = bench.pair.tunnels()
        for _ in range(50):
            with bench.call("echo") as another:
                another.sendall(b"y")
                assert read_exactly(another, 1) == b"y"
        assert bench.pair.tunnels() == before


def test_an_abrupt_end_of_the_caller_reaches_the_workload(bench: Bench) -> None:
    """A caller that closes with unread bytes ends the workload's connection too."""
    far = bench.pair.far
    since = len(far.logs)
    with bench.call("source") as connection:
        assert read_exactly(connection, 10)
    far.wait_log("connection closed", since=since)


def test_refused_dial_is_tried_elsewhere(bench: Bench) -> None:
    """With one of two endpoints down, no caller notices: a 503 before any byte is retried on the other."""
    far = bench.pair.far
    since = len(far.logs)
    for _ in range(20):
        with bench.call("half-down") as connection:
            connection.sendall(b"ping")
            assert read_exactly(connection, 4) == b"ping"
    assert far.wait_log("stream refused", since=since, status=503)


def test_no_endpoint_left_closes_the_connection(bench: Bench) -> None:
    """A service whose every endpoint refuses gives a closed connection and a log line with the cause."""
    near = bench.pair.near
    since = len(near.logs)
    with bench.call("down") as connection:
        assert is_closed(connection)
    line = near.wait_log("stream refused", since=since, side="source", destination="default/down:80")
    assert line["reason"] == "no_endpoint"
    assert "503" in line["detail"]


def test_reports_come_every_second(bench: Bench) -> None:
    """A worker reports its counters on its own."""
    assert bench.pair.near.wait_report().samples
    assert bench.pair.far.wait_report().samples
