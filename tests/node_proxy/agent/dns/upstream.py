"""A resolver to forward to, on loopback: answers as it is told, by UDP and TCP of one port."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.dns.forward import receive_exactly

Behaviour = Callable[[dns.message.Message, bool], list[bytes]]


class Upstream:
    """What was asked of it: (name, whether by UDP, the asker's port)."""

    def __init__(self, address: SocketAddress) -> None:
        self.address = address
        self.asked: list[tuple[str, bool, int]] = []
        self.numbers: list[int] = []

    def note(self, query: dns.message.Message, udp: bool, port: int) -> None:
        """Take a question down."""
        self.asked.append((str(query.question[0].name), udp, port))
        self.numbers.append(query.id)


def good(query: dns.message.Message, udp: bool) -> list[bytes]:
    """Answer everything with one address."""
    response = dns.message.make_response(query)
    name = query.question[0].name
    response.answer = [dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1")]
    return [response.to_wire()]


def failing(query: dns.message.Message, udp: bool) -> list[bytes]:
    """Answer that nothing is known for now."""
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.SERVFAIL)
    return [response.to_wire()]


def silent(query: dns.message.Message, udp: bool) -> list[bytes]:
    """Never answer."""
    return []


def long(query: dns.message.Message, udp: bool) -> list[bytes]:
    """Answer with 100 addresses, which takes TCP."""
    response = dns.message.make_response(query)
    if udp:
        response.flags |= dns.flags.TC
    else:
        addresses = [f"192.0.2.{i}" for i in range(100)]
        response.answer = [dns.rrset.from_text(query.question[0].name, 60, "IN", "A", *addresses)]
    # Else it keeps within what the query takes by UDP.
    return [response.to_wire(max_size=65535)]


def forged(query: dns.message.Message, udp: bool) -> list[bytes]:
    """Send what is no answer to this question, as somebody who guesses does, and then the answer."""
    lie = dns.message.make_response(query)
    lie.answer = [dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.66")]
    lie.id ^= 1
    other = dns.message.make_response(dns.message.make_query("evil.example", "A", id=query.id))
    return [b"", lie.to_wire(), other.to_wire(), query.to_wire(), b"\0" * 40, *good(query, udp)]


@asynccontextmanager
async def running_upstream(behaviour: Behaviour) -> AsyncIterator[Upstream]:
    """Run one until the block ends."""
    # TCP first: far fewer ports of UDP are taken by somebody's connection.
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        port = listener.socket.getsockname()[1]
        await udp.bind(("127.0.0.1", port))
        upstream = Upstream(SocketAddress(f"127.0.0.1:{port}"))

        async def by_udp() -> None:
            while True:
                wire, source = await udp.recvfrom(65535)
                query = dns.message.from_wire(wire)
                upstream.note(query, True, source[1])
                for answer in behaviour(query, True):
                    await udp.sendto(answer, source)

        async def by_tcp(stream: trio.SocketStream) -> None:
            wire = await receive_exactly(stream, int.from_bytes(await receive_exactly(stream, 2), "big"))
            query = dns.message.from_wire(wire)
            upstream.note(query, False, stream.socket.getpeername()[1])
            for answer in behaviour(query, False):
                await stream.send_all(len(answer).to_bytes(2, "big") + answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_udp)
            nursery.start_soon(trio.serve_listeners, by_tcp, [listener])
            yield upstream
            nursery.cancel_scope.cancel()
