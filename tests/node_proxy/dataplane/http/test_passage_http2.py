"""Requests of HTTP/2 on their way to a workload."""

import os
import socket
from typing import Any

import trio

from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.h2_server import serve_h2
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import RequestHead, ResponseHead, Version, first
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.http.socket_channel import SocketChannel
from registry.model.service import PortProtocol
from tests.fakes.eventually import eventually
from tests.node_proxy.dataplane.http.gate import Gate, open_gate
from tests.registry.rules.policies import policy, targets


class TestHttp2:
    async def test_many_at_once(self) -> None:
        """Requests of one connection are judged one by one, and go over one connection of the workload's."""
        async with open_gate(PortProtocol.HTTP2) as gate:
            gate.workload.serve = serve_paths(gate)
            gate.enforce(policy("no", targets({"paths": ["/no"]}), action="DENY"))
            caller = await gate.call(spoken=Sniffed.HTTP_2)
            client = H2ClientConnection(caller.channel, limits=HttpLimits())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                paths = [b"/a", b"/no", b"/x/../no", b"/b"]
                exchanges = [await client.request(ask(path), end=True) for path in paths]
                heads = [await each.response() for each in exchanges]
                assert [head.status for head in heads] == [200, 403, 403, 200]
                assert await exchanges[3].body.receive() == b"/b"
                nursery.cancel_scope.cancel()
            assert len(gate.workload.connections) == 1

    async def test_a_call_that_is_given_up(self) -> None:
        """A caller that resets one request ends it at the workload, and no other."""
        async with open_gate(PortProtocol.GRPC) as gate:
            cancelled: list[bytes] = []
            gate.workload.serve = serve_paths(gate, cancelled=cancelled)
            caller = await gate.call(spoken=Sniffed.HTTP_2)
            client = H2ClientConnection(caller.channel, limits=HttpLimits())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                slow = await client.request(ask(b"/slow"), end=True)
                await eventually(lambda: gate.workload.requests)
                slow.reset("enough")
                await eventually(lambda: cancelled)
                head = await (await client.request(ask(b"/a"), end=True)).response()
                assert head.status == 200
                nursery.cancel_scope.cancel()

    async def test_grpc_is_refused_in_its_words(self) -> None:
        """A gRPC call that is denied hears PERMISSION_DENIED."""
        async with open_gate(PortProtocol.GRPC) as gate:
            gate.enforce(policy("no", targets({"paths": ["/pkg.Service/*"]}), action="DENY"))
            caller = await gate.call(spoken=Sniffed.HTTP_2)
            client = H2ClientConnection(caller.channel, limits=HttpLimits())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                call = ask(b"/pkg.Service/Call", (b"content-type", b"application/grpc"))
                head = await (await client.request(call, end=True)).response()
                assert (head.status, first(head.fields, b"grpc-status")) == (200, b"7")
                nursery.cancel_scope.cancel()


def ask(path: bytes, *fields: tuple[bytes, bytes]) -> RequestHead:
    """Give a request of HTTP/2."""
    return RequestHead(b"GET", path, b"api", list(fields), Version.HTTP_2)


def serve_paths(gate: Gate, *, cancelled: list[bytes] | None = None) -> Any:
    """Give a workload of HTTP/2 that answers with the path it was asked for; ``/slow`` never."""

    async def handle(exchange: Any) -> None:
        path = exchange.head.target
        gate.workload.requests.append(path)
        if path == b"/slow":
            try:
                await trio.sleep_forever()
            finally:
                if cancelled is not None:
                    cancelled.append(path)
        await exchange.respond(ResponseHead(200, [], len(path)), path, end=True)

    async def serve(stream: trio.SocketStream) -> None:
        sock = socket.socket(fileno=os.dup(stream.socket.fileno()))
        sock.setblocking(False)
        channel = SocketChannel(sock, gate.context.reactor)
        await serve_h2(
            channel, handle, limits=HttpLimits(), draining=lambda: False, on_refused=lambda _: None
        )

    return serve
