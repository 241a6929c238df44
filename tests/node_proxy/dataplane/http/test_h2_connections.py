"""Servers and clients of HTTP/2 on channels in memory, with exact virtual time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, Handler, MessageRefused, ServerExchange
from node_proxy.dataplane.http.h2_client import H2ClientConnection, H2ClientExchange
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.h2_server_exchange import H2ServerExchange
from node_proxy.dataplane.http.h2_streams import INITIAL_WINDOW, MAX_CONCURRENT_STREAMS
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import RequestHead, ResponseHead
from node_proxy.errors import LocalProtocolError
from node_proxy.tunnel import frames
from tests.fakes.garbage import alive, counting_alone
from tests.node_proxy.dataplane.http.h2_raw import (
    GET,
    POST,
    PREFACE,
    data,
    frame,
    heads,
    read_frames,
    settings,
)

_GET = RequestHead(b"GET", b"/", b"api", [])
_POST = RequestHead(b"POST", b"/", b"api", [], length=None)
_LIMITS = HttpLimits(head_seconds=10, idle_seconds=50)


async def _hello(exchange: ServerExchange) -> None:
    await exchange.respond(ResponseHead(200, [(b"a", b"b")], 5), b"hello", end=True)


async def _echo(exchange: ServerExchange) -> None:
    await exchange.respond(ResponseHead(200))
    while received := await exchange.body.receive():
        await exchange.send(received)
    await exchange.end(exchange.body.trailers)


class _Pair:
    """A client connection, joined to a server whose handler a test gives."""

    def __init__(self, nursery: trio.Nursery, handler: Handler, draining: Callable[[], bool]) -> None:
        self.refused: list[MessageRefused] = []
        self.served = trio.Event()
        self.near, self.far = memory_channels()
        nursery.start_soon(self._serve, handler, draining)

    async def _serve(self, handler: Handler, draining: Callable[[], bool]) -> None:
        await serve_h2(self.far, handler, limits=_LIMITS, draining=draining, on_refused=self.refused.append)
        self.served.set()


@asynccontextmanager
async def _raw(
    handler: Handler, draining: Callable[[], bool] = lambda: False
) -> AsyncIterator[tuple[Channel, _Pair]]:
    """Give the channel to a server, for a test that writes its own frames."""
    async with trio.open_nursery() as nursery:
        pair = _Pair(nursery, handler, draining)
        yield pair.near, pair
        pair.near.close()
        with trio.fail_after(1):
            await pair.served.wait()


@asynccontextmanager
async def _joined(
    handler: Handler, draining: Callable[[], bool] = lambda: False
) -> AsyncIterator[tuple[H2ClientConnection, _Pair]]:
    """Give a client that is connected to a server."""
    async with trio.open_nursery() as nursery:
        pair = _Pair(nursery, handler, draining)
        client = H2ClientConnection(pair.near, limits=_LIMITS)
        nursery.start_soon(client.run)
        yield client, pair
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _client() -> AsyncIterator[tuple[H2ClientConnection, Channel]]:
    """Give a client, and the channel on which a test plays the server."""
    near, far = memory_channels()
    client = H2ClientConnection(near, limits=_LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        yield client, far
        nursery.cancel_scope.cancel()


async def _whole(exchange: H2ClientExchange) -> bytes:
    parts = []
    while part := await exchange.body.receive():
        parts.append(part)
    return b"".join(parts)


async def _kinds(channel: Channel) -> list[int]:
    """Receive until the end; gives the kinds of the frames that came."""
    received = b""
    while part := await channel.receive():
        received += part
    return [kind for kind, _, _ in read_frames(received)]


class TestExchanges:
    async def test_answer(self) -> None:
        """A request is answered, and both ends forget it."""
        async with _joined(_hello) as (client, _):
            exchange = await client.request(_GET, end=True)
            assert await exchange.response() == ResponseHead(200, [(b"a", b"b")], 5)
            assert await _whole(exchange) == b"hello"
            assert client.in_flight == 0

    async def test_large_bodies_both_ways(self) -> None:
        """Bodies of many windows pass whole, both ways at once, with their trailers."""
        body = bytes(range(256)) * 8192
        async with _joined(_echo) as (client, _):
            exchange = await client.request(_POST, end=False)

            async def send() -> None:
                await exchange.send(body)
                await exchange.end([(b"x-sum", b"1")])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert await _whole(exchange) == body
            assert exchange.body.trailers == [(b"x-sum", b"1")]

    async def test_body_with_the_head(self) -> None:
        """A body that is given with the head is sent whole, however large."""
        body = b"x" * 300_000
        async with _joined(_echo) as (client, _):
            exchange = await client.request(_POST, body, end=True)
            assert await _whole(exchange) == body
            assert client.in_flight == 0

    async def test_more_after_the_first_bytes(self) -> None:
        """What is sent after the first bytes comes after them, though they wait for the window."""
        async with _joined(_echo) as (client, _):
            exchange = await client.request(_POST, b"a" * 100_000, end=False)

            async def send() -> None:
                await exchange.send(b"b" * 100_000)
                await exchange.end()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                assert await _whole(exchange) == b"a" * 100_000 + b"b" * 100_000

    async def test_backpressure(self) -> None:
        """Who does not read holds up who sends, at about a window."""
        sent = 0

        async def pour(exchange: ServerExchange) -> None:
            nonlocal sent
            await exchange.respond(ResponseHead(200))
            while True:
                await exchange.send(b"x" * 1000)
                sent += 1000

        async with _joined(pour) as (client, _):
            exchange = await client.request(_GET, end=True)
            await exchange.response()
            await wait_all_tasks_blocked()
            assert INITIAL_WINDOW - 1000 <= sent <= INITIAL_WINDOW
            other = await client.request(_GET, end=True)
            assert (await other.response()).status == 200
            assert len(await exchange.body.receive()) > 0

    async def test_informational(self) -> None:
        """Informational answers come before the answer, in order."""

        async def early(exchange: ServerExchange) -> None:
            await exchange.inform(ResponseHead(103, [(b"link", b"</a>")]))
            await _hello(exchange)

        async with _joined(early) as (client, _):
            exchange = await client.request(_GET, end=True)
            assert [(await exchange.response()).status, (await exchange.response()).status] == [103, 200]

    async def test_continue(self) -> None:
        """A caller that waits for 100 gets it when the body is asked for."""
        head = RequestHead(b"POST", b"/", b"api", [], length=None, expects_continue=True)

        async def read_first(exchange: ServerExchange) -> None:
            received = await exchange.body.receive()
            await exchange.respond(ResponseHead(200), received, end=True)

        async with _joined(read_first) as (client, _):
            exchange = await client.request(head, end=False)
            assert (await exchange.response()).status == 100
            await exchange.send(b"abc")
            await exchange.end()
            assert (await exchange.response()).status == 200
            assert await _whole(exchange) == b"abc"

    async def test_no_continue(self) -> None:
        """A caller whose body interests nobody is not asked for it."""
        head = RequestHead(b"POST", b"/", b"api", [], length=None, expects_continue=True)
        async with _joined(_hello) as (client, _):
            exchange = await client.request(head, end=False)
            assert (await exchange.response()).status == 200

    @pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
    async def test_no_body(self, method: bytes, status: int) -> None:
        """What is answered without a body has none, whatever the handler sends."""

        async def answer(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(status, [], 5), b"hel")
            await exchange.send(b"lo")
            await exchange.end()

        async with _joined(answer) as (client, _):
            exchange = await client.request(RequestHead(method, b"/", b"api", []), end=True)
            assert (await exchange.response()).status == status
            assert await _whole(exchange) == b""

    async def test_answer_before_the_body(self) -> None:
        """An answer that did not wait for the body is whole, and tells the caller to stop."""
        async with _joined(_hello) as (client, _):
            exchange = await client.request(_POST, b"x", end=False)
            assert (await exchange.response()).status == 200
            assert await _whole(exchange) == b"hello"
            with pytest.raises(ExchangeBroken):
                await exchange.send(b"y")
            assert client.in_flight == 0

    async def test_second_answer(self) -> None:
        """There is one final answer."""
        errors = []

        async def twice(exchange: ServerExchange) -> None:
            await _hello(exchange)
            with pytest.raises(LocalProtocolError) as error:
                await exchange.respond(ResponseHead(200))
            errors.append(error)

        async with _joined(twice) as (client, _):
            await (await client.request(_GET, end=True)).response()
            await wait_all_tasks_blocked()
        assert errors


class TestEnds:
    async def test_reset_by_caller(self) -> None:
        """A caller that gives up cancels the handler."""
        gone = trio.Event()

        async def wait(exchange: ServerExchange) -> None:
            try:
                await trio.sleep_forever()
            finally:
                gone.set()

        async with _joined(wait) as (client, _):
            exchange = await client.request(_GET, end=True)
            await wait_all_tasks_blocked()
            exchange.reset("enough")
            with trio.fail_after(1):
                await gone.wait()
            with pytest.raises(ExchangeBroken):
                await exchange.response()

    async def test_caller_is_gone(self) -> None:
        """So does a connection that breaks."""
        gone = trio.Event()

        async def wait(exchange: ServerExchange) -> None:
            try:
                await exchange.wait_gone()
            finally:
                gone.set()

        async with _raw(wait) as (channel, _):
            await channel.send(PREFACE + settings() + heads(GET))
            await wait_all_tasks_blocked()
            channel.abort()
            with trio.fail_after(1):
                await gone.wait()

    @pytest.mark.parametrize("begun", [False, True])
    async def test_handler_without_an_answer(self, begun: bool) -> None:
        """A handler that returns too early resets the request: nobody takes half an answer for whole."""

        async def half(exchange: ServerExchange) -> None:
            if begun:
                await exchange.respond(ResponseHead(200), b"hel")

        async with _joined(half) as (client, _):
            exchange = await client.request(_GET, end=True)
            if begun:
                assert (await exchange.response()).status == 200
            with pytest.raises(ExchangeBroken) as error:
                await (_whole(exchange) if begun else exchange.response())
            assert error.value.by_peer
            assert not error.value.untouched

    async def test_handler_with_a_bug(self) -> None:
        """A bug in a handler is not swallowed: it ends the connection, and whoever serves it hears of it."""

        async def bug(exchange: ServerExchange) -> None:
            raise ZeroDivisionError

        near, far = memory_channels()
        await near.send(PREFACE + settings() + heads(GET))
        with pytest.raises(ExceptionGroup) as errors:
            await serve_h2(far, bug, limits=_LIMITS, draining=lambda: False, on_refused=print)
        assert errors.group_contains(ZeroDivisionError)

    async def test_malformed_request(self) -> None:
        """A malformed request never reaches the handler, and is told of."""
        async with _raw(_hello) as (channel, pair):
            await channel.send(PREFACE + settings() + heads([*GET, (b"A", b"b")]))
            await wait_all_tasks_blocked()
        assert [each.status for each in pair.refused] == [400]

    async def test_broken_protocol(self) -> None:
        """A peer that breaks the protocol hears GOAWAY, and is told of."""
        async with _raw(_hello) as (channel, pair):
            await channel.send(PREFACE + settings() + frame(frames.PING, b"1"))
            assert (await _kinds(channel))[-1] == frames.GOAWAY
        assert [each.reason for each in pair.refused] == ["broken_protocol"]

    async def test_lying_length(self) -> None:
        """A handler that reads a body with a false length hears that the caller is to blame."""
        heard: list[Exception] = []

        async def read(exchange: ServerExchange) -> None:
            try:
                while await exchange.body.receive():
                    pass
            except MessageRefused as error:
                heard.append(error)
                raise

        async with _raw(read) as (channel, pair):
            head = [*POST, (b"content-length", b"3")]
            await channel.send(PREFACE + settings() + heads(head, end=False) + data(b"ab", end=True))
            await wait_all_tasks_blocked()
        assert len(pair.refused) == 1
        assert not heard or isinstance(heard[0], MessageRefused)

    async def test_flood_to_one_that_does_not_read(self, autojump_clock: MockClock) -> None:
        """A peer that asks for answers to control frames and reads none is cut, not fed from memory."""
        async with _raw(_echo) as (channel, pair):
            await channel.send(PREFACE + settings() + heads(POST, end=False))
            with trio.fail_after(600), suppress(ChannelBroken):
                while not pair.refused:
                    # As slow as a peer that is calm enough.
                    await channel.send(frame(frames.PING, b"12345678") * 100)
                    await trio.sleep(0.21)
            await pair.served.wait()
        assert [each.reason for each in pair.refused] == ["too_much_control"]

    async def test_handlers_of_reset_requests(self) -> None:
        """Requests that were reset count while their handlers run: resets buy no more handlers."""
        running = most = 0

        async def stubborn(exchange: ServerExchange) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.1)
            finally:
                running -= 1

        async with _raw(stubborn) as (channel, pair):
            await channel.send(PREFACE + settings())
            for stream in range(1, 3 * MAX_CONCURRENT_STREAMS, 2):
                await channel.send(
                    heads(GET, stream=stream) + frame(frames.RST_STREAM, b"\0\0\0\x08", stream=stream)
                )
            await wait_all_tasks_blocked(0.01)
            assert most == MAX_CONCURRENT_STREAMS
            assert {each.reason for each in pair.refused} == {"too_many_streams"}

    async def test_nothing_is_left(self) -> None:
        """Exchanges that are over are freed at once, without a garbage collector."""
        with counting_alone():
            async with _joined(_echo) as (client, _):
                for _ in range(5):
                    exchange = await client.request(_POST, b"abc", end=True)
                    await exchange.response()
                    await _whole(exchange)
                del exchange
                await wait_all_tasks_blocked()
                assert alive(H2ServerExchange, H2ClientExchange) == []


class TestLifetime:
    async def test_idle(self, autojump_clock: MockClock) -> None:
        """A connection that is not used any more ends in order."""
        async with _joined(_hello) as (client, pair):
            exchange = await client.request(_GET, end=True)
            await _whole(exchange)
            began = trio.current_time()
            await pair.served.wait()
            assert 50 <= trio.current_time() - began <= 52
            assert client.room == 0

    async def test_no_preface(self, autojump_clock: MockClock) -> None:
        """Who connects and says nothing is not waited for."""
        async with _raw(_hello) as (_, pair):
            began = trio.current_time()
            await pair.served.wait()
            assert 10 <= trio.current_time() - began <= 12

    async def test_long_request(self, autojump_clock: MockClock) -> None:
        """A request that takes long is no idleness."""

        async def slow(exchange: ServerExchange) -> None:
            await trio.sleep(500)
            await _hello(exchange)

        async with _joined(slow) as (client, _):
            exchange = await client.request(_GET, end=True)
            assert (await exchange.response()).status == 200

    async def test_drain(self, autojump_clock: MockClock) -> None:
        """A drain lets what is open finish, takes what was under way, and then ends the connection."""
        draining = False

        async def slow(exchange: ServerExchange) -> None:
            await trio.sleep(20)
            await _hello(exchange)

        async with _joined(slow, lambda: draining) as (client, pair):
            exchange = await client.request(_GET, end=True)
            await wait_all_tasks_blocked()
            draining = True
            await trio.sleep(5)
            assert client.room == 0
            with pytest.raises(ExchangeBroken) as error:
                await client.request(_GET, end=True)
            assert error.value.untouched
            assert await _whole(exchange) == b"hello"
            with trio.fail_after(0.1):
                await pair.served.wait()

    async def test_drain_of_an_idle_one(self, autojump_clock: MockClock) -> None:
        """One on which nothing is open ends within two seconds."""
        async with _joined(_hello, lambda: True) as (_, pair):
            with trio.fail_after(2.1):
                await pair.served.wait()

    async def test_close_of_a_client(self) -> None:
        """A client that is closed ends when nothing is in flight any more."""
        go = trio.Event()

        async def wait(exchange: ServerExchange) -> None:
            await go.wait()
            await _hello(exchange)

        async with _joined(wait) as (client, pair):
            exchange = await client.request(_GET, end=True)
            client.close()
            assert client.room == 0
            go.set()
            assert await _whole(exchange) == b"hello"
            with trio.fail_after(1):
                await pair.served.wait()


class TestClients:
    async def test_refused_unseen(self) -> None:
        """REFUSED_STREAM says that another try is safe."""
        async with _client() as (client, channel):
            exchange = await client.request(_GET, end=True)
            await channel.send(settings() + frame(frames.RST_STREAM, b"\0\0\0\x07", stream=1))
            with pytest.raises(ExchangeBroken) as error:
                await exchange.response()
            assert error.value.untouched

    async def test_gone_away(self) -> None:
        """So does GOAWAY of requests beyond its last; the others go on."""
        async with _client() as (client, channel):
            first = await client.request(_GET, end=True)
            second = await client.request(_GET, end=True)
            goaway = frame(frames.GOAWAY, b"\0\0\0\1\0\0\0\0")
            await channel.send(settings() + goaway + heads([(b":status", b"204")]))
            with pytest.raises(ExchangeBroken) as error:
                await second.response()
            assert error.value.untouched
            assert (await first.response()).status == 204

    @pytest.mark.parametrize("ended", [False, True])
    async def test_connection_lost(self, ended: bool) -> None:
        """A connection that ends under a request leaves open whether it was handled."""
        async with _client() as (client, channel):
            exchange = await client.request(_GET, end=True)
            await channel.send(settings())
            await wait_all_tasks_blocked()
            if ended:
                channel.close()
            else:
                channel.abort()
            with pytest.raises(ExchangeBroken) as error:
                await exchange.response()
            assert not error.value.untouched
            assert client.room == 0
            with pytest.raises(ExchangeBroken) as error:
                await client.request(_GET, end=True)
            assert error.value.untouched

    async def test_no_http2(self) -> None:
        """A workload that speaks HTTP/1.1 only is told apart from one that is gone."""
        async with _client() as (client, channel):
            exchange = await client.request(_GET, end=True)
            await channel.send(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
            with pytest.raises(MessageRefused) as error:
                await exchange.response()
            assert error.value.status == 502

    async def test_cut_answer(self) -> None:
        """What came of a body is given before the error that says that it is not whole."""
        async with _client() as (client, channel):
            exchange = await client.request(_GET, end=True)
            await channel.send(settings() + heads([(b":status", b"200")], end=False) + data(b"hel"))
            await exchange.response()
            await wait_all_tasks_blocked()
            channel.abort()
            await wait_all_tasks_blocked()
            assert await exchange.body.receive() == b"hel"
            with pytest.raises(ExchangeBroken):
                await exchange.body.receive()

    async def test_reset_while_sending(self) -> None:
        """A request that is given up before it is sent whole is reset, and forgotten."""
        async with _client() as (client, channel):
            exchange = await client.request(_POST, b"x" * 100_000, end=True)
            exchange.reset("enough")
            assert client.in_flight == 0
            received = b""
            while (part := channel.receive_nowait()) is not None:
                received += part
                await wait_all_tasks_blocked()
            kinds = [kind for kind, stream, _ in read_frames(received[len(PREFACE) :]) if stream == 1]
            assert (kinds[0], kinds[-1]) == (frames.HEADERS, frames.RST_STREAM)

    async def test_congested(self) -> None:
        """While the other side reads nothing requests wait; when it is gone they are untouched."""
        async with _client() as (client, channel):
            await channel.send(settings([(4, 1 << 20)]) + frame(frames.WINDOW_UPDATE, b"\0\x40\0\0"))
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                much = await client.request(_POST, b"x" * 1_000_000, end=True)
                errors: list[bool] = []
                nursery.start_soon(_ask_late, client, errors)
                await wait_all_tasks_blocked()
                assert errors == []
                channel.abort()
        assert errors == [True]
        assert isinstance(much.failure, ExchangeBroken)
        assert not much.failure.untouched


async def _ask_late(client: H2ClientConnection, errors: list[bool]) -> None:
    try:
        await client.request(_GET, end=True)
    except ExchangeBroken as error:
        errors.append(error.untouched)
