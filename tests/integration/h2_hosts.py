"""Servers and proxies of HTTP/2 on loopback, for clients that people use."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import trio

from node_proxy.dataplane.http.exchange import Handler, MessageRefused
from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.socket_channel import SocketChannel
from node_proxy.dataplane.reactor import Reactor
from tests.fakes.http_relay import relay_to
from tests.integration.grpc_workloads import Echo, run_grpc


@asynccontextmanager
async def serving(handler: Handler, reactor: Reactor) -> AsyncIterator[int]:
    """Serve HTTP/2 on loopback; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    async def accept(nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            nursery.start_soon(serve, SocketChannel(accepted, reactor))

    async def serve(channel: SocketChannel) -> None:
        await serve_h2(channel, handler, limits=HttpLimits(), draining=lambda: False, on_refused=_nothing)

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept, nursery)
            yield listener.getsockname()[1]
            nursery.cancel_scope.cancel()


def _nothing(refused: MessageRefused) -> None:
    """Hear what was refused; who asked was told."""


@asynccontextmanager
async def running() -> AsyncIterator[Reactor]:
    """Run a reactor."""
    reactor = Reactor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        yield reactor
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[int]:
    """Put a proxy of both ends before a server at `port`; gives its port."""
    upstream = socket.create_connection(("127.0.0.1", port))
    upstream.setblocking(False)
    upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with running() as reactor, trio.open_nursery() as nursery:
        client = H2ClientConnection(SocketChannel(upstream, reactor), limits=HttpLimits())
        nursery.start_soon(client.run)
        async with serving(relay_to(lambda: client), reactor) as proxy:
            yield proxy
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def grpc_server() -> AsyncIterator[tuple[int, Echo]]:
    """Run a server of grpcio; gives its port and what it does."""
    with ExitStack() as stack:
        yield stack.enter_context(run_grpc())
        await trio.to_thread.run_sync(stack.close)
