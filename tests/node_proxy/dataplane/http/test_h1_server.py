"""`serve_h1` over memory: what callers send as bytes, what handlers do, what callers get as bytes."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from node_proxy.dataplane.http.exchange import ServerExchange
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.dataplane.http.timers import Timers
from node_proxy.errors import LocalProtocolError
from tests.fakes.h1_caller import GET, Caller, echo, hello


@pytest.fixture
async def caller(nursery: trio.Nursery) -> Caller:
    """Give a caller."""
    timers = Timers(trio.current_time, lambda: pytest.fail("a timer crashed"))
    nursery.start_soon(timers.run)
    return Caller(nursery, timers)


class TestAnswers:
    async def test_whole(self, caller: Caller) -> None:
        """An answer that is whole at once has a length."""
        caller.start(hello)
        assert await caller.ask(GET) == b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 5\r\n\r\nhello"

    async def test_in_pieces(self, caller: Caller) -> None:
        """An answer whose length is not known is chunked, with its trailers behind."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(200), b"he")
            await exchange.send(b"")
            await exchange.send(b"llo")
            await exchange.end([(b"x", b"y")])

        caller.start(handler)
        assert await caller.ask(GET) == (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n"
        )

    async def test_declared_length(self, caller: Caller) -> None:
        """An answer in pieces whose length is known says it, and drops trailers."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(200, [], 5))
            await exchange.send(b"hello")
            await exchange.end([(b"x", b"y")])

        caller.start(handler)
        assert await caller.ask(GET) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

    @pytest.mark.parametrize("length", [4, 6], ids=["longer", "shorter"])
    async def test_wrong_length(self, caller: Caller, length: int) -> None:
        """A body that is not as long as its head says is never sent as if it were."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(200, [], length))
            try:
                await exchange.send(b"hello")
                await exchange.end()
            except LocalProtocolError:
                noticed.append("noticed")

        noticed: list[str] = []
        caller.start(handler)
        await caller.channel.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert noticed == ["noticed"]
        assert caller.channel.broken

    @pytest.mark.parametrize(
        ("method", "status", "length", "said"),
        [
            (b"HEAD", 200, 5, b"content-length: 5\r\n"),
            (b"HEAD", 200, None, b""),
            (b"GET", 204, None, b""),
            (b"GET", 304, 5, b"content-length: 5\r\n"),
            (b"GET", 304, None, b""),
        ],
    )
    async def test_without_body(
        self, caller: Caller, method: bytes, status: int, length: int | None, said: bytes
    ) -> None:
        """Answers that have no body get none, whatever the handler sends, and the next one follows."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(status, [], length))
            await exchange.send(b"hello")
            await exchange.end()

        caller.start(handler)
        request = GET.replace(b"GET", method)
        for _ in range(2):
            answer = await caller.ask(request)
            assert answer.partition(b"\r\n")[2] == said + b"\r\n"

    @pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
    async def test_whole_without_body(self, caller: Caller, method: bytes, status: int) -> None:
        """That an answer is whole with its head says nothing of the length it would have had."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(status), end=True)

        caller.start(handler)
        request = GET.replace(b"GET", method)
        for _ in range(2):
            answer = await caller.ask(request)
            assert answer.partition(b"\r\n")[2] == b"\r\n"

    async def test_informational(self, caller: Caller) -> None:
        """Informational answers go before the final one."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.inform(ResponseHead(103, [(b"link", b"x")]))
            await hello(exchange)
            await exchange.inform(ResponseHead(103))

        caller.start(handler)
        answer = await caller.ask(GET)
        assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"hello")

    async def test_second_answer(self, caller: Caller) -> None:
        """Nobody is answered twice."""

        async def handler(exchange: ServerExchange) -> None:
            await hello(exchange)
            assert exchange.responded
            with pytest.raises(LocalProtocolError):
                await hello(exchange)

        caller.start(handler)
        assert (await caller.ask(GET)).count(b"hello") == 1

    async def test_nothing_injected(self, caller: Caller) -> None:
        """A value with a line end in it is never written."""

        async def handler(exchange: ServerExchange) -> None:
            with pytest.raises(LocalProtocolError):
                await exchange.respond(ResponseHead(200, [(b"x", b"y\r\nset-cookie: z")]), end=True)
            await hello(exchange)

        caller.start(handler)
        assert await caller.ask(GET) == b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 5\r\n\r\nhello"


class TestSeveralRequests:
    async def test_one_after_the_other(self, caller: Caller) -> None:
        """A connection serves many requests."""
        caller.start(hello)
        assert await caller.ask(GET) == await caller.ask(GET)
        assert not await caller.ended()

    async def test_pipelined(self, caller: Caller, autojump_clock: MockClock) -> None:
        """Pipelined requests are answered in their order, none begun before the one before has its answer."""
        open_now: list[bytes] = []

        async def handler(exchange: ServerExchange) -> None:
            open_now.append(exchange.head.target)
            assert len(open_now) == 1
            await trio.sleep(1 / len(exchange.head.target))
            open_now.clear()
            await exchange.respond(ResponseHead(200), exchange.head.target, end=True)

        caller.start(handler)
        await caller.channel.send(b"".join(GET.replace(b"/ ", b"/%b " % (b"x" * n)) for n in range(3)))
        await trio.sleep(5)
        answers = await caller.listen()
        assert [each.rpartition(b"\r\n")[2] for each in answers.split(b"HTTP/1.1 200 OK")[1:]] == [
            b"/",
            b"/x",
            b"/xx",
        ]

    async def test_first_bytes(self, caller: Caller) -> None:
        """What was read to tell the protocol is part of the first request."""
        caller.start(hello, first_bytes=GET[:7])
        assert (await caller.ask(GET[7:])).endswith(b"hello")

    @pytest.mark.parametrize("close", [b"Connection: close\r\n\r\n", b"Connection: x, Close\r\n\r\n"])
    async def test_close(self, caller: Caller, close: bytes) -> None:
        """Who asks for it gets the connection closed behind the answer."""
        caller.start(hello)
        answer = await caller.ask(GET[:-2] + close)
        assert b"\r\nconnection: close\r\n" in answer
        assert await caller.ended()

    async def test_caller_ends(self, caller: Caller) -> None:
        """A caller that ends between requests is let go; one that ends behind a request is answered."""
        caller.start(hello)
        caller.channel.send_nowait(GET)
        caller.channel.end()
        assert (await caller.listen()).endswith(b"hello")
        assert await caller.ended()

    async def test_draining(self, caller: Caller) -> None:
        """A proxy that drains says so in its next answer, and closes."""
        caller.start(hello)
        assert b"connection: close" not in await caller.ask(GET)
        caller.draining = True
        assert b"\r\nconnection: close\r\n" in await caller.ask(GET)
        assert await caller.ended()


class TestHttp10:
    async def test_closes(self, caller: Caller) -> None:
        """HTTP/1.0 is one request on a connection."""
        caller.start(hello)
        answer = await caller.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert answer == b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
        assert await caller.ended()

    async def test_kept_open(self, caller: Caller) -> None:
        """Unless it asks for more."""
        caller.start(hello)
        request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        assert b"\r\nconnection: keep-alive\r\n" in await caller.ask(request)
        assert (await caller.ask(request)).endswith(b"hello")

    async def test_unknown_length(self, caller: Caller) -> None:
        """A body of unknown length ends with the connection, kept open or not."""
        caller.start(echo)
        answer = await caller.ask(
            b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"
        )
        assert answer == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello"
        assert await caller.ended()

    async def test_no_informational(self, caller: Caller) -> None:
        """HTTP/1.0 knows no informational answers."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.inform(ResponseHead(103))
            await hello(exchange)

        caller.start(handler)
        assert (await caller.ask(b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


class TestUpgrade:
    ASKING = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    async def test_both_ways(self, caller: Caller) -> None:
        """After 101 the bytes are the handler's, from the first one behind the request on."""

        async def handler(exchange: ServerExchange) -> None:
            channel = await exchange.upgrade(ResponseHead(101, [(b"sec-websocket-accept", b"x")]))
            while data := await channel.receive():
                await channel.send(data.upper())

        caller.start(handler)
        assert await caller.ask(self.ASKING + b"early") == (
            b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: x\r\n"
            b"connection: upgrade\r\nupgrade: websocket\r\n\r\nEARLY"
        )
        assert await caller.ask(b"more") == b"MORE"
        caller.channel.end()
        assert await caller.ended()
        await caller.done.wait()

    async def test_declined(self, caller: Caller) -> None:
        """Who answers otherwise stays with HTTP."""
        caller.start(hello)
        assert (await caller.ask(self.ASKING)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await caller.ask(GET)).endswith(b"hello")

    async def test_unasked(self, caller: Caller) -> None:
        """Nobody is upgraded who did not ask."""

        async def handler(exchange: ServerExchange) -> None:
            with pytest.raises(LocalProtocolError):
                await exchange.upgrade(ResponseHead(101))
            await hello(exchange)

        caller.start(handler)
        assert (await caller.ask(GET)).endswith(b"hello")
