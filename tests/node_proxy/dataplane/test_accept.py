import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest
import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.accept import ACCEPTS_PER_TURN, Acceptor, original_destination, serve_listener
from node_proxy.shares import SLACK, Kind, Share, Shares
from tests.fakes.context import Scene, scene
from tests.fakes.eventually import eventually


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give a listening socket as a worker inherits it."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        sock.setblocking(False)
        yield sock


class Taken:
    """Takes connections, and closes them with the test."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def __call__(self, sock: socket.socket) -> None:
        """Own a connection."""
        self.sockets.append(sock)

    def count(self) -> int:
        """Say how many."""
        return len(self.sockets)

    def __enter__(self) -> "Taken":
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self.sockets:
            sock.close()


class Exhausted:
    """A listening socket whose accept fails as told, then gives real connections."""

    def __init__(self, listener: socket.socket, errors: list[int]) -> None:
        self._listener = listener
        self._errors = errors
        self.family = listener.family

    def fileno(self) -> int:
        """Give the real one's descriptor."""
        return self._listener.fileno()

    def setblocking(self, blocking: bool) -> None:
        """Pass on."""
        self._listener.setblocking(blocking)

    def setsockopt(self, *option: int) -> None:
        """Pass on."""
        self._listener.setsockopt(*option)

    def accept(self) -> tuple[socket.socket, object]:
        """Fail or accept."""
        if self._errors:
            raise OSError(self._errors.pop(0), "test")
        return self._listener.accept()


async def test_every_connection_is_taken(listener: socket.socket) -> None:
    """More connections than one turn accepts are all handed on."""
    count = 2 * ACCEPTS_PER_TURN + 3
    callers = [socket.create_connection(listener.getsockname()) for _ in range(count)]
    with Taken() as taken:
        async with trio.open_nursery() as nursery:
            context = scene().context
            nursery.start_soon(context.reactor.run)
            nursery.start_soon(serve_listener, context, listener, taken)
            await eventually(lambda: len(taken.sockets) == count)
            nursery.cancel_scope.cancel()
        assert {sock.getpeername() for sock in taken.sockets} == {each.getsockname() for each in callers}
    for each in callers:
        each.close()


async def test_connections_are_tuned(listener: socket.socket) -> None:
    """Who takes a connection gets it non-blocking and without Nagle."""
    with ExitStack() as stack, Taken() as taken:
        async with trio.open_nursery() as nursery:
            context = scene().context
            nursery.start_soon(context.reactor.run)
            nursery.start_soon(serve_listener, context, listener, taken)
            await trio.testing.wait_all_tasks_blocked()
            stack.enter_context(socket.create_connection(listener.getsockname()))
            await eventually(lambda: len(taken.sockets) == 1)
            nursery.cancel_scope.cancel()
        assert not taken.sockets[0].getblocking()
        assert taken.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_listener_stays_open(listener: socket.socket) -> None:
    """The socket is shared with other workers: cancellation leaves it as it is."""
    with trio.move_on_after(0.01):
        await serve_listener(scene().context, listener, Taken())
    with socket.create_connection(listener.getsockname()):
        pass


async def serve_failing(listener: socket.socket, errors: list[int]) -> Scene:
    """Serve a listener that fails first, until a connection was taken all the same."""
    stage = scene()
    failing = cast("socket.socket", Exhausted(listener, errors))
    with Taken() as taken, socket.create_connection(listener.getsockname()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.context.reactor.run)
            nursery.start_soon(serve_listener, stage.context, failing, taken)
            await eventually(lambda: len(taken.sockets) == 1)
            nursery.cancel_scope.cancel()
    return stage


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_exhaustion_is_counted_and_passes(listener: socket.socket, code: int) -> None:
    """Without descriptors or memory the worker says so, waits, and goes on."""
    stage = await serve_failing(listener, [code])
    assert stage.counted(telemetry.LIMIT_REACHED, limit="descriptors") == 1
    assert stage.logged("cannot accept")


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN])
async def test_connection_that_died_in_the_queue(listener: socket.socket, code: int) -> None:
    """The error of one connection is passed over: the next is accepted."""
    stage = await serve_failing(listener, [code, code])
    assert stage.counted(telemetry.LIMIT_REACHED) == 0


