"""Real handshakes over socketpairs, and what they come to at both ends."""

import socket
import ssl
from collections.abc import Awaitable
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from node_proxy.errors import HandshakeError
from node_proxy.tunnel.tls import accept_tls, connect_tls
from node_proxy.tunnel.tls_stream import TlsStream

# Only keeps a broken test from hanging.
PATIENCE = 10.0


@dataclass(frozen=True)
class Outcome:
    """What a handshake came to at both ends; under TLS 1.3 the client's is done before the server refuses."""

    client: TlsStream | HandshakeError
    server: TlsStream | HandshakeError

    @property
    def ends(self) -> tuple[TlsStream, TlsStream]:
        """Client and server of a handshake that succeeded."""
        assert isinstance(self.client, TlsStream), self.client
        assert isinstance(self.server, TlsStream), self.server
        return self.client, self.server

    @property
    def server_reason(self) -> str:
        """Why the server refused."""
        assert isinstance(self.server, HandshakeError)
        return self.server.reason

    @property
    def client_reason(self) -> str:
        """Why the client refused."""
        assert isinstance(self.client, HandshakeError)
        return self.client.reason


async def _note(
    handshake: Awaitable[TlsStream], ends: list[TlsStream | HandshakeError], stack: ExitStack
) -> None:
    try:
        tls = await handshake
    except HandshakeError as error:
        ends.append(error)
    else:
        stack.callback(tls.close)
        ends.append(tls)


class Sockets:
    """Makes pairs and handshakes over them, and closes everything with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Give two connected non-blocking sockets."""
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setblocking(False)
            self._stack.callback(sock.close)
        return near, far

    def tcp_pair(self) -> tuple[socket.socket, socket.socket]:
        """Give a connected socket and the one that was accepted for it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            near = self._stack.enter_context(socket.create_connection(server.getsockname()))
            far = self._stack.enter_context(server.accept()[0])
        far.setblocking(False)
        return near, far

    async def shake(
        self, client: ssl.SSLContext, server: ssl.SSLContext, *, name: str | None = None
    ) -> Outcome:
        """Do a handshake to its end on both sides."""
        near, far = self.pair()
        clients: list[TlsStream | HandshakeError] = []
        servers: list[TlsStream | HandshakeError] = []
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_note, connect_tls(near, client, server_name=name), clients, self._stack)
                nursery.start_soon(_note, accept_tls(far, server), servers, self._stack)
        return Outcome(clients[0], servers[0])
