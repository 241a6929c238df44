import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import structlog.testing
import trio
import trio.testing

from node_proxy.dataplane.reactor import Reactor
from node_proxy.errors import TunnelClosed
from node_proxy.tunnel.http2 import Role
from tests.fakes.driven_tunnel import DrivenTunnel


class Handler:
    """Does what a test wants when its descriptor is ready, and counts."""

    def __init__(self, act: Callable[[int], None] = lambda _: None) -> None:
        self.calls: list[int] = []
        self.crashes: list[Exception] = []
        self._act = act

    def on_ready(self, events: int) -> None:
        """Note and act."""
        self.calls.append(events)
        self._act(events)

    def on_crash(self, error: Exception) -> None:
        """Note."""
        self.crashes.append(error)


class Sockets:
    """Socketpairs that are closed with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Give a non-blocking pair."""
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setblocking(False)
            self._stack.callback(sock.close)
        return near, far

    def readable(self) -> socket.socket:
        """Give a socket with a byte to read."""
        near, far = self.pair()
        far.send(b"x")
        return near


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Give a maker of sockets."""
    with ExitStack() as stack:
        yield Sockets(stack)


def test_calls_the_handler_of_a_ready_descriptor(sockets: Sockets) -> None:
    """Who registered for input is called when there is some."""
    reactor, handler = Reactor(), Handler()
    reactor.register(sockets.readable().fileno(), select.EPOLLIN, handler)
    assert reactor._turn()
    assert handler.calls == [select.EPOLLIN]


def test_quiet_descriptor_is_no_turn(sockets: Sockets) -> None:
    """A turn in which nothing was ready says so."""
    reactor, handler = Reactor(), Handler()
    reactor.register(sockets.pair()[0].fileno(), select.EPOLLIN, handler)
    assert not reactor._turn()
    assert handler.calls == []


def test_modify_changes_what_is_watched(sockets: Sockets) -> None:
    """Input that nobody wants is not reported."""
    reactor, handler = Reactor(), Handler()
    near = sockets.readable()
    reactor.register(near.fileno(), select.EPOLLIN, handler)
    reactor.modify(near.fileno(), 0)
    assert not reactor._turn()
    reactor.modify(near.fileno(), select.EPOLLIN)
    assert reactor._turn()


def test_unregistered_handler_is_not_called(sockets: Sockets) -> None:
    """After `unregister` no call comes."""
    reactor, handler = Reactor(), Handler()
    near = sockets.readable()
    reactor.register(near.fileno(), select.EPOLLIN, handler)
    reactor.unregister(near.fileno())
    assert not reactor._turn()
    assert handler.calls == []


async def test_other_tasks_run_beside_a_busy_socket(sockets: Sockets) -> None:
    """A socket that is always ready does not keep trio's tasks from running."""
    reactor = Reactor()
    reactor.register(sockets.readable().fileno(), select.EPOLLIN, Handler())
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


class TestWithinOneTurn:
    def test_unregister_of_another_that_is_ready_too(self, sockets: Sockets) -> None:
        """A handler may take another out of the poll that is being handled."""
        reactor = Reactor()
        first, second = sockets.readable(), sockets.readable()
        handlers = [
            Handler(lambda _: reactor.unregister(second.fileno())),
            Handler(lambda _: reactor.unregister(first.fileno())),
        ]
        reactor.register(first.fileno(), select.EPOLLIN, handlers[0])
        reactor.register(second.fileno(), select.EPOLLIN, handlers[1])
        reactor._turn()
        assert sorted(len(handler.calls) for handler in handlers) == [0, 1]

    def test_own_unregister(self, sockets: Sockets) -> None:
        """A handler may take itself out and close its descriptor."""
        reactor = Reactor()
        near = sockets.readable()

        def leave(_: int) -> None:
            reactor.unregister(near.fileno())
            near.close()

        handler = Handler(leave)
        reactor.register(near.fileno(), select.EPOLLIN, handler)
        reactor._turn()
        assert not reactor._turn()
        assert len(handler.calls) == 1

    def test_descriptor_closed_and_used_again(self, sockets: Sockets) -> None:
        """A readiness of a closed descriptor never reaches its former handler, only the new one."""
        reactor = Reactor()
        first, second = sockets.readable(), sockets.readable()
        replacement = Handler()

        def replace(own: socket.socket, other: socket.socket) -> None:
            descriptor = other.fileno()
            reactor.unregister(own.fileno())
            reactor.unregister(descriptor)
            other.close()
            near, _ = sockets.pair()
            assert near.fileno() == descriptor
            reactor.register(descriptor, select.EPOLLIN, replacement)

        handlers = [Handler(lambda _: replace(first, second)), Handler(lambda _: replace(second, first))]
        reactor.register(first.fileno(), select.EPOLLIN, handlers[0])
        reactor.register(second.fileno(), select.EPOLLIN, handlers[1])
        reactor._turn()
        assert sum(len(handler.calls) for handler in handlers) == 1
        # Told of what belonged to its predecessor: harmless, since handlers only try.
        assert len(replacement.calls) <= 1

    def test_register_during_a_turn(self, sockets: Sockets) -> None:
        """What a handler registers is served from the next turn on."""
        reactor, late = Reactor(), Handler()
        other = sockets.readable()
        early = Handler(lambda _: reactor.register(other.fileno(), select.EPOLLIN, late))
        near = sockets.readable()
        reactor.register(near.fileno(), select.EPOLLIN, early)
        reactor._turn()
        reactor.unregister(near.fileno())
        reactor._turn()
        assert len(late.calls) == 1


