"""Giving an endpoint's answer to the caller: head, body and trailers, or the connection after an upgrade."""

from typing import Final, Protocol

import trio

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import ClientExchange, ExchangeBroken, MessageRefused, ServerExchange
from node_proxy.dataplane.http.hygiene import clean_trailers
from node_proxy.dataplane.http.message import Fields, ResponseHead
from node_proxy.errors import NodeProxyError

# What is sent together with the head, when it is there: one write for nearly every answer.
GATHERED: Final = 64 * 1024


class Progress(Protocol):
    """Hears that bytes have moved."""

    def moved(self) -> None:
        """Start the idle time anew."""


class AnswerBroken(NodeProxyError):
    """The endpoint broke its answer; the caller has been told, by a reset."""


async def pass_answer(
    exchange: ServerExchange, client: ClientExchange, head: ResponseHead, progress: Progress
) -> Fields:
    """Give an answer as it comes, as fast as the caller takes it; gives its trailers.

    Raises:
        ExchangeBroken: the caller is gone.
        AnswerBroken: the endpoint is.
    """
    data, ended = _gather(exchange, client)
    body = client.body
    if ended and not body.trailers:
        await exchange.respond(head, data, end=True)
        return []
    await exchange.respond(head, data)
    while not ended:
        try:
            more = await body.receive()
        except (ExchangeBroken, MessageRefused) as error:
            raise _broken(exchange, error) from error
        progress.moved()
        if not more:
            break
        await exchange.send(more)
    trailers = clean_trailers(body.trailers)
    await exchange.end(trailers)
    return trailers


async def pass_upgrade(
    exchange: ServerExchange, client: ClientExchange, head: ResponseHead, progress: Progress
) -> None:
    """Switch protocols, and carry bytes both ways until both have ended or one breaks.

    Raises:
        ExchangeBroken: the caller is gone.
    Cancellation resets both sides.
    """
    near = await exchange.upgrade(head)
    far = client.upgraded()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, near, far, progress, nursery.cancel_scope)
            nursery.start_soon(_carry, far, near, progress, nursery.cancel_scope)
    except BaseException:
        near.abort()
        far.abort()
        raise
    near.close()
    far.close()


async def _carry(source: Channel, sink: Channel, progress: Progress, scope: trio.CancelScope) -> None:
    try:
        while data := await source.receive():
            progress.moved()
            await sink.send(data)
        sink.end()
    except ChannelBroken:
        source.abort()
        sink.abort()
        scope.cancel()


def _gather(exchange: ServerExchange, client: ClientExchange) -> tuple[bytes, bool]:
    """Take what is there of a body already; gives it, and whether that is all."""
    first: bytes | None = b""
    parts: list[bytes] = []
    size = 0
    try:
        while size < GATHERED:
            first = client.body.receive_nowait()
            if not first:
                break
            parts.append(first)
            size += len(first)
    except (ExchangeBroken, MessageRefused) as error:
        raise _broken(exchange, error) from error
    return b"".join(parts) if len(parts) != 1 else parts[0], first == b""


def _broken(exchange: ServerExchange, error: NodeProxyError) -> AnswerBroken:
    exchange.reset("the answer broke")
    return AnswerBroken(str(error))
