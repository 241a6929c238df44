"""`H1ClientConnection` over memory, before a workload that is bytes in the test's hand."""

import pytest
import trio
import trio.testing

from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h1_client import H1ClientConnection, H1ClientExchange
from node_proxy.dataplane.http.h1_incoming import IncomingBody
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import RequestHead
from node_proxy.errors import LocalProtocolError
from tests.fakes.garbage import alive, counting_alone

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Workload:
    """The workload's end of a connection, and ours."""

    def __init__(self) -> None:
        near, self.channel = memory_channels()
        self.connection = H1ClientConnection(near, limits=HttpLimits())
        self.near = near

    async def asked(self) -> bytes:
        """Give what has come."""
        return await self.channel.receive()

    async def get(self, method: bytes = b"GET") -> H1ClientExchange:
        """Send a request that is whole, and take it off the wire."""
        exchange = await self.connection.request(RequestHead(method, b"/", b"a", []), end=True)
        await self.asked()
        return exchange

    async def post(self, length: int | None = None) -> H1ClientExchange:
        """Send a head whose body is to come, and take it off the wire."""
        exchange = await self.connection.request(
            RequestHead(b"POST", b"/", b"a", [], length=length), end=False
        )
        await self.asked()
        return exchange

    def answer(self, data: bytes) -> None:
        """Send what the workload says."""
        self.channel.send_nowait(data)


@pytest.fixture
def workload() -> Workload:
    """Give a workload that nothing was asked of."""
    return Workload()


async def read(exchange: H1ClientExchange) -> bytes:
    """Give the whole body."""
    body = b""
    while data := await exchange.body.receive():
        body += data
    return body


class TestRequests:
    async def test_whole(self, workload: Workload) -> None:
        """A request goes out as it is, with what only concerns this connection made anew."""
        head = RequestHead(b"GET", b"/x?y", b"a:80", [(b"x", b"y")])
        await workload.connection.request(head, end=True)
        assert await workload.asked() == b"GET /x?y HTTP/1.1\r\nhost: a:80\r\nx: y\r\n\r\n"

    @pytest.mark.parametrize("length", [None, 5], ids=["unknown", "known"])
    async def test_whole_body(self, workload: Workload, length: int | None) -> None:
        """A body that is whole at once has a length."""
        head = RequestHead(b"PUT", b"/", b"a", [], length=length)
        await workload.connection.request(head, b"hello", end=True)
        assert await workload.asked() == b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello"

    async def test_no_body_where_one_is_usual(self, workload: Workload) -> None:
        """A POST without body says so."""
        await workload.connection.request(RequestHead(b"POST", b"/", b"a", []), end=True)
        assert await workload.asked() == b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"

    async def test_pieces(self, workload: Workload) -> None:
        """A body of unknown length is chunked, with its trailers behind."""
        exchange = await workload.connection.request(
            RequestHead(b"POST", b"/", b"a", [], length=None), b"he", end=False
        )
        await exchange.send(b"llo")
        await exchange.send(b"")
        await exchange.end([(b"x", b"y")])
        await exchange.end()
        assert b"".join([await workload.asked(), await workload.asked()]) == (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\nhe\r\n3\r\nllo\r\n0\r\nx: y\r\n\r\n"
        )

    async def test_all_that_concerns_the_connection(self, workload: Workload) -> None:
        """What the head holds as values becomes fields of this connection."""
        head = RequestHead(
            b"POST", b"/", b"a", [], length=5, expects_continue=True, trailers=True, upgrade=b"x"
        )
        await workload.connection.request(head, end=False)
        assert (await workload.asked()).split(b"\r\n")[2:] == [
            b"content-length: 5",
            b"expect: 100-continue",
            b"connection: upgrade",
            b"upgrade: x",
            b"connection: te",
            b"te: trailers",
            b"",
            b"",
        ]

    @pytest.mark.parametrize(
        "head",
        [
            RequestHead(b"GET", b"/", b"a", [(b"x", b"y\r\nz: 1")]),
            RequestHead(b"GET", b"/", b"a", [(b"x\nz", b"y")]),
            RequestHead(b"GET", b"/ HTTP/1.1\r\nz: 1\r\n\r\n", b"a", []),
            RequestHead(b"GET", b"/", b"a\r\nz: 1", []),
            RequestHead(b"GET", b"/", b"a", [(b"x", b"\0")]),
        ],
    )
    async def test_nothing_injected(self, workload: Workload, head: RequestHead) -> None:
        """A value with a line end in it is never written, and the connection is as before."""
        with pytest.raises(LocalProtocolError):
            await workload.connection.request(head, end=True)
        assert workload.channel.receive_nowait() is None
        assert workload.connection.room == 1

    async def test_wrong_length(self, workload: Workload) -> None:
        """A body is never longer than its head says, nor shorter."""
        exchange = await workload.post(length=5)
        with pytest.raises(LocalProtocolError):
            await exchange.send(b"longer")
        exchange = await Workload().post(length=5)
        with pytest.raises(LocalProtocolError):
            await exchange.end()

    async def test_slow_workload(self, workload: Workload) -> None:
        """A workload that does not read holds up who sends."""
        exchange = await workload.post()
        with trio.move_on_after(0.05) as waited:
            for _ in range(64):
                await exchange.send(bytes(65_536))
        assert waited.cancelled_caught


