"""Callers that say where to: handshake, answer, and what they have sent already."""

import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from node_proxy.dataplane import proxy_way, telemetry
from node_proxy.dataplane.callers import UnknownCaller
from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.handshake import Handshake
from node_proxy.dataplane.http_connect import HttpConnect
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.proxy_way import MOST_HANDSHAKES, ProxyWay
from node_proxy.dataplane.socks5 import Socks5
from node_proxy.dataplane.way import Way
from tests.fakes.eventually import eventually
from tests.fakes.tcp import Reader, tcp_pair
from tests.node_proxy.dataplane.leaving import (
    HOST,
    WEB,
    Exit,
    accepted,
    external,
    leaving,
    listening,
    outside,
)
from tests.node_proxy.dataplane.test_external import port_of
from tests.node_proxy.dataplane.test_socks5 import GREETING, reply, request

CONNECT = b"CONNECT %s:80 HTTP/1.1\r\nHost: x\r\n\r\n"


def unix_pair() -> tuple[socket.socket, socket.socket]:
    """Give two connected Unix sockets, both non-blocking."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(Path(folder, "s")))
        server.listen()
        far = socket.socket(socket.AF_UNIX)
        far.connect(server.getsockname())
        near, _ = server.accept()
    for sock in (near, far):
        sock.setblocking(False)
    return near, far


class Door:
    """A listener's way in, with the connections that a test makes."""

    def __init__(
        self, exit_: Exit, nursery: trio.Nursery, protocol: Callable[[], Handshake], stack: ExitStack
    ) -> None:
        self.caller: Caller | UnknownCaller = WEB
        self.way = ProxyWay(
            exit_.stage.context,
            nursery,
            protocol=protocol,
            find_caller=lambda _: self.caller,
            lead=self._lead,
        )
        self._exit = exit_
        self._stack = stack

    def _lead(
        self, sock: socket.socket, destination: Destination, caller: Caller | UnknownCaller, way: Way
    ) -> None:
        router = self._exit.router
        router.connected(sock, router.find(destination), caller, str(destination), way)

    def enter(self, data: bytes = b"", *, unix: bool = False) -> Reader:
        """Connect and say something."""
        near, far = unix_pair() if unix else tcp_pair()
        self._stack.callback(far.close)
        far.send(data)
        self.way.accepted(near)
        return Reader(far)


@asynccontextmanager
async def door(exit_: Exit, protocol: Callable[[], Handshake]) -> AsyncIterator[Door]:
    """Give a way in whose handshakes run."""
    with ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            yield Door(exit_, nursery, protocol, stack)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


SOCKS = (Socks5, GREETING + request(HOST), b"\x05\x00" + reply(0))
HTTP = (HttpConnect, CONNECT % HOST.encode(), b"HTTP/1.1 200 Connection established\r\n\r\n")


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("protocol", [SOCKS, HTTP], ids=["socks5", "http"])
async def test_impatient(protocol: tuple[Callable[[], Handshake], bytes, bytes], unix: bool) -> None:
    """What a caller sends before it has its answer reaches the service, first and whole."""
    make, asked, granted = protocol
    with listening() as server:
        async with leaving(outside(external(target=port_of(server)))) as exit_, door(exit_, make) as entry:
            caller = entry.enter(asked + b"question", unix=unix)
            await eventually(lambda: caller.read() == granted)
            with accepted(server) as served:
                await eventually(lambda: served.read() == b"question")
                served.sock.send(b"answer")
                await eventually(lambda: caller.read() == granted + b"answer")
            caller.sock.shutdown(socket.SHUT_WR)
            await eventually(lambda: exit_.direct.open_connections == 0)
            assert entry.way.handshakes == 0


