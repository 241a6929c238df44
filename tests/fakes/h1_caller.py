"""The caller's end of a connection that `serve_h1` serves, and handlers for it."""

import trio
import trio.testing

from node_proxy.dataplane.http.exchange import Handler, ServerExchange
from node_proxy.dataplane.http.h1_server import serve_h1
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.dataplane.http.timers import Timers

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


class Caller:
    """The caller's end of a connection that is served; nothing happens but by its methods."""

    def __init__(self, nursery: trio.Nursery, timers: Timers) -> None:
        self.channel, self.served = memory_channels()
        self.refused: list[str] = []
        self.draining = False
        self.done = trio.Event()
        self.began = trio.current_time()
        self._nursery = nursery
        self._timers = timers

    def start(self, handler: Handler, *, first_bytes: bytes = b"", limits: HttpLimits | None = None) -> None:
        """Let the connection be served."""
        self._nursery.start_soon(self.serve, handler, first_bytes, limits)

    async def serve(
        self, handler: Handler, first_bytes: bytes = b"", limits: HttpLimits | None = None
    ) -> None:
        """Serve the connection."""
        await serve_h1(
            self.served,
            handler,
            limits=limits or HttpLimits(),
            timers=self._timers,
            draining=lambda: self.draining,
            first_bytes=first_bytes,
            on_refused=lambda refused: self.refused.append(f"{refused.status} {refused.reason}"),
        )
        self.done.set()

    @property
    def elapsed(self) -> float:
        """Seconds since the connection was made."""
        return trio.current_time() - self.began

    async def ask(self, data: bytes) -> bytes:
        """Send, let everything happen that can without time, and give what came."""
        await self.channel.send(data)
        return await self.listen()

    async def listen(self) -> bytes:
        """Let everything happen that can without time, and give what came."""
        came = b""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            data = self.channel.receive_nowait()
            if not data:
                return came
            came += data

    async def ended(self) -> bool:
        """Whether the connection has ended in order, everything being read."""
        await trio.testing.wait_all_tasks_blocked()
        return self.channel.receive_nowait() == b""


async def hello(exchange: ServerExchange) -> None:
    """Answer at once, without a look at the body."""
    await exchange.respond(ResponseHead(200, [(b"x", b"y")]), b"hello", end=True)


async def echo(exchange: ServerExchange) -> None:
    """Answer with the body, as it comes."""
    first = await exchange.body.receive()
    await exchange.respond(ResponseHead(200), first)
    while data := await exchange.body.receive():
        await exchange.send(data)
    await exchange.end(exchange.body.trailers)