class TestAnswers:
    async def test_whole(self, workload: Workload) -> None:
        """An answer is its head and its body."""
        exchange = await workload.get()
        workload.answer(OK)
        head = await exchange.response()
        assert (head.status, head.length) == (200, 5)
        assert await read(exchange) == b"hello"

    async def test_as_it_comes(self, workload: Workload) -> None:
        """A body is given before it is whole; trailers behind it."""
        exchange = await workload.get()
        workload.answer(CHUNKED + b"2\r\nhe\r\n")
        await exchange.response()
        assert await exchange.body.receive() == b"he"
        assert exchange.body.receive_nowait() is None
        workload.answer(b"3\r\nllo\r\n0\r\nX: y\r\n\r\n")
        assert await read(exchange) == b"llo"
        assert exchange.body.trailers == [(b"x", b"y")]

    async def test_informational(self, workload: Workload) -> None:
        """Each informational answer is given, then the answer."""
        exchange = await workload.get()
        workload.answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK)
        assert [(await exchange.response()).status for _ in range(3)] == [100, 103, 200]
        assert await read(exchange) == b"hello"
        with pytest.raises(LocalProtocolError):
            await exchange.response()

    async def test_too_many_informational(self, workload: Workload) -> None:
        """A workload that says nothing else is refused."""
        exchange = await workload.get()
        workload.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 33)
        for _ in range(32):
            await exchange.response()
        with pytest.raises(MessageRefused):
            await exchange.response()

    async def test_head(self, workload: Workload) -> None:
        """An answer to HEAD has no body, whatever its length says."""
        exchange = await workload.get(b"HEAD")
        workload.answer(OK.removesuffix(b"hello"))
        assert (await exchange.response()).length == 5
        assert await read(exchange) == b""
        assert workload.connection.room == 1

    async def test_before_the_request_ended(self, workload: Workload) -> None:
        """An answer may come first; the connection is free when both have ended."""
        exchange = await workload.post()
        workload.answer(OK)
        assert (await exchange.response()).status == 200
        assert await read(exchange) == b"hello"
        assert workload.connection.room == 0
        await exchange.send(b"x")
        await exchange.end()
        assert workload.connection.room == 1

    async def test_of_one_who_reads_no_more(self, workload: Workload) -> None:
        """A workload that answers and closes is heard, though sending fails."""
        exchange = await workload.post()
        workload.answer(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        workload.channel.close()
        with pytest.raises(ExchangeBroken) as broken:
            await exchange.send(b"x")
        assert not broken.value.untouched
        assert (await exchange.response()).status == 413

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n"])
    async def test_none(self, workload: Workload, said: bytes) -> None:
        """A workload that closes without an answer leaves it open what it did."""
        exchange = await workload.get()
        workload.answer(said)
        workload.channel.close()
        if b"100" in said:
            await exchange.response()
        with pytest.raises(ExchangeBroken) as broken:
            await exchange.response()
        assert not broken.value.untouched
        assert (workload.connection.room, workload.connection.in_flight) == (0, 0)

    async def test_half(self, workload: Workload) -> None:
        """Half a body is no body."""
        exchange = await workload.get()
        workload.answer(OK[:-2])
        workload.channel.end()
        await exchange.response()
        assert await exchange.body.receive() == b"hel"
        for _ in range(2):
            with pytest.raises(ExchangeBroken):
                await exchange.body.receive()
        assert workload.connection.room == 0

    async def test_reset(self, workload: Workload) -> None:
        """Nor is one whose connection is reset, even if only its end would have told."""
        exchange = await workload.get()
        workload.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await exchange.response()
        assert await exchange.body.receive() == b"hello"
        workload.channel.abort()
        with pytest.raises(ExchangeBroken):
            await exchange.body.receive()

    async def test_no_http(self, workload: Workload) -> None:
        """What is no answer is refused with 502, and the connection reset."""
        exchange = await workload.get()
        workload.answer(b"+PONG\r\n\r\n")
        with pytest.raises(MessageRefused) as refused:
            await exchange.response()
        assert refused.value.status == 502
        assert workload.channel.broken

    async def test_cancelled(self, workload: Workload) -> None:
        """Who gave up waiting may wait again."""
        exchange = await workload.get()
        with trio.move_on_after(0.01):
            await exchange.response()
        workload.answer(OK)
        assert (await exchange.response()).status == 200


class TestReuse:
    async def test_one_after_the_other(self, workload: Workload) -> None:
        """A connection has room for one request at a time, again and again."""
        for _ in range(3):
            assert (workload.connection.room, workload.connection.in_flight) == (1, 0)
            exchange = await workload.get()
            assert (workload.connection.room, workload.connection.in_flight) == (0, 1)
            workload.answer(OK)
            await exchange.response()
            await read(exchange)

    async def test_free_with_the_last_byte(self, workload: Workload) -> None:
        """The connection is free when the last byte is given, not when somebody asks for more."""
        exchange = await workload.get()
        workload.answer(OK)
        await exchange.response()
        assert await exchange.body.receive() == b"hello"
        assert workload.connection.room == 1
        other = await workload.get()
        assert await exchange.body.receive() == b""
        workload.answer(CHUNKED + b"0\r\nx: y\r\n\r\n")
        await other.response()
        await read(other)
        assert exchange.body.trailers == []

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    async def test_close(self, workload: Workload, answer: bytes) -> None:
        """A workload that closes is not asked again."""
        exchange = await workload.get()
        workload.answer(answer)
        await exchange.response()
        assert workload.connection.room == 0
        assert await workload.channel.receive() == b""

    async def test_two_at_once(self, workload: Workload) -> None:
        """To send a second request before the first is answered is a bug."""
        await workload.get()
        with pytest.raises(LocalProtocolError):
            await workload.get()

    @pytest.mark.parametrize("before", ["close", "abort", "unasked"])
    async def test_gone_meanwhile(self, workload: Workload, before: str) -> None:
        """A connection whose workload has closed, or says what nobody asked for, takes no request."""
        if before == "unasked":
            workload.answer(OK)
        elif before == "close":
            workload.channel.close()
        else:
            workload.channel.abort()
        assert workload.connection.room == 0
        with pytest.raises(ExchangeBroken) as broken:
            await workload.get()
        assert broken.value.untouched

    async def test_more_than_was_asked(self, workload: Workload) -> None:
        """What stands behind an answer is never taken for the next one."""
        exchange = await workload.get()
        workload.answer(OK + OK)
        await exchange.response()
        await read(exchange)
        assert workload.connection.room == 0

    async def test_reset(self, workload: Workload) -> None:
        """Who gives up within an exchange resets the connection."""
        exchange = await workload.get()
        exchange.reset("timeout")
        assert workload.channel.broken
        assert (workload.connection.room, workload.connection.in_flight) == (0, 0)

    async def test_reset_behind_the_end(self, workload: Workload) -> None:
        """To give up what has ended changes nothing for the connection."""
        exchange = await workload.get()
        workload.answer(OK)
        await exchange.response()
        await read(exchange)
        exchange.reset("late")
        assert workload.connection.room == 1

    async def test_close_waits(self, workload: Workload) -> None:
        """A connection that is to close still ends what it has begun."""
        exchange = await workload.get()
        workload.connection.close()
        workload.answer(OK)
        await exchange.response()
        assert await read(exchange) == b"hello"
        assert workload.connection.room == 0
        assert await workload.channel.receive() == b""


async def test_no_cycles(workload: Workload) -> None:
    """An exchange with bodies both ways leaves nothing to the garbage collector."""

    async def exchange() -> None:
        post = await workload.post(length=5)
        await post.send(b"hello")
        await post.end()
        workload.answer(OK)
        await post.response()
        assert await read(post) == b"hello"

    with counting_alone():
        await exchange()
        assert alive(H1ClientExchange, IncomingBody) == []


class TestUpgrade:
    async def test_both_ways(self, workload: Workload) -> None:
        """After 101 the bytes are who asked for it's, from the first one behind the head on."""
        head = RequestHead(b"GET", b"/", b"a", [], upgrade=b"websocket")
        exchange = await workload.connection.request(head, end=True)
        await workload.asked()
        workload.answer(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        )
        assert (await exchange.response()).upgrade == b"websocket"
        channel = exchange.upgraded()
        assert await channel.receive() == b"early"
        await channel.send(b"question")
        assert await workload.asked() == b"question"
        assert workload.connection.in_flight == 1
        channel.close()
        exchange.reset("done")
        assert (workload.connection.room, workload.connection.in_flight) == (0, 0)

    async def test_unasked(self, workload: Workload) -> None:
        """A workload does not switch protocols by itself."""
        exchange = await workload.get()
        workload.answer(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        with pytest.raises(MessageRefused):
            await exchange.response()
        with pytest.raises(LocalProtocolError):
            exchange.upgraded()
        with pytest.raises(ChannelBroken):
            await workload.asked()
