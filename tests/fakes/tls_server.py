"""A web server's TLS, on a thread of its own: whatever a test wants it to say behind the handshake."""

import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.certificates import Authority

PATIENCE = 10.0
# More than all buffers of a connection on loopback.
MUCH = 16 << 20

Talk = Callable[[ssl.SSLSocket], None]


def context_for(
    authority: Authority, *names: str, alpn: Sequence[str] = (), version: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """Give the TLS of a server whose certificate is for `names`."""
    leaf = authority.issue("server", uris=(), dns=names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if version is not None:
        context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder, "server.pem")
        pem.write_text(leaf.chain_pem + leaf.key_pem)
        context.load_cert_chain(pem)
    return context


@contextmanager
def serving(context: ssl.SSLContext, talk: Talk) -> Iterator[int]:
    """Serve on loopback until the block ends; gives the port. A handshake that fails is passed over."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def converse(sock: socket.socket) -> None:
        with suppress(OSError):
            talk(context.wrap_socket(sock, server_side=True))

    def serve() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.settimeout(PATIENCE)
                open_sockets.append(sock)
                thread = threading.Thread(target=converse, args=(sock,))
                thread.start()
                threads.append(thread)

    threads: list[threading.Thread] = [threading.Thread(target=serve)]
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        # close() alone does not wake accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()
        for sock in open_sockets:
            sock.close()


def echo(tls: ssl.SSLSocket) -> None:
    """Say back what was said; answer the end by the end."""
    with tls:
        while data := tls.recv(1 << 16):
            tls.sendall(data)
        tls.unwrap().close()


def echo_in_capitals_at_the_end(tls: ssl.SSLSocket) -> None:
    """Wait for the end, then say everything at once, in capitals."""
    with tls:
        said = b""
        while data := tls.recv(1 << 16):
            said += data
        tls.sendall(said.upper())
        tls.unwrap().close()


def leave_without_goodbye(tls: ssl.SSLSocket) -> None:
    """Say something, and close as a server that was killed would."""
    with tls:
        tls.sendall(b"half of it")
        tls.recv(1)


def name_alpn(tls: ssl.SSLSocket) -> None:
    """Say which protocol and TLS version were agreed on."""
    with tls:
        tls.sendall(f"{tls.selected_alpn_protocol()} {tls.version()}".encode())
        tls.unwrap().close()


def say_much(tls: ssl.SSLSocket) -> None:
    """Say more than anybody keeps for a caller."""
    with tls:
        tls.sendall(bytes(MUCH))
        tls.unwrap().close()
