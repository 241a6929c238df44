"""TLS of tunnels: contexts from credentials, handshakes on trio, and who the peer proved to be.

TLS 1.3 only, both sides authenticated, ALPN ``h2``. A certificate is accepted when OpenSSL verifies
its chain to the mesh's roots and it carries exactly one SPIFFE ID of our trust domain. No session
tickets: a resumed session would skip the check of the client's certificate.
"""

import os
import socket
import ssl
from contextlib import suppress
from typing import cast

import trio

from node_proxy.control import Credential, CredentialsUpdate
from node_proxy.errors import HandshakeError, PeerIdentityError
from node_proxy.tunnel.tls_stream import NamedObject, TlsStream
from registry.model.identity import Identity, InvalidIdentity, parse_identity

ALPN = "h2"
# What one read of a handshake may bring: a flight with a chain of three certificates is some 3 KiB.
HANDSHAKE_READ = 16 * 1024

# How OpenSSL names what we want to count by a short word. First match wins.
_REASONS = (
    ("certificate has expired", "expired"),
    ("CERTIFICATE_EXPIRED", "expired"),
    ("not yet valid", "not_yet_valid"),
    ("DID_NOT_RETURN_A_CERTIFICATE", "no_certificate"),
    ("CERTIFICATE_REQUIRED", "no_certificate"),
    ("self-signed certificate", "unknown_ca"),
    ("self signed certificate", "unknown_ca"),
    ("unable to get", "unknown_ca"),
    ("UNKNOWN_CA", "unknown_ca"),
    ("CERTIFICATE_VERIFY_FAILED", "bad_certificate"),
    ("BAD_CERTIFICATE", "bad_certificate"),
    ("CERTIFICATE_UNKNOWN", "bad_certificate"),
    ("UNSUPPORTED_PROTOCOL", "protocol"),
    ("PROTOCOL_VERSION", "protocol"),
    ("WRONG_VERSION_NUMBER", "protocol"),
    ("NO_APPLICATION_PROTOCOL", "protocol"),
    ("HTTP_REQUEST", "protocol"),
)


