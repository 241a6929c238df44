"""`serve_h1`: how connections end by refusal, by handlers, by callers, and by time."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, ServerExchange
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.dataplane.http.timers import Timers
from tests.fakes.h1_caller import GET, POST, Caller, hello


@pytest.fixture
async def caller(nursery: trio.Nursery) -> Caller:
    """Give a caller."""
    timers = Timers(trio.current_time, lambda: pytest.fail("a timer crashed"))
    nursery.start_soon(timers.run)
    return Caller(nursery, timers)


class TestRefusals:
    async def test_answered(self, caller: Caller) -> None:
        """What is no request is answered, said, and closed; no handler hears of it or of what follows."""

        async def handler(exchange: ServerExchange) -> None:
            pytest.fail("a handler was called")

        caller.start(handler)
        answer = await caller.ask(POST + b"Content-Length: x\r\n\r\n" + GET)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b"\r\n") == [
            b"HTTP/1.1 400 Bad Request",
            b"content-type: text/plain; charset=utf-8",
            b"nodemesh-reason: bad_request",
            b"content-length: %d" % len(body),
            b"connection: close",
        ]
        assert await caller.ended()
        assert caller.refused == ["400 bad_framing"]

    @pytest.mark.parametrize(
        ("sent", "status", "reason"),
        [
            (b"GET /%b HTTP/1.1\r\n" % (b"x" * 17_000), b"414", b"too_large"),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 129 + b"\r\n", b"431", b"too_large"),
            (b"CONNECT a:1 HTTP/1.1\r\n", b"501", b"bad_request"),
            (b"GET / HTTP/2.0\r\n", b"505", b"bad_request"),
        ],
    )
    async def test_status(self, caller: Caller, sent: bytes, status: bytes, reason: bytes) -> None:
        """The status says what was wrong, and the mesh's reason stands beside it."""
        caller.start(hello)
        answer = await caller.ask(sent)
        assert answer.split(b" ")[1] == status
        assert b"\r\nnodemesh-reason: %b\r\n" % reason in answer

    async def test_behind_a_good_one(self, caller: Caller) -> None:
        """The request before is answered as if nothing followed."""
        caller.start(hello)
        answers = await caller.ask(GET + b"nonsense\r\n\r\n")
        assert answers.index(b"hello") < answers.index(b"HTTP/1.1 400")


class TestHandlers:
    async def test_without_answer(self, caller: Caller) -> None:
        """A handler that does not answer breaks the connection."""

        async def handler(exchange: ServerExchange) -> None:
            pass

        caller.start(handler)
        with pytest.raises(ChannelBroken):
            await caller.ask(GET)

    async def test_half_an_answer(self, caller: Caller) -> None:
        """Half an answer ends in a reset, so that nobody takes it for a whole one."""

        async def handler(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(200), b"half")

        caller.start(handler)
        await caller.channel.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert caller.channel.broken

    async def test_reset(self, caller: Caller) -> None:
        """A handler can break the exchange off."""

        async def handler(exchange: ServerExchange) -> None:
            exchange.reset("upstream broke")

        caller.start(handler)
        with pytest.raises(ChannelBroken):
            await caller.ask(GET)

    async def test_caller_resets(self, caller: Caller) -> None:
        """A handler whose caller is gone is cancelled, and `wait_gone` says so as well."""
        ended: list[str] = []

        async def handler(exchange: ServerExchange) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await exchange.wait_gone()
                ended.append("cancelled")

        caller.start(handler)
        await caller.ask(GET)
        caller.channel.abort()
        await caller.done.wait()
        assert ended == ["cancelled"]

    async def test_answer_to_nobody(self, caller: Caller, autojump_clock: MockClock) -> None:
        """A caller that has closed ends the exchange at the next word."""
        broken: list[ExchangeBroken] = []

        async def handler(exchange: ServerExchange) -> None:
            await trio.sleep(1)
            try:
                await hello(exchange)
            except ExchangeBroken as error:
                broken.append(error)
                raise

        caller.start(handler)
        await caller.ask(GET)
        caller.channel.close()
        await caller.done.wait()
        assert len(broken) == 1

    async def test_bug(self, caller: Caller) -> None:
        """A bug of a handler's comes out, and breaks the connection."""

        async def handler(exchange: ServerExchange) -> None:
            raise ZeroDivisionError

        async def serve() -> None:
            with pytest.raises(ZeroDivisionError):
                await caller.serve(handler)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(ChannelBroken):
                await caller.ask(GET)

    async def test_cancelled(self, caller: Caller) -> None:
        """Who cancels the server breaks what is open."""
        async with trio.open_nursery() as nursery:

            async def handler(exchange: ServerExchange) -> None:
                await trio.sleep_forever()

            nursery.start_soon(caller.serve, handler)
            await caller.ask(GET)
            nursery.cancel_scope.cancel()
        assert caller.channel.broken

    async def test_slow_caller(self, caller: Caller) -> None:
        """A caller that does not read holds up its handler."""
        sent = 0

        async def handler(exchange: ServerExchange) -> None:
            nonlocal sent
            await exchange.respond(ResponseHead(200))
            while sent < 64:
                await exchange.send(bytes(65_536))
                sent += 1
            await exchange.end()

        caller.start(handler)
        await caller.channel.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert sent < 4
        await caller.listen()
        assert sent == 64


class TestTime:
    async def test_silent_from_the_start(self, caller: Caller, autojump_clock: MockClock) -> None:
        """A connection on which nothing comes is closed without a word."""
        caller.start(hello)
        await caller.done.wait()
        assert caller.elapsed == pytest.approx(15.0, abs=0.1)
        assert await caller.ended()
        assert caller.refused == []

    async def test_slow_head(self, caller: Caller, autojump_clock: MockClock) -> None:
        """A head that is not whole 15 s after its first byte is answered with 408, however it trickles."""
        caller.start(hello)
        await caller.ask(GET)
        await trio.sleep(20)
        began = caller.elapsed
        for position in range(len(GET)):
            if caller.done.is_set():
                break
            await caller.ask(GET[position : position + 1])
            if caller.refused:
                break
            await trio.sleep(1)
        assert caller.refused == ["408 head_timeout"]
        assert caller.elapsed - began == pytest.approx(15.0, abs=1.1)

    async def test_408_is_sent(self, caller: Caller, autojump_clock: MockClock) -> None:
        """The one who was too slow is told."""
        caller.start(hello)
        await caller.channel.send(GET[:-2])
        await trio.sleep(16)
        answer = await caller.listen()
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"\r\nnodemesh-reason: timeout\r\n" in answer

    async def test_idle(self, caller: Caller, autojump_clock: MockClock) -> None:
        """Between requests it is closed after 75 s, without a word."""
        caller.start(hello)
        await caller.ask(GET)
        await trio.sleep(30)
        await caller.ask(GET)
        await caller.done.wait()
        assert caller.elapsed == pytest.approx(105.0, abs=0.1)
        assert await caller.ended()

    async def test_slow_handler(self, caller: Caller, autojump_clock: MockClock) -> None:
        """How long an answer takes is not for the connection to say."""

        async def handler(exchange: ServerExchange) -> None:
            await trio.sleep(1000)
            await hello(exchange)

        caller.start(handler)
        await caller.channel.send(GET)
        await trio.sleep(1001)
        assert (await caller.listen()).endswith(b"hello")
