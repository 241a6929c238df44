"""Pollers that a test drives by hand, in place of the data plane's reactor."""

import select
import time
from collections.abc import Callable

from node_proxy.tunnel.handlers import PollHandler, TurnEndHandler

# Only keeps a broken test from hanging.
PATIENCE = 10.0


class ManualPoller:
    """Knows who watches what; a test says what is ready."""

    def __init__(self) -> None:
        self.watched: dict[int, tuple[int, PollHandler]] = {}
        self.in_turn = False
        self.put_off: list[TurnEndHandler] = []

    def register(self, fd: int, events: int, handler: PollHandler) -> None:
        """Watch `fd`, which nobody does yet."""
        assert fd not in self.watched
        self.watched[fd] = (events, handler)

    def modify(self, fd: int, events: int) -> None:
        """Watch for other events."""
        self.watched[fd] = (events, self.watched[fd][1])

    def unregister(self, fd: int) -> None:
        """Stop watching."""
        del self.watched[fd]

    def at_turn_end(self, handler: TurnEndHandler) -> None:
        """Call at once, as outside a turn; or, while `in_turn`, when the test ends it."""
        if self.in_turn:
            self.put_off.append(handler)
        else:
            handler.on_turn_end()

    def end_turn(self) -> None:
        """End a turn that the test began by setting `in_turn`."""
        self.in_turn = False
        put_off, self.put_off = self.put_off, []
        for handler in put_off:
            handler.on_turn_end()

    def mask(self, fd: int) -> int | None:
        """Give what `fd` is watched for; None when it is not watched."""
        return self.watched[fd][0] if fd in self.watched else None

    def ready(self, fd: int, events: int) -> None:
        """Report readiness, but only of what is watched for."""
        if fd in self.watched:
            mask, handler = self.watched[fd]
            if events & mask:
                handler.on_ready(events & mask)


class EpollPoller:
    """A real epoll; each `turn` is ordered by the test, so nothing happens in between."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, PollHandler] = {}

    def __enter__(self) -> "EpollPoller":
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    def register(self, fd: int, events: int, handler: PollHandler) -> None:
        """Watch `fd`."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Watch for other events."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Stop watching."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def at_turn_end(self, handler: TurnEndHandler) -> None:
        """Call at once: the test's turns are its own."""
        handler.on_turn_end()

    @property
    def watched(self) -> set[int]:
        """Give the descriptors that are watched."""
        return set(self._handlers)

    def turn(self, timeout: float = 0.0) -> int:
        """Handle what is ready once; gives how many that were."""
        ready = self._epoll.poll(timeout)
        for fd, events in ready:
            if handler := self._handlers.get(fd):
                handler.on_ready(events)
        return len(ready)

    def settle(self) -> None:
        """Take turns until nothing is ready.

        Raises:
            AssertionError: something is ready for ever: the handler of a busy loop.
        """
        for _ in range(100_000):
            # A moment, since loopback delivers within the call that sends, but for a few acknowledgements.
            if not self.turn(0.005):
                return
        raise AssertionError("a descriptor stays ready: a busy loop")

    def until(self, done: Callable[[], bool]) -> None:
        """Take turns until `done`.

        Raises:
            AssertionError: it never comes.
        """
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "it never came"
            self.turn(0.01)