class TlsContexts:
    """The contexts of one set of credentials, one per identity and side; to rotate, make a new set."""

    def __init__(self, update: CredentialsUpdate, *, trust_domain: str) -> None:
        self.trust_domain = trust_domain
        self._roots = update.roots_pem
        self._clients = {c.identity: self._client(c) for c in update.credentials}
        self._servers = {c.server_name: self._server(c) for c in update.credentials}
        self._identities = {c.server_name: c.identity for c in update.credentials}
        default = next(c for c in update.credentials if c.identity == update.default_identity)
        self._listener = self._server(default)
        self._listener.sslobject_class = NamedObject
        # Replaces the certificate during the handshake by the one that the client's SNI asks for.
        self._listener.sni_callback = self._choose_certificate

    def client(self, identity: str) -> ssl.SSLContext:
        """Give the context that speaks for `identity`.

        Raises:
            HandshakeError: this host holds no certificate for it.
        """
        try:
            return self._clients[identity]
        except KeyError:
            raise HandshakeError(
                f"this host holds no certificate for {identity}", reason="no_credential"
            ) from None

    def server(self) -> ssl.SSLContext:
        """Give the context of the tunnel listener."""
        return self._listener

    def identity_of(self, server_name: str | None) -> str | None:
        """Give the identity whose certificate a peer got by asking for `server_name`."""
        return self._identities.get(server_name) if server_name else None

    def _client(self, credential: Credential) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The name is no DNS name; `peer_identity` compares the SPIFFE ID instead.
        context.check_hostname = False
        return self._prepare(context, credential)

    def _server(self, credential: Credential) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        return self._prepare(context, credential)

    def _prepare(self, context: ssl.SSLContext, credential: Credential) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self._roots)
        context.set_alpn_protocols([ALPN])
        _load_in_memory(context, credential)
        return context

    def _choose_certificate(
        self, connection: ssl.SSLObject | ssl.SSLSocket, server_name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        if server_name is None:
            return None
        chosen = self._servers.get(server_name)
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = chosen
        if isinstance(connection, NamedObject):
            connection.asked_name = server_name
        return None


def _load_in_memory(context: ssl.SSLContext, credential: Credential) -> None:
    # OpenSSL through Python loads keys from paths only; a memfd is a path that never touches a disk.
    descriptor = os.memfd_create("nodemesh-credential", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write((credential.key_pem + "\n" + credential.chain_pem).encode("ascii"))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


async def connect_tls(sock: socket.socket, context: ssl.SSLContext, *, server_name: str | None) -> TlsStream:
    """Do the client's handshake on a connected non-blocking socket.

    What the peer sent behind its handshake may be in the stream already: `TunnelConnection.start` looks.

    Raises:
        HandshakeError: TLS failed. The socket is closed, as it is on cancellation.
    """
    try:
        tls = TlsStream(sock, context, server_name=server_name)
    except ssl.SSLError as error:
        sock.close()
        raise handshake_error(error) from error
    except ValueError as error:
        # A trust domain may have labels that no server name may have (RFC 1035 section 2.3.4).
        sock.close()
        raise HandshakeError(f"a name that TLS cannot ask for: {error}", reason="server_name") from error
    return await _handshake(tls)


async def accept_tls(sock: socket.socket, context: ssl.SSLContext) -> TlsStream:
    """Do the server's handshake on an accepted non-blocking socket; errors as in `connect_tls`."""
    return await _handshake(TlsStream(sock, context, server_side=True))


async def _handshake(tls: TlsStream) -> TlsStream:
    try:
        scratch = memoryview(bytearray(HANDSHAKE_READ))
        while not await _shake(tls):
            await _receive(tls, scratch)
        _require_http2(tls)
    except OSError as error:
        tls.close()
        raise handshake_error(error) from error
    except BaseException:
        tls.close()
        raise
    return tls


async def _shake(tls: TlsStream) -> bool:
    try:
        done = tls.shake()
    except ssl.SSLError:
        # The alert tells the peer why; if it cannot be sent, the close must do.
        with suppress(OSError):
            tls.send(tls.take_output())
        raise
    output = tls.take_output()
    while output:
        if sent := tls.send(output):
            output = output[sent:]
        else:
            await trio.lowlevel.wait_writable(tls.fileno())
    return done


async def _receive(tls: TlsStream, scratch: memoryview) -> None:
    while True:
        try:
            tls.receive(scratch)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(tls.fileno())
        else:
            return


def _require_http2(tls: TlsStream) -> None:
    if tls.selected_alpn_protocol() != ALPN:
        raise HandshakeError("the peer does not speak HTTP/2 (ALPN h2)", reason="protocol")


def handshake_error(error: OSError) -> HandshakeError:
    """Say in our words why TLS failed; `ssl.SSLError` is an OSError."""
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return HandshakeError("the peer closed the connection during the handshake", reason="closed")
    text = str(error)
    reason = next((word for needle, word in _REASONS if needle in text), "tls")
    return HandshakeError(text, reason=reason)


def peer_identity(tls: TlsStream, *, trust_domain: str) -> Identity:
    """Give the one SPIFFE ID of the verified peer certificate.

    Raises:
        PeerIdentityError: none, several, malformed, or of another trust domain.
    """
    certificate = tls.getpeercert() or {}
    # The stubs cannot say that this entry is a tuple of (kind, value) pairs.
    names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    uris = [value for kind, value in names if kind == "URI"]
    expected = f"one SPIFFE ID in the trust domain {trust_domain}"
    if len(uris) != 1:
        raise PeerIdentityError(expected=expected, presented=", ".join(uris) or "none", reason="bad_identity")
    try:
        identity = parse_identity(uris[0])
    except InvalidIdentity as error:
        raise PeerIdentityError(expected=expected, presented=str(error), reason="bad_identity") from error
    if identity.trust_domain != trust_domain:
        raise PeerIdentityError(expected=expected, presented=str(identity), reason="trust_domain")
    return identity


def require_identity(tls: TlsStream, expected: str, *, trust_domain: str) -> None:
    """Check that the verified peer is `expected`, a SPIFFE ID.

    Raises:
        PeerIdentityError: it is somebody else, or nobody.
    """
    presented = str(peer_identity(tls, trust_domain=trust_domain))
    if presented != expected:
        raise PeerIdentityError(expected=expected, presented=presented, reason="peer_identity")
