"""Real handshakes over socketpairs, with certificates of an authority of the tests' own."""

import gc
import os
import socket
import ssl
import struct

import pytest
import trio

from node_proxy.errors import HandshakeError, PeerIdentityError
from node_proxy.tunnel.tls import (
    TlsContexts,
    accept_tls,
    connect_tls,
    handshake_error,
)
from tests.fakes.context import tls_contexts
from tests.integration.certificates import (
    Authority,
    client_context,
    server_name,
    spiffe,
)
from tests.node_proxy.tunnel.handshakes import Sockets

WEB, API, DB = spiffe("web"), spiffe("api"), spiffe("db")


@pytest.fixture(scope="module")
def host(authority: Authority) -> TlsContexts:
    """Give the contexts of a host of three workloads; web's certificate is its default."""
    return tls_contexts(authority, *(authority.issue(identity) for identity in (WEB, API, DB)))


class TestHandshake:
    async def test_both_ends_are_authenticated(self, sockets: Sockets, host: TlsContexts) -> None:
        """After a handshake each end knows the other's identity."""
        outcome = await sockets.shake(host.client(API), host.server(), name=server_name(DB))
        client, server = outcome.ends
        assert str(host.peer(client).identity) == DB
        assert str(host.peer(server).identity) == API

    async def test_speaks_tls_1_3_and_h2(self, sockets: Sockets, host: TlsContexts) -> None:
        """A tunnel is TLS 1.3 with ALPN h2."""
        for end in (await sockets.shake(host.client(WEB), host.server())).ends:
            assert (end.version(), end.selected_alpn_protocol()) == ("TLSv1.3", "h2")

    async def test_no_session_tickets(self, sockets: Sockets, host: TlsContexts) -> None:
        """The server hands out no ticket: a resumed session would skip the client's certificate."""
        client, server = (await sockets.shake(host.client(WEB), host.server())).ends
        server.send(server.encrypt(memoryview(b"first bytes")))
        assert client.receive(memoryview(bytearray(1000)))
        assert client.read_into(memoryview(bytearray(1000))) == len(b"first bytes")
        assert client.session is None or not client.session.has_ticket

    def test_keys_leave_no_descriptor(self, authority: Authority) -> None:
        """The key that OpenSSL reads through a memory file leaves nothing open."""
        leaf = authority.issue(WEB)
        before = os.listdir("/proc/self/fd")
        contexts = tls_contexts(authority, leaf)
        assert len(os.listdir("/proc/self/fd")) == len(before)
        del contexts


class TestServerName:
    async def test_chooses_the_certificate(self, sockets: Sockets, host: TlsContexts) -> None:
        """A client gets the certificate of the identity that it asks for by SNI."""
        for identity in (WEB, API, DB):
            client, _ = (
                await sockets.shake(host.client(WEB), host.server(), name=server_name(identity))
            ).ends
            host.require(client, identity)

    async def test_is_remembered(self, sockets: Sockets, host: TlsContexts) -> None:
        """The server knows afterwards whose certificate it showed."""
        _, server = (await sockets.shake(host.client(WEB), host.server(), name=server_name(API))).ends
        assert host.identity_of(server.asked_name) == API

    async def test_without_one_the_default(self, sockets: Sockets, host: TlsContexts) -> None:
        """A client that names nobody gets the node's default certificate."""
        client, server = (await sockets.shake(host.client(API), host.server())).ends
        host.require(client, WEB)
        assert host.identity_of(server.asked_name) is None

    async def test_unknown_one_is_refused(self, sockets: Sockets, host: TlsContexts) -> None:
        """Asking for an identity that is not on this host fails, at both ends."""
        outcome = await sockets.shake(host.client(WEB), host.server(), name=server_name(spiffe("nobody")))
        assert isinstance(outcome.client, HandshakeError)
        assert isinstance(outcome.server, HandshakeError)


class TestServerRefuses:
    async def test_no_certificate(self, sockets: Sockets, host: TlsContexts, authority: Authority) -> None:
        """A client without a certificate is refused for that."""
        outcome = await sockets.shake(client_context(None, authority.root_pem), host.server())
        assert outcome.server_reason == "no_certificate"

    async def test_unknown_ca(
        self, sockets: Sockets, host: TlsContexts, authority: Authority, stranger: Authority
    ) -> None:
        """A certificate of another authority is refused for that."""
        context = client_context(stranger.issue(WEB), authority.root_pem)
        assert (await sockets.shake(context, host.server())).server_reason == "unknown_ca"

    async def test_old_tls(self, sockets: Sockets, host: TlsContexts, authority: Authority) -> None:
        """TLS 1.2 is not spoken."""
        context = client_context(authority.issue(WEB), authority.root_pem)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await sockets.shake(context, host.server())).server_reason == "protocol"

    @pytest.mark.parametrize("offered", [["http/1.1"], []], ids=["http1", "nothing"])
    async def test_other_alpn(
        self, sockets: Sockets, host: TlsContexts, authority: Authority, offered: list[str]
    ) -> None:
        """A client that does not offer HTTP/2 is refused."""
        context = client_context(authority.issue(WEB), authority.root_pem)
        context.set_alpn_protocols(offered)
        assert (await sockets.shake(context, host.server())).server_reason == "protocol"

    @pytest.mark.parametrize(
        ("sent", "reason"),
        [
            (b"GET / HTTP/1.1\r\nHost: api\r\n\r\n", "protocol"),
            (b"SSH-2.0-OpenSSH_9.2\r\n" + bytes(40), "protocol"),
            (b"", "closed"),
        ],
        ids=["http", "ssh", "nothing"],
    )
    async def test_no_tls(self, sockets: Sockets, host: TlsContexts, sent: bytes, reason: str) -> None:
        """Whoever speaks no TLS at all is refused, and told apart from who just leaves."""
        near, far = sockets.pair()
        near.send(sent)
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(HandshakeError) as raised:
            await accept_tls(far, host.server())
        assert raised.value.reason == reason


