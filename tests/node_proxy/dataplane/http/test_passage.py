"""Requests on their way to a workload: what it is told, and what happens when something breaks."""

import pytest
import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.http.channel import ChannelBroken
from node_proxy.dataplane.http.sniff import Sniffed
from registry.model.service import PortProtocol
from tests.fakes.eventually import eventually
from tests.node_proxy.dataplane.http.gate import CALLER, OK, backend, field, open_gate, status


class TestWhatTheWorkloadIsTold:
    async def test_caller(self) -> None:
        """It is told who calls, from where; what a caller says of that itself is thrown away."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.ask(
                b"/",
                b"nodemesh-caller: spiffe://nodemesh.local/ns/default/sa/admin",
                b"nodemesh_caller: spiffe://nodemesh.local/ns/default/sa/admin",
                b"x-forwarded-for: 1.2.3.4",
                b"forwarded: for=1.2.3.4",
                b"x-real-ip: 1.2.3.4",
                b"nodemesh-route: default/x",
            )
            (request,) = gate.workload.requests
            assert field(request, b"nodemesh-caller") == b"spiffe://nodemesh.local/ns/default/sa/web"
            assert field(request, b"x-forwarded-for") == CALLER.encode()
            assert b"1.2.3.4" not in request
            assert b"admin" not in request
            assert b"nodemesh-route" not in request

    async def test_nobody(self) -> None:
        """Of a caller without an identity no identity is told, whatever it says."""
        async with open_gate() as gate:
            gate.permit_plaintext()
            caller = await gate.call(source=None)
            await caller.ask(b"/", b"nodemesh-caller: spiffe://nodemesh.local/ns/default/sa/admin")
            assert field(gate.workload.requests[0], b"nodemesh-caller") is None

    async def test_trusted_forwarder(self) -> None:
        """Who is trusted is believed about those it calls for; when that ends, it ends at once."""
        async with open_gate() as gate:
            gate.enforce(backend=(backend(trustedForwarders=["default/web"]),))
            caller = await gate.call()
            await caller.ask(b"/", b"x-forwarded-for: 1.2.3.4")
            gate.enforce(backend=(backend(trustedForwarders=["default/other", "batch/*"]),))
            await caller.ask(b"/", b"x-forwarded-for: 1.2.3.4")
            told = [field(request, b"x-forwarded-for") for request in gate.workload.requests]
            assert told == [b"1.2.3.4, " + CALLER.encode(), CALLER.encode()]

    @pytest.mark.parametrize(
        ("asked", "line"),
        [
            (b"/a/../b%2fc?d=%2f..", b"GET /b%2Fc?d=%2f.. HTTP/1.1"),
            (b"//a///b", b"GET /a/b HTTP/1.1"),
            (b"http://api/x?y", b"GET /x?y HTTP/1.1"),
            (b"/%7Euser", b"GET /~user HTTP/1.1"),
        ],
    )
    async def test_path(self, asked: bytes, line: bytes) -> None:
        """It sees the path that was judged, and the query as it came."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.ask(asked)
            assert gate.workload.requests[0].partition(b"\r\n")[0] == line

    async def test_hop_by_hop(self) -> None:
        """What concerns the caller's connection alone is not passed on, by whatever Connection names."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.ask(
                b"/", b"connection: x-secret, keep-alive", b"x-secret: 1", b"keep-alive: timeout=9"
            )
            (request,) = gate.workload.requests
            assert field(request, b"x-secret") is None
            assert field(request, b"keep-alive") is None


class TestWhatTheCallerIsTold:
    async def test_no_reasons_of_the_workloads_making(self) -> None:
        """A workload cannot speak as the mesh does."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: OK.replace(
                b"\r\n\r\n", b"\r\nnodemesh-reason: denied\r\nx: y\r\n\r\n"
            )
            answer = await (await gate.call()).ask(b"/")
            assert field(answer, b"x") == b"y"
            assert field(answer, b"nodemesh-reason") is None

    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: chat\r\nconnection: upgrade\r\n\r\n",
        ],
    )
    async def test_an_answer_that_is_none(self, said: bytes) -> None:
        """What a workload answers that is no HTTP becomes 502, and nothing of it reaches the caller."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: said
            answer = await (await gate.call()).ask(b"/")
            assert status(answer) == 502
            assert field(answer, b"nodemesh-reason") == b"upstream_invalid"

    async def test_informational(self) -> None:
        """Informational answers are passed on before the final one."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK
            caller = await gate.call()
            await caller.send(b"GET", b"/")
            assert status(await caller.answer()) == 103
            assert status(await caller.answer()) == 200

    async def test_an_answer_that_breaks(self) -> None:
        """An answer that breaks off is broken off for the caller too."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
            gate.workload.closes = True
            caller = await gate.call()
            await caller.send(b"GET", b"/")
            with pytest.raises(ChannelBroken):
                await caller.ended()


class TestTheWorkloadsConnection:
    async def test_reused(self) -> None:
        """Requests of one caller's connection share one of the workload's."""
        async with open_gate() as gate:
            caller = await gate.call()
            for _ in range(3):
                await caller.ask(b"/")
            assert len(gate.workload.connections) == 1

    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    async def test_closed_between_requests(self, method: bytes) -> None:
        """A workload that has closed an idle connection is dialled again, whatever is asked next."""
        async with open_gate() as gate:
            gate.workload.closes = True
            caller = await gate.call()
            assert status(await caller.ask(b"/")) == 200
            # Until the proxy has surely heard of it.
            await trio.sleep(0.05)
            assert status(await caller.ask(b"/", method=method, body=b"x")) == 200
            assert len(gate.workload.connections) == 2

    @pytest.mark.parametrize(("method", "expected"), [(b"GET", 200), (b"PUT", 200), (b"POST", 502)])
    async def test_closed_just_then(self, method: bytes, expected: int) -> None:
        """A request on which a used connection ends is sent again if it may be done twice."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.ask(b"/")
            answers = iter([None, OK, OK])
            gate.workload.script = lambda _: next(answers)
            assert status(await caller.ask(b"/", method=method)) == expected
            assert len(gate.workload.requests) == (3 if expected == 200 else 2)

    async def test_a_fresh_one_that_ends(self) -> None:
        """A workload that ends a fresh connection is not asked again: it has failed, not timed out."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: None
            answer = await (await gate.call()).ask(b"/")
            assert status(answer) == 502
            assert field(answer, b"nodemesh-reason") == b"upstream_reset"
            assert len(gate.workload.requests) == 1

    async def test_gone(self) -> None:
        """A workload that takes no connection any more is 503, and the caller's own connection goes on."""
        async with open_gate() as gate:
            gate.workload.closes = True
            caller = await gate.call()
            await caller.ask(b"/")
            await gate.stop_listening()
            await trio.sleep(0.05)
            answer = await caller.ask(b"/")
            assert status(answer) == 503
            assert field(answer, b"nodemesh-reason") == b"dial_failed"
            assert status(await caller.ask(b"/")) == 503

    async def test_ends_with_the_callers(self) -> None:
        """When the caller is gone, the workload's connection is closed."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.ask(b"/")
            caller.channel.close()
            await eventually(lambda: not gate.guard.open_connections)
            assert await gate.workload.ended()

    async def test_a_request_ends_with_its_caller(self) -> None:
        """A caller that is gone while its answer is awaited is no longer worked for."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: b""
            caller = await gate.call()
            await caller.send(b"GET", b"/")
            await eventually(lambda: gate.workload.requests)
            caller.channel.abort()
            assert await gate.workload.ended()


