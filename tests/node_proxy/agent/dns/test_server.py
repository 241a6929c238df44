import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.dns import server
from node_proxy.agent.dns.answer import Elsewhere, Outcome, Reply, Responder
from node_proxy.agent.dns.forward import Forwarder
from node_proxy.agent.dns.server import DnsServer
from node_proxy.agent.dns.upstreams import Upstreams
from node_proxy.agent.dns.zone import NamedService, labels_of
from node_proxy.agent.listeners import bind, bound_address
from tests.fakes.eventually import eventually
from tests.node_proxy.agent.dns.questions import answers, responder, zone
from tests.node_proxy.agent.dns.upstream import good, long, running_upstream, silent

T = TypeVar("T")

MANY = NamedService(
    name="many", namespace="default", addresses=tuple(f"240.240.5.{i}" for i in range(1, 101))
)


class Running:
    """A server, asked by dnspython's own client."""

    def __init__(self, served: DnsServer, host: str, port: int) -> None:
        self.server = served
        self.host = host
        self.port = port

    async def ask(self, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
        """Ask by UDP or TCP."""
        query = dns.message.make_query(name, kind)
        client = dns.query.tcp if tcp else dns.query.udp
        return await in_thread(lambda: client(query, self.host, timeout=10, port=self.port))

    async def connect(self) -> trio.SocketStream:
        """Open a connection."""
        return await trio.open_tcp_stream(self.host, self.port)


async def in_thread(call: Callable[[], T]) -> T:
    """Let a client that blocks run beside the server."""
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


@asynccontextmanager
async def running(
    *upstreams: SocketAddress, host: str = "127.0.0.1", of: Responder | None = None
) -> AsyncIterator[Running]:
    """Serve on loopback until the block ends; with upstreams others' names are asked of them."""
    shown = f"[{host}]" if ":" in host else host
    with ExitStack() as stack:
        tcp = stack.enter_context(bind(SocketAddress(f"{shown}:0"), "test"))
        address = SocketAddress(bound_address(tcp))
        udp = stack.enter_context(bind(address, "test", kind=socket.SOCK_DGRAM))
        served = DnsServer(
            udp=[udp],
            tcp=[tcp],
            responder=of or responder(recursion=bool(upstreams)),
            forwarder=Forwarder(Upstreams(upstreams, own=())) if upstreams else None,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.serve)
            yield Running(served, host, address.port)
            nursery.cancel_scope.cancel()


def framed(wire: bytes) -> bytes:
    """Give a message as it goes over TCP."""
    return struct.pack("!H", len(wire)) + wire


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_both_transports_and_families(host: str, tcp: bool) -> None:
    """Names are answered by UDP and TCP, over IPv4 and IPv6."""
    async with running(host=host) as served:
        assert answers(await served.ask("api.mesh", tcp=tcp)) == ["api.mesh. 5 IN A 240.240.0.7"]
        assert served.server.outcomes == {Outcome.ANSWERED: 1}


async def test_fallback_to_tcp() -> None:
    """A client that is told that the answer is too long gets all of it by TCP."""
    async with running(of=responder(MANY)) as served:
        query = dns.message.make_query("many.mesh", "A")
        client = partial(dns.query.udp_with_fallback, query, "127.0.0.1", timeout=10, port=served.port)
        answer, by_tcp = await in_thread(client)
        assert by_tcp
        assert len(answers(answer)) == 100


async def test_rubbish_does_not_stop_it() -> None:
    """After whatever packets the next query is answered."""
    async with running() as served:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for rubbish in (b"", b"\0", b"\xff" * 11, b"\xff" * 12, bytes(12), bytes(5000), b"\1" * 60000):
                client.sendto(rubbish, (served.host, served.port))
        assert (await served.ask("api.mesh")).rcode() == dns.rcode.NOERROR
        assert served.server.outcomes[Outcome.UNHEARD] == 4
        assert served.server.outcomes[Outcome.MALFORMED] == 3


class Stumbling(Responder):
    """Has a bug that one name brings out."""

    def respond(self, wire: bytes, *, udp: bool) -> Reply | Elsewhere:
        """Answer, or not."""
        if b"stumble" in wire:
            raise ZeroDivisionError
        return super().respond(wire, udp=udp)


async def test_a_bug_costs_one_query() -> None:
    """Whatever goes wrong with a query, the next one is answered, by UDP and TCP."""
    stumbling = Stumbling(apex=labels_of("mesh"), ttl=5, recursion=False)
    stumbling.give(zone())
    async with running(of=stumbling) as served:
        query = dns.message.make_query("stumble.mesh", "A").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(query, (served.host, served.port))
        async with await served.connect() as stream:
            await stream.send_all(framed(query))
            assert await is_hung_up(stream)
        assert answers(await served.ask("api.mesh"))
        assert answers(await served.ask("api.mesh", tcp=True))
        assert served.server.outcomes == {Outcome.FAILED: 2, Outcome.ANSWERED: 2}


async def test_other_names_are_refused() -> None:
    """Without upstreams names outside the mesh are refused, so that resolvers ask elsewhere."""
    async with running() as served:
        answer = await served.ask("www.example.org")
        assert answer.rcode() == dns.rcode.REFUSED
        assert not answer.flags & dns.flags.RA


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_other_names_are_forwarded(tcp: bool) -> None:
    """With an upstream they are asked of it, once; the mesh's own never are."""
    async with running_upstream(good) as upstream, running(upstream.address) as served:
        for _ in range(2):
            answer = await served.ask("www.example.org", tcp=tcp)
            assert answers(answer) == ["www.example.org. 60 IN A 192.0.2.1"]
            assert answer.flags & dns.flags.RA
        assert (await served.ask("nobody.mesh", tcp=tcp)).rcode() == dns.rcode.NXDOMAIN
        assert len(upstream.asked) == 1
        assert served.server.outcomes == {Outcome.FORWARDED: 1, Outcome.CACHED: 1, Outcome.NO_NAME: 1}


async def test_long_forwarded_answers() -> None:
    """An upstream's answer that is too long for UDP is cut short and given whole by TCP."""
    async with running_upstream(long) as upstream, running(upstream.address) as served:
        assert (await served.ask("www.example.org")).flags & dns.flags.TC
        assert len(answers(await served.ask("www.example.org", tcp=True))) == 100


async def test_upstream_is_not_there() -> None:
    """When no upstream answers, the answer is that this failed."""
    async with running(SocketAddress("127.0.0.1:1")) as served:
        assert (await served.ask("www.example.org")).rcode() == dns.rcode.SERVFAIL
        assert served.server.outcomes == {Outcome.UPSTREAM_FAILED: 1}


async def test_bound_on_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past so many queries that wait for upstreams the next fail at once; the mesh's are answered still."""
    monkeypatch.setattr(server, "MAX_FORWARDS", 5)
    async with running_upstream(silent) as upstream, running(upstream.address) as served:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for i in range(5):
                query = dns.message.make_query(f"n{i}.example.org", "A")
                client.sendto(query.to_wire(), (served.host, served.port))
            assert (await served.ask("www.example.org")).rcode() == dns.rcode.SERVFAIL
            assert served.server.forwards == 5
            assert served.server.outcomes == {Outcome.TOO_MANY: 1}
            assert (await served.ask("api.mesh")).rcode() == dns.rcode.NOERROR


async def test_many_queries_on_one_connection() -> None:
    """Queries that come together over TCP are all answered, in order, however they are cut up."""
    async with running() as served:
        stream = await served.connect()
        queries = [dns.message.make_query(name, "A") for name in ("api.mesh", "db.shop.mesh", "nobody.mesh")]
        for byte in b"".join(framed(query.to_wire()) for query in queries):
            await stream.send_all(bytes([byte]))
        for query in queries:
            assert (await read(stream)).id == query.id
        await stream.aclose()


async def read(stream: trio.SocketStream) -> dns.message.Message:
    """Read one message of a connection."""
    length = int.from_bytes(await exactly(stream, 2), "big")
    return dns.message.from_wire(await exactly(stream, length))


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    """Read so many bytes."""
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        assert more, "the server hung up"
        data += more
    return data


async def is_hung_up(stream: trio.SocketStream) -> bool:
    """Wait until the server has closed a connection."""
    with trio.fail_after(10):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


@pytest.mark.parametrize(
    "sent", [b"", b"\0", b"\0\x20half"], ids=["nothing", "half a length", "half a query"]
)
async def test_idle_connections_are_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose next query does not come, or not whole, is closed."""
    monkeypatch.setattr(server, "TCP_IDLE", 0.1)
    async with running() as served, await served.connect() as stream:
        await stream.send_all(sent)
        assert await is_hung_up(stream)


@pytest.mark.parametrize("sent", [b"\xff\xff", b"\0\0", b"\0\x03abc"], ids=["long", "empty", "short"])
async def test_what_cannot_be_a_query(sent: bytes) -> None:
    """A length that no query has ends the connection at once."""
    async with running() as served:
        async with await served.connect() as stream:
            await stream.send_all(sent)
            assert await is_hung_up(stream)
        assert served.server.outcomes == {Outcome.UNHEARD: 1}


async def test_bound_on_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many, the one idle longest makes room: nobody can keep others out."""
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    async with running() as served, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await served.connect()) for _ in range(3)]
        query = framed(dns.message.make_query("api.mesh", "A").to_wire())
        for stream in (streams[1], streams[2], streams[0]):
            await stream.send_all(query)
            await read(stream)
        assert answers(await served.ask("api.mesh", tcp=True))
        assert await is_hung_up(streams[1])
        for stream in (streams[0], streams[2]):
            await stream.send_all(query)
            await read(stream)


async def test_strangers_are_not_answered() -> None:
    """A sender that is not on loopback is not answered, by UDP or TCP: this is no open resolver."""
    mine = address_of_this_host()
    async with running(host=mine) as served:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(dns.message.make_query("api.mesh", "A").to_wire(), (served.host, served.port))
        async with await served.connect() as stream:
            assert await is_hung_up(stream)
        await eventually(lambda: served.server.outcomes == {Outcome.NOT_LOCAL: 2})


def address_of_this_host() -> str:
    """Find an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel only looks for a route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])
