"""The reactor: one trio task that waits on an inner epoll and calls handlers inline.

Established byte flows would cost trio a task switch and an epoll_ctl for every read; here a ready
socket costs one dictionary look-up. Trio still owns the lifetime: cancelling `run` stops everything.
Handlers may register, unregister and close at will. A readiness that was reported for a descriptor
closed and reused within one turn is harmless, since handlers only try non-blocking calls.
"""

import select

import structlog
import trio

from node_proxy.tunnel.handlers import PollHandler

# How many ready sockets one turn handles before other trio tasks (handshakes, control) may run.
BATCH = 256
TURNS_BEFORE_CHECKPOINT = 8


class Reactor:
    """An epoll of handlers. One for each worker."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, PollHandler] = {}
        self._log = structlog.get_logger()
        self.crashes = 0

    def register(self, fd: int, events: int, handler: PollHandler) -> None:
        """Watch `fd` for epoll `events`, level-triggered."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for other events; 0 leaves only errors and hang-ups, which epoll always reports."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`; call this before closing it."""
        del self._handlers[fd]
        self._epoll.unregister(fd)

    async def run(self) -> None:
        """Serve until cancelled.

        The epoll stays open: connections that are cut by the same cancellation still unregister from it.
        """
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            turns = 0
            while self._turn():
                turns += 1
                if turns % TURNS_BEFORE_CHECKPOINT == 0:
                    await trio.lowlevel.checkpoint()

    def _crashed(self, fd: int, handler: PollHandler, error: Exception) -> None:
        self.crashes += 1
        self._log.exception("handler crashed", handler=type(handler).__name__)
        try:
            handler.on_crash(error)
        except Exception:  # noqa: BLE001 - then it cannot even give up: never call it again
            self._log.exception("handler cannot give up", handler=type(handler).__name__)
            if self._handlers.get(fd) is handler:
                self.unregister(fd)

    def _turn(self) -> bool:
        ready = self._epoll.poll(0, BATCH)
        handlers = self._handlers
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is None:
                continue
            try:
                handler.on_ready(events)
            except Exception as error:  # noqa: BLE001 - the one catch: a bug costs its connection, not the worker
                self._crashed(fd, handler, error)
        return bool(ready)
