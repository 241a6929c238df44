"""The reactor: one trio task that waits on an inner epoll and calls handlers inline.

Established byte flows would cost trio a task switch and an epoll_ctl for every read; here a ready
socket costs one dictionary look-up. Trio still owns the lifetime: cancelling `run` stops everything.
Handlers may register, unregister and close at will. A readiness that was reported for a descriptor
closed and reused within one turn is harmless, since handlers only try non-blocking calls.
"""

import select
import time
from collections.abc import Callable

import structlog
import trio

from node_proxy.dataplane.http.parking import Wakes
from node_proxy.tunnel.handlers import PollHandler, TurnEndHandler

# How many ready sockets one turn handles.
BATCH = 256
# Seconds of turns before other trio tasks (handshakes, control) may run; looking at them costs some 20 µs.
TURNS_BEFORE_CHECKPOINT = 0.002
# How long to wait for a conversation's next word before going back to trio; in seconds, the shortest that
# epoll knows. Other tasks wait as long at most.
LINGER = 0.001


class Reactor:
    """An epoll of handlers. One for each worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, PollHandler] = {}
        self._log = structlog.get_logger()
        self._in_turn = False
        self._running = False
        # How many tasks had been woken when all could last run.
        self._wakes = 0
        self._put_off: list[TurnEndHandler] = []
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
        before_waiting = _BeforeWaiting(self._end_turns)
        trio.lowlevel.add_instrument(before_waiting)
        self._running = True
        try:
            await self._serve()
        finally:
            self._running = False
            trio.lowlevel.remove_instrument(before_waiting)
            self._end_turns()

    async def _serve(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            began, self._wakes = self._clock(), Wakes.count
            timeout = 0.0
            while count := self._turn(timeout):
                # One socket at a time is a conversation, whose next word is near. Several are a crowd: the
                # more of it comes together, the more leaves together. Tasks that were just started go first.
                linger = count == 1 and not self._has_woken and not _others_wait()
                timeout = LINGER if linger else 0.0
                if self._clock() - began >= TURNS_BEFORE_CHECKPOINT:
                    await trio.lowlevel.checkpoint()
                    began, self._wakes = self._clock(), Wakes.count

    def at_turn_end(self, handler: TurnEndHandler) -> None:
        """Call `handler` once, after the sockets that are ready now and the tasks that these have woken.

        What a crowd of tasks says then leaves together, as what a crowd of sockets does.
        """
        if self._in_turn or self._running:
            self._put_off.append(handler)
        else:
            self._end_turn(handler)

    def _turn(self, timeout: float = 0.0) -> int:
        """Handle what is ready within `timeout` seconds; gives how many descriptors that were."""
        ready = self._epoll.poll(timeout, BATCH)
        handlers = self._handlers
        self._in_turn = True
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is None:
                continue
            try:
                handler.on_ready(events)
            except Exception as error:  # noqa: BLE001 - the one catch: a bug costs its connection, not the worker
                if not self._gave_up(handler, error) and handlers.get(fd) is handler:
                    # Never call it again.
                    self.unregister(fd)
        self._in_turn = False
        if not self._has_woken:
            self._end_turns()
        return len(ready)

    @property
    def _has_woken(self) -> bool:
        """Whether tasks were woken that have not run: what they say should leave with what was put off."""
        return self._running and Wakes.count != self._wakes

    def _end_turns(self) -> bool:
        """Call all that was put off; gives whether there was any."""
        if not self._put_off:
            return False
        while self._put_off:
            put_off, self._put_off = self._put_off, []
            for each in put_off:
                self._end_turn(each)
        return True

    def _end_turn(self, handler: TurnEndHandler) -> None:
        try:
            handler.on_turn_end()
        except Exception as error:  # noqa: BLE001 - as above
            self._gave_up(handler, error)

    def _gave_up(self, handler: PollHandler | TurnEndHandler, error: Exception) -> bool:
        """Let a handler that has crashed give up; False when it cannot even do that."""
        self.crashes += 1
        self._log.exception("handler crashed", handler=type(handler).__name__)
        try:
            handler.on_crash(error)
        except Exception:  # noqa: BLE001 - as above
            self._log.exception("handler cannot give up", handler=type(handler).__name__)
            return False
        return True


def _others_wait() -> bool:
    return trio.lowlevel.current_statistics().tasks_runnable > 0


class _BeforeWaiting(trio.abc.Instrument):
    """Calls `action` whenever all tasks that could run have run, before trio waits for what happens next."""

    def __init__(self, action: Callable[[], bool]) -> None:
        self._action = action
        self._token = trio.lowlevel.current_trio_token()

    def before_io_wait(self, timeout: float) -> None:
        """Do it; if that wakes a task, let trio not wait."""
        if self._action() and timeout > 0 and _others_wait():
            self._token.run_sync_soon(_nothing, idempotent=True)


def _nothing() -> None:
    """Wake trio."""