@pytest.mark.parametrize("protocol", [SOCKS, HTTP], ids=["socks5", "http"])
async def test_byte_by_byte(protocol: tuple[Callable[[], Handshake], bytes, bytes]) -> None:
    """A handshake may take its time, within bounds."""
    make, asked, granted = protocol
    with listening() as server:
        async with leaving(outside(external(target=port_of(server)))) as exit_, door(exit_, make) as entry:
            caller = entry.enter()
            for byte in asked:
                caller.sock.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked(0.001)
            await eventually(lambda: caller.read() == granted)


@pytest.mark.parametrize(
    ("host", "status", "code", "reason"),
    [
        (HOST, 403, 2, b"denied; policy=default/ext; id="),
        ("nobody.mesh", 404, 4, b"unknown_destination"),
        ("240.240.1.1", 404, 4, b"unknown_destination"),
        ("nobody.example", 404, 4, b"unknown_destination"),
        ("gone.example", 502, 5, b"dial_failed"),
    ],
)
async def test_refusals(host: str, status: int, code: int, reason: bytes) -> None:
    """A refusal says why, in the words that each protocol has, and can be read though more was sent."""
    with listening() as server:
        port = port_of(server)
    denied = external(target=1, allowed=())
    gone = external(target=port, name="default/gone", hosts=("gone.example",), vips=())
    async with leaving(outside(denied, gone)) as exit_:
        async with door(exit_, HttpConnect) as entry:
            caller = entry.enter(CONNECT % host.encode() + b"x" * 10000)
            await eventually(lambda: caller.ended() == "end")
            said = caller.read()
            assert said.startswith(b"HTTP/1.1 %d " % status)
            assert b"\r\nnodemesh-reason: " + reason in said
        async with door(exit_, Socks5) as entry:
            caller = entry.enter(GREETING + request(host))
            await eventually(lambda: caller.ended() == "end")
            assert caller.read() == b"\x05\x00" + reply(code)


async def test_unknown_caller() -> None:
    """A caller that may not use the mesh is told so."""
    async with leaving(outside(external(target=1))) as exit_, door(exit_, HttpConnect) as entry:
        entry.caller = UnknownCaller()
        caller = entry.enter(CONNECT % HOST.encode())
        await eventually(lambda: caller.ended() == "end")
        assert caller.read().startswith(b"HTTP/1.1 403 ")
        assert exit_.refusals() == ["unknown_caller"]


async def test_broken() -> None:
    """What is no handshake is answered, counted and logged."""
    async with leaving(outside()) as exit_, door(exit_, HttpConnect) as entry:
        caller = entry.enter(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: caller.ended() == "end")
        assert caller.read().startswith(b"HTTP/1.1 405 ")
        assert exit_.refusals() == ["bad_request"]
        assert exit_.stage.counted(telemetry.STREAMS_REFUSED, reason="bad_request") == 1


async def test_gone_before_it_asked() -> None:
    """Whoever only looks whether somebody listens is no matter for the log."""
    async with leaving(outside()) as exit_, door(exit_, Socks5) as entry:
        for data in (b"", GREETING):
            entry.enter(data).sock.close()
        await eventually(lambda: entry.way.handshakes == 0)
        assert exit_.stage.logs.entries == []


async def test_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake that takes too long is ended."""
    monkeypatch.setattr(proxy_way, "HANDSHAKE_TIMEOUT", 0.01)
    async with leaving(outside()) as exit_, door(exit_, Socks5) as entry:
        caller = entry.enter(GREETING)
        await eventually(lambda: caller.ended() == "end")
        assert exit_.refusals() == ["handshake_timeout"]
        await eventually(lambda: entry.way.handshakes == 0)


async def test_crowd() -> None:
    """Of too many handshakes at once the last are refused, and the others are not disturbed."""
    async with leaving(outside()) as exit_, door(exit_, Socks5) as entry:
        entry.way.handshakes = MOST_HANDSHAKES
        refused = entry.enter(GREETING)
        assert refused.ended() == "reset"
        assert exit_.stage.counted(telemetry.LIMIT_REACHED, limit="proxy_handshakes") == 1
        entry.way.handshakes = 0
