"""Waits on other threads end when they are done, or cancelled, and leave nothing behind."""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest
import trio

from registry.store.bridge import wait_future, wait_next


class TestFuture:
    async def test_result(self) -> None:
        """A result that another thread sets comes out."""
        future: Future[int] = Future()
        threading.Timer(0.01, future.set_result, [7]).start()
        assert await wait_future(future) == 7

    async def test_done_already(self) -> None:
        """A future that is done already needs no thread."""
        future: Future[int] = Future()
        future.set_result(7)
        assert await wait_future(future) == 7

    async def test_error(self) -> None:
        """An error comes out as it is."""
        future: Future[int] = Future()
        error = ZeroDivisionError()
        threading.Timer(0.01, future.set_exception, [error]).start()
        with pytest.raises(ZeroDivisionError) as caught:
            await wait_future(future)
        assert caught.value is error

    async def test_cancelled(self) -> None:
        """Cancelling cancels the future."""
        future: Future[int] = Future()
        with trio.move_on_after(0.01) as scope:
            await wait_future(future)
        assert scope.cancelled_caught
        assert future.cancelled()

    def test_too_late(self) -> None:
        """A result that comes when the loop is over harms nobody."""
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()

        async def give_up() -> None:
            with trio.move_on_after(0.01):
                await wait_future(future)

        trio.run(give_up)
        future.set_result(7)


class Blocking:
    """An iterator that blocks until it is fed; ends when cancelled."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self.waiting = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.waiting += 1
        item = self.items.get()
        self.waiting -= 1
        if item is None:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def cancel(self) -> None:
        """Wake whoever waits."""
        self.items.put(None)


class TestIterator:
    async def test_items(self) -> None:
        """Items come one by one, then None at the end."""
        blocking = Blocking()
        for item in (1, 2, None):
            blocking.items.put(item)
        wait = partial(wait_next, blocking, cancel=blocking.cancel, name="test")
        assert [await wait(), await wait(), await wait()] == [1, 2, None]

    async def test_error(self) -> None:
        """An error comes out as it is."""
        blocking = Blocking()
        blocking.items.put(ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await wait_next(blocking, cancel=blocking.cancel, name="test")

    async def test_cancelled(self) -> None:
        """Cancelling cancels the iterator and waits until its thread has left it."""
        blocking = Blocking()
        with trio.move_on_after(0.05) as scope:
            await wait_next(blocking, cancel=blocking.cancel, name="test")
        assert scope.cancelled_caught
        assert blocking.waiting == 0
