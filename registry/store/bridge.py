"""Waits on trio for a library that has threads of its own: its futures, and its blocking iterators.

Knows neither the library nor its errors: they come out as they went in.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar

import outcome
import trio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Future(Protocol[T_co]):
    """What is used of a future that completes on another thread."""

    def add_done_callback(self, callback: Callable[[object], None], /) -> None:
        """Call back, on any thread, when done."""

    def cancel(self) -> object:
        """Give up."""

    def result(self) -> T_co:
        """Give the result, or raise the error."""


async def wait_future(future: Future[T]) -> T:
    """Wait for a future without a thread; cancelling cancels it and does not wait for it to notice."""
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def wake(_: object) -> None:
        # The loop may be over when a cancelled call reports back.
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future.add_done_callback(wake)
    try:
        await done.wait()
    finally:
        if not done.is_set():
            future.cancel()
    return future.result()


async def wait_next(iterator: Iterator[T], *, cancel: Callable[[], object], name: str) -> T | None:
    """Take the next item of a blocking iterator, in a thread that ends with this call; None at its end.

    Cancelling calls `cancel`, which must make the iterator return or raise at once, and waits for that: no
    thread is left in it.
    """
    token = trio.lowlevel.current_trio_token()
    task = trio.lowlevel.current_task()

    def deliver(result: outcome.Outcome[T | None]) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.Value(result))

    def abort(_: object) -> trio.lowlevel.Abort:
        cancel()
        return trio.lowlevel.Abort.FAILED

    trio.lowlevel.start_thread_soon(lambda: next(iterator, None), deliver, name)
    result: outcome.Outcome[T | None] = await trio.lowlevel.wait_task_rescheduled(abort)
    await trio.lowlevel.checkpoint_if_cancelled()
    return result.unwrap()
