"""The way from a synchronous httpx client to an ASGI application on trio: a thread, and no socket."""

import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx
import trio

T = TypeVar("T")
Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class TrioThread:
    """A trio loop in a thread of its own."""

    def __init__(self, token: trio.lowlevel.TrioToken, nursery: trio.Nursery) -> None:
        self._token = token
        self._nursery = nursery

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function in the loop and wait for its result."""
        return trio.from_thread.run(function, *args, trio_token=self._token)

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        """Start an async function in the loop; it is cancelled when the loop ends."""
        trio.from_thread.run_sync(self._nursery.start_soon, function, trio_token=self._token)


@contextmanager
def trio_thread() -> Iterator[TrioThread]:
    """Open a thread with a trio loop; it ends with the context."""
    opened: queue.SimpleQueue[TrioThread] = queue.SimpleQueue()
    stop = trio.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            opened.put(TrioThread(trio.lowlevel.current_trio_token(), nursery))
            await stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    loop = opened.get()
    try:
        yield loop
    finally:
        with suppress(trio.RunFinishedError):
            trio.from_thread.run_sync(stop.set, trio_token=loop._token)
        thread.join()


class AsgiTransport(httpx.BaseTransport):
    """Answers an httpx client's requests from an ASGI application in `loop`."""

    def __init__(self, app: App, loop: TrioThread) -> None:
        self._app = app
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Take one request through the application."""
        return self._loop.run(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.partition(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("127.0.0.1", 1),
            "server": (request.url.host, request.url.port),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": request.read(), "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *bodies = sent
        content = b"".join(message.get("body", b"") for message in bodies)
        return httpx.Response(start["status"], headers=start["headers"], content=content, request=request)
