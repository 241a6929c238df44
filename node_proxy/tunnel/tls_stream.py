"""TLS over a non-blocking socket by way of memory: few large system calls instead of two for each record.

Python's `SSLSocket` lets OpenSSL read and write the socket: two reads for each record of 16 KiB, one write
for each. Here the socket is read and written in pieces as large as it gives and takes, and OpenSSL only sees
memory. That is a quarter less CPU for bulk data, for one more copy.
"""

import socket
import ssl
from contextlib import suppress
from typing import Any

# RFC 8446 section 5.2: the payload, its type, the cipher's tag, a header of five bytes.
_LARGEST_RECORD = 5 + 16 * 1024 + 256
# OpenSSL keeps as much memory for each connection as was ever waiting in it, so what a large read brought is
# handed over in pieces.
_FEED = 32 * 1024


class NamedObject(ssl.SSLObject):
    """The TLS state of a connection that remembers which name its client asked for."""

    asked_name: str | None = None


class TlsStream:
    """One TLS connection; nothing here waits.

    After `receive` call `read_into` until nothing is `pending`: what was read stays in the caller's scratch
    buffer until then. `encrypt` one frame at most, since as much memory is kept.

    Args:
        sock: connected, non-blocking; owned from now on.
        context: decides everything about the handshake.

    Raises:
        ssl.SSLError, ValueError: `server_name` is none that TLS could ask for. The socket stays open.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
    ) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        # Looked up once, since it is called for every record.
        self._read = self._tls.read
        self._unfed = memoryview(b"")

    # What was agreed on.

    @property
    def asked_name(self) -> str | None:
        """The name that the client asked for; server side only."""
        return self._tls.asked_name if isinstance(self._tls, NamedObject) else None

    @property
    def server_side(self) -> bool:
        """Whether this is the server's end."""
        return self._tls.server_side

    def verified_chain(self) -> list[bytes]:
        """Give the peer's chain as OpenSSL verified it, from the leaf to the root, in DER; empty for none."""
        # Public from Python 3.13 on, in DER. Before, only the object behind it knows the root and the
        # intermediate, and without them any root would vouch for any domain.
        connection: Any = self._tls
        if not hasattr(connection, "get_verified_chain"):
            connection = connection._sslobj  # noqa: SLF001
        found = connection.get_verified_chain() or ()
        return [
            each if isinstance(each, bytes) else ssl.PEM_cert_to_DER_cert(each.public_bytes())
            for each in found
        ]

    def version(self) -> str | None:
        """Give the TLS version in use."""
        return self._tls.version()

    def selected_alpn_protocol(self) -> str | None:
        """Give the protocol that both ends chose."""
        return self._tls.selected_alpn_protocol()

    @property
    def session(self) -> ssl.SSLSession | None:
        """The client's session, which holds a ticket if the server gave one."""
        return self._tls.session

    # Moving bytes.

    def fileno(self) -> int:
        """Give the socket's descriptor, -1 once closed."""
        return self._sock.fileno()

    def shake(self) -> bool:
        """Take the handshake as far as what was received allows; whether it is done.

        Send what `take_output` gives afterwards, an alert included if this raised.

        Raises:
            ssl.SSLError: it failed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def receive(self, scratch: memoryview) -> int:
        """Read the socket once, by way of `scratch`, for `read_into` to decrypt; 0 is the end.

        Raises:
            BlockingIOError: nothing is there.
            OSError: the connection is broken.
        """
        count = self._sock.recv_into(scratch)
        if count:
            self._unfed = scratch[:count]
            self._feed()
        else:
            self._incoming.write_eof()
        return count

    def _feed(self) -> None:
        self._incoming.write(self._unfed[:_FEED])
        self._unfed = self._unfed[_FEED:]

    @property
    def pending(self) -> int:
        """How many bytes were received that `read_into` has not looked at."""
        return self._incoming.pending + len(self._unfed)

    def read_into(self, view: memoryview) -> int:
        """Decrypt one record at most; give it room for the largest. 0 is the peer's close_notify.

        Raises:
            ssl.SSLWantReadError: no whole record is there.
            ssl.SSLError: an alert, or what is no TLS.
        """
        if self._unfed and self._incoming.pending < _LARGEST_RECORD:
            self._feed()
        while True:
            try:
                return self._read(len(view), view)  # type: ignore[return-value]
            except ssl.SSLWantReadError:
                # What was fed held only what TLS has to say, as a session ticket.
                if not self._unfed:
                    raise
                self._feed()

    def encrypt(self, data: memoryview) -> bytes:
        """Give `data` as records, behind whatever TLS itself has to say.

        Raises:
            ssl.SSLError: the connection has failed before.
        """
        self._tls.write(data)
        return self._outgoing.read()

    def end_records(self) -> bytes:
        """Give the close_notify that says that nothing more will be sent; what the peer sends is still read.

        Read all that was received before: OpenSSL looks for the peer's own, and data instead is an error.

        Raises:
            ssl.SSLError: the connection has failed before.
        """
        with suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):
            self._tls.unwrap()
        return self._outgoing.read()

    def take_output(self) -> bytes:
        """Give, once, what TLS itself has to say: handshake, alerts, answers to key updates."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def send(self, records: bytes | memoryview) -> int:
        """Write records; gives how many bytes the socket took, 0 when it is full.

        Raises:
            OSError: the connection is broken.
        """
        try:
            return self._sock.send(records)
        except BlockingIOError:
            return 0

    def end_writing(self) -> None:
        """Half-close the socket.

        Raises:
            OSError: the connection is broken.
        """
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; a tunnel says by GOAWAY, not by close_notify, that it ends."""
        self._sock.close()
