"""Clients and servers of HTTP/2 that people use, through both of our ends."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from node_proxy.dataplane.http.exchange import ServerExchange
from node_proxy.dataplane.http.local_answer import local_answer
from node_proxy.dataplane.http.message import ResponseHead
from node_proxy.dataplane.reason import RATE_LIMITED, Reason
from tests.fakes.eventually import eventually
from tests.integration.h2_hosts import grpc_server, proxied, running, serving

_WAIT = 20


async def _by_grpc(port: int, ask: Callable[[Any], Any]) -> Any:
    """Call by grpcio, in a thread."""

    def call() -> Any:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return ask(channel)

    with trio.fail_after(_WAIT):
        return await trio.to_thread.run_sync(call)


async def _echo(exchange: ServerExchange) -> None:
    await exchange.respond(ResponseHead(200, [(b"x-method", exchange.head.method)]))
    while received := await exchange.body.receive():
        await exchange.send(received)
    await exchange.end()


class TestGrpc:
    async def test_unary(self) -> None:
        """A call, its metadata both ways, and binary trailers pass."""
        async with grpc_server() as (server, _), proxied(server) as port:

            def ask(channel: Any) -> tuple[bytes, Any, Any]:
                answer, call = channel.unary_unary("/t.Echo/Unary").with_call(
                    b"hello", metadata=[("x-sent", "one")], timeout=5
                )
                return answer, call.initial_metadata(), call.trailing_metadata()

            answer, first, last = await _by_grpc(port, ask)
        assert answer == b"hello"
        assert ("x-seen", "one") in [tuple(each) for each in first]
        assert ("x-after-bin", b"\x00\xff") in [tuple(each) for each in last]

    @pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
    async def test_sizes(self, size: int) -> None:
        """Messages of many windows pass whole."""
        body = b"ab" * (size // 2)
        async with grpc_server() as (server, _), proxied(server) as port:
            assert await _by_grpc(port, lambda channel: channel.unary_unary("/t.Echo/Unary")(body)) == body

    async def test_streams(self) -> None:
        """All three kinds of streaming pass, in order."""
        async with grpc_server() as (server, _), proxied(server) as port:

            def ask(channel: Any) -> tuple[list[bytes], bytes, list[bytes]]:
                return (
                    list(channel.unary_stream("/t.Echo/Down")(b"n")),
                    channel.stream_unary("/t.Echo/Up")(iter([b"x" * 1000] * 1000)),
                    list(channel.stream_stream("/t.Echo/Both")(iter([b"ab", b"cd"]))),
                )

            down, up, both = await _by_grpc(port, ask)
        assert down == [b"n%d" % number for number in range(100)]
        assert up == b"1000000"
        assert both == [b"ba", b"dc"]

    async def test_status(self) -> None:
        """A status and its message pass as the server gave them."""
        async with grpc_server() as (server, _), proxied(server) as port:

            def ask(channel: Any) -> tuple[Any, str]:
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary("/t.Echo/Fails")(b"")
                return error.value.code(), error.value.details()

            code, details = await _by_grpc(port, ask)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert details == "50 % of it — never"

    @pytest.mark.parametrize("by_deadline", [False, True])
    async def test_cancellation(self, by_deadline: bool) -> None:
        """A call that is cancelled, or too late, ends at the server too, long before it would by itself."""
        async with grpc_server() as (server, echo), proxied(server) as port:

            def ask(channel: Any) -> Any:
                call = channel.unary_stream("/t.Echo/Never")(b"", timeout=0.5 if by_deadline else 10)
                assert next(call) == b"begun"
                if not by_deadline:
                    call.cancel()
                with pytest.raises(grpc.RpcError) as error:
                    next(call)
                return error.value.code()

            began = time.monotonic()
            code = await _by_grpc(port, ask)
            assert code.name == ("DEADLINE_EXCEEDED" if by_deadline else "CANCELLED")
            await eventually(lambda: echo.cancelled == ["Never"])
            assert time.monotonic() - began < _WAIT / 2

    async def test_local_answer(self) -> None:
        """An answer of the mesh is a status that grpcio understands."""

        async def limit(exchange: ServerExchange) -> None:
            head, body = local_answer(exchange.head, 429, Reason(RATE_LIMITED), detail="slow down")
            await exchange.respond(head, body, end=True)

        async with running() as reactor, serving(limit, reactor) as port:

            def ask(channel: Any) -> tuple[Any, str, dict[str, str]]:
                with pytest.raises(grpc.RpcError) as error:
                    channel.unary_unary("/t.Echo/Unary")(b"x" * 200_000)
                value = error.value
                return value.code(), value.details(), dict(value.trailing_metadata())

            code, details, metadata = await _by_grpc(port, ask)
        assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")
        assert metadata["nodemesh-reason"] == "rate_limited"

    async def test_many_at_once(self) -> None:
        """A hundred calls at a time share a connection."""
        async with grpc_server() as (server, _), proxied(server) as port:

            def ask(channel: Any) -> list[bytes]:
                method = channel.unary_unary("/t.Echo/Unary")
                return [each.result() for each in [method.future(b"%d" % number) for number in range(100)]]

            assert await _by_grpc(port, ask) == [b"%d" % number for number in range(100)]


class TestCurl:
    async def _curl(self, port: int, *arguments: str) -> str:
        command = [
            "curl",
            "-sS",
            "--http2-prior-knowledge",
            "-m",
            "15",
            *arguments,
            f"http://127.0.0.1:{port}/x",
        ]
        done = await trio.run_process(command, capture_stdout=True, stdin=subprocess.DEVNULL)
        return bytes(done.stdout).decode()

    async def test_get(self) -> None:
        """Curl asks, and is answered in HTTP/2."""
        async with running() as reactor, serving(_echo, reactor) as port:
            found = await self._curl(port, "-w", "%{http_version} %{response_code} %header{x-method}")
        assert found == "2 200 GET"

    async def test_upload(self, tmp_path: Path) -> None:
        """What curl uploads comes back as it was, though both directions are open at once."""
        body = tmp_path / "body"
        body.write_bytes(bytes(range(256)) * 20_000)
        async with running() as reactor, serving(_echo, reactor) as port:
            await self._curl(port, "-T", str(body), "-o", str(tmp_path / "echo"))
        assert (tmp_path / "echo").read_bytes() == body.read_bytes()

    async def test_head(self) -> None:
        """HEAD is answered with a length and nothing else."""

        async def answer(exchange: ServerExchange) -> None:
            await exchange.respond(ResponseHead(200, [], 1000), b"x" * 1000, end=True)

        async with running() as reactor, serving(answer, reactor) as port:
            found = await self._curl(port, "--head")
        assert "content-length: 1000" in found

    async def test_malformed(self) -> None:
        """A request that no proxy should pass is answered with what is wrong."""
        async with running() as reactor, serving(_echo, reactor) as port:
            found = await self._curl(port, "-i", "-H", "Host: evil/host")
        assert found.startswith("HTTP/2 400")
        assert "nodemesh-reason: bad_request" in found
