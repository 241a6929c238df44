"""External services: who may call, what is dialled, and the TLS that the proxy speaks for callers."""

import socket
import ssl
import threading

import pytest
import trio

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.tls_relay import READ_SIZE, TlsRelay
from registry.model.decision import Outcome
from registry.model.service import PortProtocol
from tests.fakes import tls_server
from tests.fakes.context import NODE
from tests.fakes.eventually import eventually
from tests.integration.certificates import TRUST_DOMAIN, Authority
from tests.node_proxy.dataplane.leaving import (
    API,
    HOST,
    WEB,
    Exit,
    accepted,
    external,
    leaving,
    listening,
    outside,
)

BY_HOST = Destination(HOST, 80)


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


@pytest.mark.parametrize(
    "destination",
    [
        BY_HOST,
        Destination("240.240.0.9", 80),
        Destination("fd6d:6573:6800::9", 80),
        Destination("ext.mesh", 80),
        Destination("ext.default.mesh", 80),
    ],
    ids=str,
)
async def test_bytes_flow(destination: Destination) -> None:
    """By its own name, its name in the mesh and its virtual IPs a caller reaches it, at the target port."""
    with listening() as server:
        async with leaving(outside(external(target=port_of(server)))) as exit_:
            caller = exit_.call(destination)
            caller.sock.send(b"question")
            await eventually(lambda: exit_.direct.relayed)
            with accepted(server) as served:
                await eventually(lambda: served.read() == b"question")
                served.sock.send(b"answer")
                await eventually(lambda: caller.read() == b"answer")
            caller.sock.shutdown(socket.SHUT_WR)
            await eventually(lambda: exit_.stage.logged("connection closed"))
            (line,) = exit_.stage.logged("connection closed")
            assert (line["side"], line["destination"], line["outcome"]) == (
                "external",
                "default/ext:80",
                "done",
            )
            assert (line["bytes_sent"], line["bytes_received"]) == (8, 6)
            assert exit_.direct.open_connections == 0
            sent = exit_.stage.counted(telemetry.BYTES_SENT, side="external", workload="default/ext")
            assert sent == 8


@pytest.mark.parametrize(
    ("allowed", "caller", "admitted"),
    [
        (None, WEB, True),
        (("*",), WEB, True),
        (("nodemesh.local/ns/default/sa/web",), WEB, True),
        (("nodemesh.local/ns/default/sa/w*",), WEB, True),
        (("nodemesh.local/ns/default/sa/web",), API, False),
        ((), WEB, False),
        (None, Caller.of(f"spiffe://{TRUST_DOMAIN}/node/{NODE}"), False),
        (("*",), Caller.of(f"spiffe://{TRUST_DOMAIN}/node/{NODE}"), False),
    ],
)
async def test_authorization(allowed: tuple[str, ...] | None, caller: Caller, admitted: bool) -> None:
    """Who is allowed may call, or everybody with an identity; the decision is noted either way."""
    with listening() as server:
        async with leaving(outside(external(target=port_of(server), allowed=allowed))) as exit_:
            reader = exit_.call(BY_HOST, caller)
            if admitted:
                await eventually(lambda: exit_.direct.relayed)
            else:
                await eventually(lambda: reader.ended() == "reset")
                assert exit_.refusals() == ["denied"]
                assert exit_.stage.counted(telemetry.DENIALS, side="source", source=caller.text) == 1
            (decided,) = exit_.stage.context.decisions.take(0.0)
            assert decided.outcome is (Outcome.PERMITTED if admitted else Outcome.DENIED)
            assert (decided.destination, decided.source) == ("default/ext", caller.text)


async def cut(exit_: Exit, grace: int) -> str:
    """Open a connection, forbid it, and say how it ended."""
    port = exit_.stage.context.enforced.tables.externals.by_host(HOST, 80)
    assert port is not None
    reader = exit_.call(BY_HOST)
    await eventually(lambda: exit_.direct.relayed)
    exit_.change(outside(external(target=port.target, allowed=()), grace=grace, revision=2))
    return reader.ended()


async def test_policy_that_changes_later() -> None:
    """A connection that is no longer allowed is cut at once."""
    with listening() as server:
        async with leaving(outside(external(target=port_of(server)))) as exit_:
            await cut(exit_, 0)
            await eventually(lambda: exit_.stage.logged("stream cut"))
            assert exit_.direct.open_connections == 0