class TestClientRefuses:
    async def test_unknown_ca(
        self, sockets: Sockets, host: TlsContexts, authority: Authority, stranger: Authority
    ) -> None:
        """A server of another authority is refused by the client, and hears so."""
        other = tls_contexts(stranger, stranger.issue(API))
        outcome = await sockets.shake(host.client(WEB), other.server())
        assert (outcome.client_reason, outcome.server_reason) == ("unknown_ca", "unknown_ca")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("api.default.sa." + "x" * 64, "server_name"), ("api.default.sa." + "x." * 150 + "y", "tls")],
        ids=["label", "name"],
    )
    # Python's wrap_socket leaves the socket of such a name to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    async def test_name_that_cannot_be_sent(
        self, sockets: Sockets, host: TlsContexts, name: str, reason: str
    ) -> None:
        """A trust domain too long for a TLS server name is a failed handshake, not a crash."""
        near, _ = sockets.pair()
        with pytest.raises(HandshakeError) as raised:
            await connect_tls(near, host.client(WEB), server_name=name)
        assert raised.value.reason == reason
        del raised
        gc.collect()

    def test_identity_without_certificate(self, host: TlsContexts) -> None:
        """Nobody speaks for an identity whose key this host does not hold."""
        with pytest.raises(HandshakeError) as raised:
            host.client(spiffe("nobody"))
        assert raised.value.reason == "no_credential"


class TestLostConnections:
    @staticmethod
    def _reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    @pytest.mark.parametrize("sent", [b"", b"\x16"], ids=["nothing", "a-byte"])
    async def test_reset_before_the_handshake(self, sockets: Sockets, host: TlsContexts, sent: bytes) -> None:
        """A connection that is reset before TLS looks at it is a refusal like any other."""
        near, far = sockets.tcp_pair()
        near.send(sent)
        self._reset(near)
        with pytest.raises(HandshakeError) as raised:
            await accept_tls(far, host.server())
        assert raised.value.reason == "closed"
        assert far.fileno() == -1

    async def test_reset_before_our_own_handshake(self, sockets: Sockets, host: TlsContexts) -> None:
        """The same where we are the client."""
        near, far = sockets.tcp_pair()
        self._reset(near)
        with pytest.raises(HandshakeError) as raised:
            await connect_tls(far, host.client(WEB), server_name=server_name(API))
        assert raised.value.reason == "closed"

    async def test_closed_in_the_handshake(self, sockets: Sockets, host: TlsContexts) -> None:
        """A peer that leaves in mid-handshake has closed the connection."""
        near, far = sockets.pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_close_after_hello, far)
            with pytest.raises(HandshakeError) as raised:
                await connect_tls(near, host.client(WEB), server_name=server_name(API))
        assert raised.value.reason == "closed"

    async def test_cancellation_closes(self, sockets: Sockets, host: TlsContexts) -> None:
        """A handshake that is given up leaves no socket."""
        near, _ = sockets.pair()
        descriptor = near.fileno()
        with trio.move_on_after(0.01) as scope:
            await connect_tls(near, host.client(WEB), server_name=server_name(API))
        assert scope.cancelled_caught
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


async def _close_after_hello(sock: socket.socket) -> None:
    await trio.lowlevel.wait_readable(sock)
    sock.recv(10_000)
    sock.close()


class TestPeerIdentity:
    async def test_somebody_else(self, sockets: Sockets, host: TlsContexts) -> None:
        """The error says who was expected and who was there."""
        client, _ = (await sockets.shake(host.client(WEB), host.server(), name=server_name(DB))).ends
        with pytest.raises(PeerIdentityError) as raised:
            host.require(client, API)
        assert (raised.value.expected, raised.value.presented) == (API, DB)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "no_certificate"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "unknown_ca"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired", "expired"),
        ("[SSL: SSLV3_ALERT_BAD_CERTIFICATE] sslv3 alert bad certificate", "bad_certificate"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version", "protocol"),
        ("[SSL: SOMETHING_NEW] whatever OpenSSL says next", "tls"),
    ],
)
def test_alerts_have_a_short_name(text: str, reason: str) -> None:
    """What a peer's alert says becomes one word to count by, and stays in full in the message."""
    error = handshake_error(ssl.SSLError(1, text))
    assert (error.reason, str(error)) == (reason, text)
