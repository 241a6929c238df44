"""A handler that hands each request to a client connection as it is, and its answer back."""

from collections.abc import Awaitable, Callable

import trio

from node_proxy.dataplane.http.exchange import (
    Body,
    ClientConnection,
    ClientExchange,
    ExchangeBroken,
    Handler,
    MessageRefused,
    ServerExchange,
)


def relay_to(connection: Callable[[], ClientConnection]) -> Handler:
    """Give a handler that asks whatever connection is the one to ask now."""

    async def handle(exchange: ServerExchange) -> None:
        async with trio.open_nursery() as nursery:
            client = await connection().request(exchange.head, end=exchange.head.length == 0)
            try:
                if exchange.head.length != 0:
                    nursery.start_soon(_send, exchange.body, client)
                await _answer(client, exchange)
            except (ExchangeBroken, MessageRefused) as error:
                exchange.reset(str(error))
            finally:
                client.reset("the caller is gone")
            nursery.cancel_scope.cancel()

    return handle


async def _send(body: Body, client: ClientExchange) -> None:
    try:
        await _copy(body, client.send)
        await client.end(body.trailers)
    except (ExchangeBroken, MessageRefused) as error:
        client.reset(str(error))


async def _answer(client: ClientExchange, exchange: ServerExchange) -> None:
    head = await client.response()
    while head.status < 200:
        await exchange.inform(head)
        head = await client.response()
    await exchange.respond(head, end=head.length == 0)
    await _copy(client.body, exchange.send)
    await exchange.end(client.body.trailers)


async def _copy(body: Body, send: Callable[[bytes], Awaitable[None]]) -> None:
    while data := await body.receive():
        await send(data)