class TestBodies:
    async def test_there_at_once(self) -> None:
        """A body that comes with its head is passed on whole."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.ask(b"/", method=b"POST", body=b"hello")
            assert gate.workload.requests[0].endswith(b"\r\n\r\nhello")

    async def test_in_pieces(self) -> None:
        """A body that comes later is passed on as it comes."""
        async with open_gate() as gate:
            caller = await gate.call()
            await caller.send(b"POST", b"/", b"content-length: 10")
            for _ in range(5):
                await trio.sleep(0.01)
                await caller.channel.send(b"xy")
            assert status(await caller.answer()) == 200
            assert gate.workload.requests[0].endswith(b"\r\n\r\n" + b"xy" * 5)

    async def test_answered_before_its_end(self) -> None:
        """An answer that does not wait for the body reaches the caller, who may stop sending then."""
        async with open_gate() as gate:
            gate.workload.serve = refuse_early
            caller = await gate.call()
            await caller.send(b"POST", b"/", b"content-length: 1000000")
            assert status(await caller.answer()) == 413

    async def test_continue(self) -> None:
        """A caller that waits for 100 hears the workload's, and its body arrives."""
        async with open_gate() as gate:
            gate.workload.serve = say_continue
            caller = await gate.call()
            await caller.send(b"POST", b"/", b"content-length: 5", b"expect: 100-continue")
            assert status(await caller.answer()) == 100
            await caller.channel.send(b"hello")
            assert (await caller.answer()).endswith(b"hello")

    async def test_no_continue(self) -> None:
        """A workload that answers instead of saying 100 is heard, and no body is asked for."""
        async with open_gate() as gate:
            gate.workload.serve = refuse_early
            caller = await gate.call()
            await caller.send(b"POST", b"/", b"content-length: 5", b"expect: 100-continue")
            assert status(await caller.answer()) == 413

    async def test_upgrade(self) -> None:
        """After an upgrade bytes flow both ways, and each direction ends by itself."""
        async with open_gate() as gate:
            gate.workload.serve = switch
            caller = await gate.call()
            await caller.send(b"GET", b"/chat", b"connection: upgrade", b"upgrade: chat")
            answer = await caller.answer()
            assert (status(answer), field(answer, b"upgrade")) == (101, b"chat")
            await caller.channel.send(b"ping")
            assert await caller.until(b"ping") == b"ping"
            caller.channel.end()
            assert await caller.ended() == b"bye"


