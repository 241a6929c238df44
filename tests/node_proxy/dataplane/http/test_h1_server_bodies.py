"""`serve_h1` and the bodies of requests, wanted and unwanted."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused, ServerExchange
from node_proxy.dataplane.http.h1_exchange import H1ServerExchange
from node_proxy.dataplane.http.h1_incoming import IncomingBody
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.dataplane.http.timers import Timers
from tests.fakes.garbage import alive, counting_alone
from tests.fakes.h1_caller import GET, POST, Caller, echo, hello


@pytest.fixture
async def caller(nursery: trio.Nursery) -> Caller:
    """Give a caller."""
    timers = Timers(trio.current_time, lambda: pytest.fail("a timer crashed"))
    nursery.start_soon(timers.run)
    return Caller(nursery, timers)


class TestRequestBodies:
    async def test_as_it_comes(self, caller: Caller) -> None:
        """A body goes both ways before it is whole, and its trailers with it."""
        caller.start(echo)
        first = await caller.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
        assert first.endswith(b"\r\n\r\n2\r\nhe\r\n")
        assert await caller.ask(b"3\r\nllo\r\n") == b"3\r\nllo\r\n"
        assert await caller.ask(b"0\r\nX: y\r\n\r\n") == b"0\r\nx: y\r\n\r\n"

    async def test_one_that_breaks_off(self, caller: Caller) -> None:
        """A caller that ends within its body is not taken at its word."""

        async def handler(exchange: ServerExchange) -> None:
            assert await exchange.body.receive() == b"he"
            for _ in range(2):
                with pytest.raises(ExchangeBroken):
                    await exchange.body.receive()

        caller.start(handler)
        caller.channel.send_nowait(POST + b"Content-Length: 5\r\n\r\nhe")
        caller.channel.end()
        with pytest.raises(ChannelBroken):
            await caller.listen()

    async def test_bad_chunk(self, caller: Caller) -> None:
        """A body whose framing breaks is refused when the handler lets it."""
        caller.start(echo)
        answer = await caller.ask(POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert caller.refused == ["400 bad_chunk"]

    async def test_bad_chunk_behind_an_answer(self, caller: Caller) -> None:
        """When the answer has begun it is broken off: it must not look whole."""
        caller.start(echo)
        await caller.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
        with pytest.raises(ChannelBroken):
            await caller.ask(b"x\r\n")
        assert caller.refused == ["400 bad_chunk"]

    async def test_unread_but_here(self, caller: Caller) -> None:
        """A body that nobody reads is put out of the way of the next request."""
        caller.start(hello)
        for _ in range(2):
            answer = await caller.ask(POST + b"Content-Length: 5\r\n\r\nhello")
            assert b"connection: close" not in answer
            assert answer.endswith(b"hello")

    async def test_unread_and_away(self, caller: Caller, autojump_clock: MockClock) -> None:
        """When it is not here the connection closes, after the caller had time to read the answer."""
        caller.start(hello)
        answer = await caller.ask(POST + b"Content-Length: 5\r\n\r\nhe")
        assert b"\r\nconnection: close\r\n" in answer
        assert await caller.ended()
        assert not caller.done.is_set()
        await caller.done.wait()
        assert caller.elapsed == pytest.approx(2.0, abs=0.1)

    async def test_endless(self, caller: Caller, autojump_clock: MockClock) -> None:
        """Who goes on sending is cut, however fast the bytes come."""
        caller.start(hello)
        await caller.ask(POST + b"Content-Length: 999999999\r\n\r\n")

        async def send_for_ever() -> None:
            while True:
                await caller.channel.send(bytes(65_536))

        with pytest.raises(ChannelBroken):
            await send_for_ever()
        assert caller.elapsed < 1.0

    async def test_pipelined_behind_an_unread_body(self, caller: Caller) -> None:
        """An unread body is never taken for the next request."""
        caller.start(hello)
        answers = await caller.ask(POST + b"Content-Length: %d\r\n\r\n" % len(GET) + GET + GET)
        assert answers.count(b"HTTP/1.1 200 OK") == 2


class TestExpectation:
    EXPECTING = POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    async def test_asked_for(self, caller: Caller) -> None:
        """100 is said when the body is wanted, once."""
        caller.start(echo)
        assert await caller.ask(self.EXPECTING) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await caller.ask(b"he")).endswith(b"2\r\nhe\r\n")
        assert await caller.ask(b"llo") == b"3\r\nllo\r\n0\r\n\r\n"

    async def test_passed_on(self, caller: Caller) -> None:
        """100 from further on is passed on, once."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.inform(ResponseHead(100))
            await exchange.inform(ResponseHead(100))
            await echo(exchange)

        caller.start(handler)
        assert await caller.ask(self.EXPECTING) == b"HTTP/1.1 100 Continue\r\n\r\n"

    async def test_body_that_does_not_wait(self, caller: Caller) -> None:
        """Who sends its body all the same is not told to."""
        caller.start(echo)
        assert b"100 Continue" not in await caller.ask(self.EXPECTING + b"hello")

    async def test_refused(self, caller: Caller) -> None:
        """An answer without 100 closes: whether the body comes nobody can know."""
        caller.start(hello)
        answer = await caller.ask(self.EXPECTING)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nconnection: close\r\n" in answer

    async def test_unasked(self, caller: Caller) -> None:
        """100 is not said to who did not ask."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.inform(ResponseHead(100))
            await hello(exchange)

        caller.start(handler)
        assert (await caller.ask(GET)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_no_cycles(caller: Caller) -> None:
    """A request with a body leaves nothing to the garbage collector."""
    caller.start(echo)
    with counting_alone():
        assert (await caller.ask(POST + b"Content-Length: 5\r\n\r\nhello")).count(b"hello") == 1
        assert alive(H1ServerExchange, IncomingBody) == []


async def test_refusal_of_a_body_raises_again(caller: Caller) -> None:
    """A body that was refused is refused as often as it is asked for."""

    async def handler(exchange: ServerExchange) -> None:
        for _ in range(2):
            with pytest.raises(MessageRefused):
                await exchange.body.receive()
        with pytest.raises(MessageRefused):
            exchange.body.receive_nowait()

    caller.start(handler)
    with pytest.raises(ChannelBroken):
        await caller.ask(POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n")


async def test_what_an_answer_dropped_is_missed(caller: Caller) -> None:
    """Who still reads a body, some of which was dropped for an early answer, never takes it for the whole."""

    async def handler(exchange: ServerExchange) -> None:
        assert await exchange.body.receive() == b"he"
        await answered.wait()
        await exchange.respond(ResponseHead(200), b"enough", end=True)
        for _ in range(2):
            with pytest.raises(ExchangeBroken):
                await exchange.body.receive()
        told.append("told")

    answered = trio.Event()
    told: list[str] = []
    caller.start(handler)
    await caller.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
    await caller.ask(b"3\r\nllo\r\n0\r\n\r\n")
    answered.set()
    assert (await caller.listen()).endswith(b"\r\n\r\nenough")
    assert told == ["told"]