async def test_bug_in_the_taker(listener: socket.socket) -> None:
    """A connection whose taker has a bug is closed, and the listener goes on."""
    stage = scene()
    with Taken() as taken:

        def take(sock: socket.socket) -> None:
            if not stage.counted(telemetry.CRASHES):
                raise ZeroDivisionError
            taken(sock)

        with socket.create_connection(listener.getsockname()) as first:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.context.reactor.run)
                nursery.start_soon(serve_listener, stage.context, listener, take)
                await eventually(lambda: stage.counted(telemetry.CRASHES))
                with socket.create_connection(listener.getsockname()):
                    await eventually(lambda: len(taken.sockets) == 1)
                nursery.cancel_scope.cancel()
            first.settimeout(10)
            assert first.recv(1) == b""


async def test_connection_reset_in_the_queue(listener: socket.socket) -> None:
    """A connection that was reset before it was accepted harms nobody."""
    gone = socket.create_connection(listener.getsockname())
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    with Taken() as taken, socket.create_connection(listener.getsockname()) as alive:
        async with trio.open_nursery() as nursery:
            context = scene().context
            nursery.start_soon(context.reactor.run)
            nursery.start_soon(serve_listener, context, listener, taken)
            await eventually(lambda: len(taken.sockets) == 2)
            nursery.cancel_scope.cancel()
        assert taken.sockets[1].getpeername() == alive.getsockname()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_original_destination_of_what_was_not_redirected(address: str) -> None:
    """Without a redirect there is none, or, where the kernel tracks connections, the address dialled."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        caller = socket.create_connection(server.getsockname()[:2])
        accepted, _ = server.accept()
        with caller, accepted:
            assert original_destination(accepted) in (None, server.getsockname()[:2])


@pytest.fixture
def shares() -> Iterator[Shares]:
    """Give the counts of two workers."""
    made = Shares.make(2)
    yield made
    made.close()


async def test_workers_share_evenly(listener: socket.socket, shares: Shares) -> None:
    """Two workers that accept from one socket end up with about as many connections each."""
    count = 100
    with ExitStack() as stack:
        takers = [stack.enter_context(Taken()) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            for index, taken in enumerate(takers):
                context = scene().context
                share = Share(shares, index, Kind.CALLERS, taken.count)
                share.publish()
                nursery.start_soon(context.reactor.run)
                nursery.start_soon(serve_listener, context, listener, taken, share)
            for _ in range(count):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            await eventually(lambda: sum(len(taken.sockets) for taken in takers) == count)
            nursery.cancel_scope.cancel()
        assert min(len(taken.sockets) for taken in takers) >= count // 2 - 10


async def test_who_took_the_last_that_waited_is_still_polite(listener: socket.socket, shares: Shares) -> None:
    """A worker that got ahead with the last that waited lets the others go first when the next comes."""
    listener.setblocking(False)
    shares.say(1, Kind.CALLERS, 0)
    with ExitStack() as stack:
        taken = stack.enter_context(Taken())
        share = Share(shares, 0, Kind.CALLERS, taken.count)
        acceptor = Acceptor(scene().context, listener, taken, share, goes_first=False)
        for _ in range(SLACK + 1):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        acceptor.on_ready(select.EPOLLIN)
        assert taken.count() == SLACK + 1
        assert not acceptor.stopped.is_set()
        stack.enter_context(socket.create_connection(listener.getsockname()))
        acceptor.on_ready(select.EPOLLIN)
        assert taken.count() == SLACK + 1
        assert acceptor.stopped.is_set()


async def test_hung_worker_holds_nobody_up(listener: socket.socket, shares: Shares) -> None:
    """A worker that has least and accepts nothing delays the others for a moment only."""
    shares.say(1, Kind.CALLERS, 0)
    count = 20
    with ExitStack() as stack:
        taken = stack.enter_context(Taken())
        async with trio.open_nursery() as nursery:
            context = scene().context
            share = Share(shares, 0, Kind.CALLERS, taken.count)
            nursery.start_soon(context.reactor.run)
            nursery.start_soon(serve_listener, context, listener, taken, share)
            for _ in range(count):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            await eventually(lambda: len(taken.sockets) == count)
            nursery.cancel_scope.cancel()
