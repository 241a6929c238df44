"""Waiting for what real sockets bring about, without asserting how long it takes."""

from collections.abc import Callable

import trio

# Only keeps a broken test from hanging.
PATIENCE = 10.0


async def eventually(happened: Callable[[], object]) -> None:
    """Let other tasks run until `happened` gives something true.

    Raises:
        trio.TooSlowError: it never does.
    """
    with trio.fail_after(PATIENCE):
        # What is waited for happens in sockets and handlers that set no event.
        while not happened():  # noqa: ASYNC110
            await trio.sleep(0.001)
