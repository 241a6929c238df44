"""What of HTTP/2 came and nobody has received, over all connections of a worker."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node_proxy.dataplane.backlog import Backlog
from node_proxy.dataplane.http.exchange import ExchangeBroken, Handler, ServerExchange
from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import RequestHead, ResponseHead

LIMITS = HttpLimits()
POST = RequestHead(b"POST", b"/", b"api", [], length=None)
GET = RequestHead(b"GET", b"/", b"api", [])
BODY = b"x" * 40_000
LIMIT = 100_000


async def connect(
    nursery: trio.Nursery, handler: Handler, *, served: Backlog, asked: Backlog
) -> H2ClientConnection:
    """Give a client, joined to a server; each has a backlog."""
    near, far = memory_channels()

    async def serve() -> None:
        await serve_h2(
            far, handler, limits=LIMITS, draining=lambda: False, on_refused=lambda _: None, backlog=served
        )

    client = H2ClientConnection(near, limits=LIMITS, backlog=asked)
    nursery.start_soon(serve)
    nursery.start_soon(client.run)
    return client


async def test_requests_that_nobody_reads(nursery: trio.Nursery) -> None:
    """Of bodies that no handler reads a worker keeps no more than its limit; whose is largest is cut."""

    async def deaf(exchange: ServerExchange) -> None:
        await read.wait()
        try:
            while await exchange.body.receive():
                pass
        except ExchangeBroken:
            broken.append(exchange.head.target)
        await exchange.respond(ResponseHead(200), end=True)

    read, broken = trio.Event(), list[bytes]()
    served, asked = Backlog(LIMIT), Backlog()
    clients = [await connect(nursery, deaf, served=served, asked=asked) for _ in range(3)]
    for client in clients:
        await client.request(POST, BODY, end=True)
        await wait_all_tasks_blocked()
        assert served.total <= LIMIT
    assert served.cuts == 1
    read.set()
    await wait_all_tasks_blocked()
    assert broken == [b"/"]
    assert served.total == 0


async def test_answers_that_nobody_reads(nursery: trio.Nursery) -> None:
    """Answers that were not read are forgotten when their request is given up, and never end as if whole."""

    async def answer(exchange: ServerExchange) -> None:
        await exchange.respond(ResponseHead(200), BODY, end=True)

    served, asked = Backlog(), Backlog()
    client = await connect(nursery, answer, served=served, asked=asked)
    exchange = await client.request(GET, end=True)
    assert (await exchange.response()).status == 200
    await wait_all_tasks_blocked()
    assert asked.total == len(BODY)
    exchange.reset("not wanted")
    assert asked.total == 0
    with pytest.raises(ExchangeBroken):
        await exchange.body.receive()


async def test_read_is_forgotten(nursery: trio.Nursery) -> None:
    """What was received counts no more, on either side."""

    async def echo(exchange: ServerExchange) -> None:
        await exchange.respond(ResponseHead(200))
        while data := await exchange.body.receive():
            await exchange.send(data)
        await exchange.end()

    served, asked = Backlog(), Backlog()
    client = await connect(nursery, echo, served=served, asked=asked)
    exchange = await client.request(POST, BODY, end=True)
    assert (await exchange.response()).status == 200
    got = b""
    while data := await exchange.body.receive():
        got += data
    await wait_all_tasks_blocked()
    assert got == BODY
    assert (served.total, asked.total) == (0, 0)