async def test_grace() -> None:
    """With a grace it is cut when that ends."""
    with listening() as server:
        async with leaving(outside(external(target=port_of(server)))) as exit_:
            assert await cut(exit_, 1) == ""
            assert exit_.direct.open_connections == 1
            await eventually(lambda: exit_.stage.logged("stream cut"))


async def test_withdrawn() -> None:
    """When the service is gone, so are its connections; another one's stay."""
    with listening() as server:
        other = external(target=port_of(server), name="default/other", hosts=("b.example",), vips=())
        async with leaving(outside(external(target=port_of(server)), other)) as exit_:
            exit_.call(BY_HOST)
            exit_.call(Destination("b.example", 80))
            await eventually(lambda: len(exit_.direct.relayed) == 2)
            exit_.change(outside(other, revision=2))
            (line,) = exit_.stage.logged("stream cut")
            assert line["destination"] == "default/ext:80"
            assert exit_.direct.open_connections == 1


async def test_second_address() -> None:
    """An address where nobody listens costs one more dial."""
    with listening() as server:
        addresses = ("127.0.0.2", "127.0.0.3", "127.0.0.1")
        async with leaving(outside(external(target=port_of(server), addresses=addresses))) as exit_:
            exit_.call(BY_HOST)
            await eventually(lambda: exit_.direct.relayed)


@pytest.mark.parametrize(("addresses", "reason"), [((), "no_address"), (("127.0.0.1",), "dial_failed")])
async def test_unreachable(addresses: tuple[str, ...], reason: str) -> None:
    """Without an address, or with none that answers, the caller is refused and the log says why."""
    with listening() as server:
        port = port_of(server)
    async with leaving(outside(external(target=port, addresses=addresses))) as exit_:
        reader = exit_.call(BY_HOST)
        await eventually(lambda: reader.ended() == "reset")
        assert exit_.refusals() == [reason]
        assert exit_.direct.open_connections == 0


async def test_other_port() -> None:
    """A port that the service does not list leads nowhere, whatever else may pass."""
    async with leaving(outside(external(target=1)), frozenset()) as exit_:
        for host in (HOST, "240.240.0.9", "ext.mesh"):
            reader = exit_.call(Destination(host, 81))
            await eventually(lambda reader=reader: reader.ended() == "reset")  # type: ignore[misc]
        assert exit_.refusals() == ["unknown_destination"] * 3