class TestCrash:
    @staticmethod
    def _fail(_: int) -> None:
        raise ZeroDivisionError

    def test_costs_only_itself(self, sockets: Sockets) -> None:
        """A handler that raises is told so; the others of the same turn are served."""
        reactor = Reactor()
        bug, healthy = Handler(self._fail), Handler()
        with structlog.testing.capture_logs():
            for handler in (healthy, bug, healthy):
                reactor.register(sockets.readable().fileno(), select.EPOLLIN, handler)
            reactor._turn()
        assert len(healthy.calls) == 2
        assert [type(error) for error in bug.crashes] == [ZeroDivisionError]

    def test_is_counted_and_logged(self, sockets: Sockets) -> None:
        """A bug is counted, and logged with its traceback."""
        with structlog.testing.capture_logs() as logs:
            reactor = Reactor()
            reactor.register(sockets.readable().fileno(), select.EPOLLIN, Handler(self._fail))
            reactor._turn()
        assert reactor.crashes == 1
        assert [(line["event"], line["exc_info"]) for line in logs] == [("handler crashed", True)]

    def test_that_cannot_give_up_is_never_called_again(self, sockets: Sockets) -> None:
        """A handler that fails even in giving up is dropped, or it would fail for ever."""

        class Hopeless(Handler):
            def on_crash(self, error: Exception) -> None:
                """Fail again."""
                raise error

        reactor, hopeless = Reactor(), Hopeless(self._fail)
        reactor.register(sockets.readable().fileno(), select.EPOLLIN, hopeless)
        assert reactor._turn()
        assert not reactor._turn()
        assert len(hopeless.calls) == 1


class PutOff:
    """Wants the turn's end, and may have a bug."""

    def __init__(self, calls: list[str], *, bug: bool = False) -> None:
        self._calls = calls
        self._bug = bug

    def on_turn_end(self) -> None:
        """Note."""
        self._calls.append("turn end")
        if self._bug:
            raise ZeroDivisionError

    def on_crash(self, _error: Exception) -> None:
        """Note."""
        self._calls.append("crash")


class TestTurnEnd:
    def test_comes_after_all_that_is_ready(self, sockets: Sockets) -> None:
        """What a handler puts off is called once every ready descriptor was handled."""
        reactor, calls = Reactor(), list[str]()

        def act(_: int) -> None:
            calls.append("ready")
            reactor.at_turn_end(PutOff(calls))

        for _ in range(2):
            reactor.register(sockets.readable().fileno(), select.EPOLLIN, Handler(act))
        reactor._turn()
        assert calls == ["ready", "ready", "turn end", "turn end"]

    def test_is_at_once_outside_a_turn(self) -> None:
        """A task that puts something off has it done before the call returns."""
        calls: list[str] = []
        Reactor().at_turn_end(PutOff(calls))
        assert calls == ["turn end"]

    def test_bug_costs_only_its_handler(self) -> None:
        """What raises at the turn's end gives up, and is counted."""
        reactor, calls = Reactor(), list[str]()
        reactor.at_turn_end(PutOff(calls, bug=True))
        assert (calls, reactor.crashes) == (["turn end", "crash"], 1)


class TestRun:
    async def test_serves(self, sockets: Sockets) -> None:
        """Under trio, handlers are called as their descriptors become ready."""
        reactor, served = Reactor(), trio.Event()
        near, far = sockets.pair()
        handler = Handler(lambda _: served.set() if near.recv(10) else None)
        reactor.register(near.fileno(), select.EPOLLIN, handler)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            far.send(b"x")
            with trio.fail_after(10):
                await served.wait()
            nursery.cancel_scope.cancel()

    async def test_other_tasks_run_beside_it(self, sockets: Sockets) -> None:
        """A descriptor that is always ready does not keep other tasks from running."""
        reactor = Reactor()
        reactor.register(sockets.readable().fileno(), select.EPOLLIN, Handler())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            with trio.fail_after(10):
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    async def test_connections_cancelled_with_it_may_still_unregister(self) -> None:
        """When the worker ends, tunnels close in whatever order: none of them trips over the reactor."""
        reactor = Reactor()
        driven = DrivenTunnel(Role.SERVER)
        near, far = socket.socketpair()
        with near, far:
            driven.tunnel._fd = near.fileno()
            driven.tunnel._poller = reactor
            reactor.register(near.fileno(), select.EPOLLIN, driven.tunnel)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reactor.run)
                nursery.start_soon(driven.tunnel.keep_alive)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert isinstance(driven.tunnel.closed, TunnelClosed)


class Last:
    """Notes when it is called at a turn's end."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def on_turn_end(self) -> None:
        """Note."""
        self._said.append("end")

    def on_crash(self, _error: Exception) -> None:
        """Never."""


async def test_what_tasks_say_leaves_together() -> None:
    """What tasks put off while the reactor runs is done once all that could run have run, and not before."""
    said: list[str] = []
    reactor = Reactor()

    async def speak(name: str) -> None:
        said.append(name)
        reactor.at_turn_end(Last(said))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        await trio.testing.wait_all_tasks_blocked()
        for name in ("a", "b"):
            nursery.start_soon(speak, name)
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert sorted(said[:2]) == ["a", "b"]
    assert said[2:] == ["end", "end"]


async def test_task_woken_at_a_turns_end_runs() -> None:
    """A task that is woken by what was put off runs at once, though trio was about to wait."""
    reactor, woken = Reactor(), trio.Event()

    class Waking(Last):
        def on_turn_end(self) -> None:
            woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            reactor.at_turn_end(Waking([]))
            await woken.wait()
        nursery.cancel_scope.cancel()
