"""A TCP forwarder on loopback whose connections can be cut, or left open and silent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

HOST = "127.0.0.1"


class Forwarder:
    """Forwards each connection to `port`; counts connections `accepted` and bytes `moved`, both ways."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._blocked = False
        self._connections: dict[trio.CancelScope, trio.Event] = {}
        self.accepted = 0
        self.moved = 0

    def cut(self) -> None:
        """End every connection."""
        for scope in self._connections:
            scope.cancel()

    def block(self) -> None:
        """End every connection, and those to come as soon as they are made."""
        self._blocked = True
        self.cut()

    def unblock(self) -> None:
        """Forward again."""
        self._blocked = False

    def freeze(self) -> None:
        """Leave every connection open and move nothing on it any more; those to come are forwarded."""
        for frozen in self._connections.values():
            frozen.set()

    async def serve(self, client: trio.SocketStream) -> None:
        """Forward one connection until it ends."""
        self.accepted += 1
        if self._blocked:
            await client.aclose()
            return
        with trio.CancelScope() as scope:
            frozen = trio.Event()
            self._connections[scope] = frozen
            try:
                async with (
                    client,
                    await trio.open_tcp_stream(HOST, self._port) as server,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._pump, client, server, frozen, scope)
                    nursery.start_soon(self._pump, server, client, frozen, scope)
            except* OSError:
                # Nobody listens behind us: the client sees its connection end, as through any proxy.
                pass
            finally:
                del self._connections[scope]

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, frozen: trio.Event, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                if frozen.is_set():
                    await trio.sleep_forever()
                await sink.send_all(data)
                self.moved += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        if frozen.is_set():
            await trio.sleep_forever()
        scope.cancel()


@asynccontextmanager
async def open_forwarder(port: int, *, host: str = HOST) -> AsyncIterator[tuple[Forwarder, str]]:
    """Forward a free port on loopback to `port`; gives the forwarder and its ``host:port``."""
    forwarder = Forwarder(port)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, forwarder.serve, 0, host=host))
        name = f"[{host}]" if ":" in host else host
        yield forwarder, f"{name}:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