class TestTls:
    """TLS origination."""

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_plain_to_tls(self, authority: Authority, version: ssl.TLSVersion) -> None:
        """The caller speaks plainly, the server TLS, and megabytes arrive as they were sent."""
        context = tls_server.context_for(authority, HOST, version=version)
        with tls_server.serving(context, tls_server.echo) as port:
            service = external(target=port, server_name=HOST, roots_pem=authority.root_pem)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                payload = bytes(range(256)) * 8192
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all, reader.sock, payload)
                    await eventually(lambda: len(reader.read()) == len(payload))
                assert reader.read() == payload
                reader.sock.shutdown(socket.SHUT_WR)
                await eventually(lambda: reader.ended() == "end")
                await eventually(lambda: exit_.stage.logged("connection closed"))
                assert exit_.stage.logged("connection closed")[0]["outcome"] == "done"

    async def test_caller_ends_first(self, authority: Authority) -> None:
        """The caller's end reaches the server, whose answer after it reaches the caller."""
        context = tls_server.context_for(authority, HOST)
        with tls_server.serving(context, tls_server.echo_in_capitals_at_the_end) as port:
            service = external(target=port, server_name=HOST, roots_pem=authority.root_pem)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                reader.sock.send(b"question")
                reader.sock.shutdown(socket.SHUT_WR)
                await eventually(lambda: reader.ended() == "end")
                assert reader.read() == b"QUESTION"

    async def test_cut_off(self, authority: Authority) -> None:
        """A server that leaves without ending TLS is no clean end for the caller."""
        context = tls_server.context_for(authority, HOST)
        with tls_server.serving(context, tls_server.leave_without_goodbye) as port:
            service = external(target=port, server_name=HOST, roots_pem=authority.root_pem)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                await eventually(lambda: reader.read() == b"half of it")
                reader.sock.send(b"x")
                await eventually(lambda: reader.ended() == "reset")
                (line,) = exit_.stage.logged("connection closed")
                assert line["outcome"] == "the server left without ending TLS"

    async def test_caller_that_does_not_read(self, authority: Authority) -> None:
        """What a caller does not take stays with the server, but for one read's worth."""
        context = tls_server.context_for(authority, HOST)
        with tls_server.serving(context, tls_server.say_much) as port:
            service = external(target=port, server_name=HOST, roots_pem=authority.root_pem)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                await eventually(lambda: exit_.direct.relayed)
                (connection,) = exit_.direct.relayed
                relay = connection._relay
                assert isinstance(relay, TlsRelay)
                await eventually(lambda: relay._caller.has_pending)
                held = relay.traffic.received
                await trio.sleep(0.05)
                assert relay.traffic.received == held
                assert len(relay._caller._pending) <= 2 * READ_SIZE
                await eventually(lambda: reader.ended() == "end")
                assert len(reader.read()) == tls_server.MUCH

    async def test_server_that_does_not_read(self, authority: Authority) -> None:
        """What a server does not take stays with the caller, but for one read's worth."""
        context = tls_server.context_for(authority, HOST)
        proceed = threading.Event()

        def talk(tls: ssl.SSLSocket) -> None:
            proceed.wait(tls_server.PATIENCE)
            tls_server.echo_in_capitals_at_the_end(tls)

        with tls_server.serving(context, talk) as port:
            service = external(target=port, server_name=HOST, roots_pem=authority.root_pem)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                await eventually(lambda: exit_.direct.relayed)
                (connection,) = exit_.direct.relayed
                relay = connection._relay
                assert isinstance(relay, TlsRelay)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send_all, reader.sock, b"x" * tls_server.MUCH)
                    await eventually(lambda: relay._unsent)
                    await trio.sleep(0.05)
                    assert len(relay._unsent) <= 2 * READ_SIZE
                    proceed.set()
                reader.sock.shutdown(socket.SHUT_WR)
                await eventually(lambda: reader.ended() == "end")
                assert reader.read() == b"X" * tls_server.MUCH

    @pytest.mark.parametrize(
        ("name", "trusted"), [("other.example", True), (HOST, False)], ids=["name", "root"]
    )
    async def test_whom_it_believes(self, authority: Authority, name: str, trusted: bool) -> None:
        """A certificate for another name, or of another authority, is refused before a byte is sent."""
        context = tls_server.context_for(authority, name)
        roots = authority.root_pem if trusted else Authority("somebody else").root_pem
        with tls_server.serving(context, tls_server.echo) as port:
            service = external(target=port, server_name=HOST, roots_pem=roots)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                await eventually(lambda: reader.ended() == "reset")
                assert exit_.refusals() == ["tls_failed"]

    async def test_system_roots(self, authority: Authority) -> None:
        """Without roots of its own the host's are trusted, which know nothing of this server's."""
        context = tls_server.context_for(authority, HOST)
        with tls_server.serving(context, tls_server.echo) as port:
            async with leaving(outside(external(target=port, server_name=HOST))) as exit_:
                reader = exit_.call(BY_HOST)
                await eventually(lambda: reader.ended() == "reset")
                assert exit_.refusals() == ["tls_failed"]
                assert "unable to get" in exit_.stage.logged("stream refused")[0]["detail"]

    @pytest.mark.parametrize(
        ("protocol", "agreed"),
        [(PortProtocol.TCP, "None"), (PortProtocol.HTTP, "http/1.1"), (PortProtocol.GRPC, "h2")],
    )
    async def test_protocol(self, authority: Authority, protocol: PortProtocol, agreed: str) -> None:
        """Servers of several protocols are told which one the service's port speaks."""
        context = tls_server.context_for(authority, HOST, alpn=["h2", "http/1.1"])
        with tls_server.serving(context, tls_server.name_alpn) as port:
            service = external(target=port, server_name=HOST, roots_pem=authority.root_pem, protocol=protocol)
            async with leaving(outside(service)) as exit_:
                reader = exit_.call(BY_HOST)
                await eventually(lambda: reader.ended() == "end")
                assert reader.read().decode() == f"{agreed} TLSv1.3"


async def send_all(sock: socket.socket, payload: bytes) -> None:
    view = memoryview(payload)
    while view:
        await trio.lowlevel.wait_writable(sock)
        view = view[sock.send(view) :]