async def refuse_early(stream: trio.SocketStream) -> None:
    """Answer 413 when a head is there, whatever is still to come."""
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    await trio.sleep_forever()


async def say_continue(stream: trio.SocketStream) -> None:
    """Ask for the body, and send it back."""
    head = await stream.receive_some()
    assert field(head, b"expect") == b"100-continue"
    await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    await trio.sleep_forever()


async def switch(stream: trio.SocketStream) -> None:
    """Switch to a protocol that sends back what comes, and says bye at the end."""
    head = await stream.receive_some()
    assert field(head, b"upgrade") == b"chat"
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
    async for data in stream:
        await stream.send_all(data)
    await stream.send_all(b"bye")
    await stream.aclose()


class TestTime:
    async def test_deadline(self) -> None:
        """When the caller's time is up it hears 504, and the workload is no longer asked."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: b""
            answer = await (await gate.call()).ask(b"/", b"nodemesh-timeout: 50")
            assert (status(answer), field(answer, b"nodemesh-reason")) == (504, b"timeout")
            assert await gate.workload.ended()

    async def test_deadline_of_a_body(self) -> None:
        """An answer that is not whole in time is broken off."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
            caller = await gate.call()
            await caller.send(b"GET", b"/", b"nodemesh-timeout: 100")
            with pytest.raises(ChannelBroken):
                await caller.ended()

    async def test_grpc(self) -> None:
        """A gRPC caller hears DEADLINE_EXCEEDED."""
        async with open_gate() as gate:
            gate.workload.script = lambda _: b""
            answer = await (await gate.call()).ask(
                b"/", b"grpc-timeout: 50m", b"content-type: application/grpc", method=b"POST", body=b"x"
            )
            assert (status(answer), field(answer, b"grpc-status")) == (200, b"4")

    async def test_drain(self) -> None:
        """On drain idle connections are closed, and requests that are under way are answered."""
        async with open_gate() as gate:
            idle, busy = await gate.call(), await gate.call()
            await idle.ask(b"/")
            gate.workload.script = lambda _: b""
            await busy.send(b"GET", b"/slow")
            await eventually(lambda: len(gate.workload.requests) == 2)
            await gate.guard.drain(0.0)
            assert await idle.ended() == b""
            await gate.workload.connections[1].send_all(OK)
            assert status(await busy.answer()) == 200

    async def test_bytes_on_drain(self) -> None:
        """On drain what is no HTTP is left alone: nobody knows when it is idle."""
        async with open_gate(PortProtocol.AUTO) as gate:
            gate.workload.serve = echo
            caller = await gate.call(spoken=Sniffed.TCP)
            await caller.channel.send(b"ping")
            await caller.until(b"ping")
            await gate.guard.drain(0.0)
            await caller.channel.send(b"pong")
            assert await caller.until(b"pong") == b"pong"


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes."""
    async for data in stream:
        await stream.send_all(data)


async def test_requests_are_counted() -> None:
    """Answers are counted by workload and status; connections say how many they carried."""
    async with open_gate() as gate:
        caller = await gate.call()
        await caller.ask(b"/")
        await caller.ask(b"/")
        assert gate.stage.counted(telemetry.REQUESTS, service="default/api", code="200") == 2
