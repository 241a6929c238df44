"""TLS of tunnels: contexts from credentials, handshakes on trio, and who the peer proved to be.

TLS 1.3 only, both sides authenticated, ALPN ``h2``. A certificate is accepted when OpenSSL verifies
its chain to one of the roots known and `peer.PeerTrust` finds nothing against it; so every handshake ends
with a call of `TlsContexts.peer` or `TlsContexts.require`. No session tickets: a resumed session would skip
the check of the client's certificate.
"""

import copy
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import msgspec
import trio
from cryptography import x509

from node_proxy.control import Credential, CredentialsUpdate
from node_proxy.errors import HandshakeError, PeerIdentityError
from node_proxy.tunnel.http2 import Role, refusal
from node_proxy.tunnel.peer import Objection, Peer, PeerTrust
from node_proxy.tunnel.tls_stream import NamedObject, TlsStream

ALPN = "h2"
# X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h), which Python does not name. OpenSSL would refuse an expired
# certificate without telling anybody its dates; `PeerTrust` looks at them instead.
_NO_CHECK_TIME = 0x200000
# What one read of a handshake may bring: a flight with a chain of three certificates is some 3 KiB.
HANDSHAKE_READ = 16 * 1024
# A peer that is refused has this many seconds, and so many reads to send, until it sees that it is.
LAST_WORDS = 0.5
MOST_IGNORED = 16

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
    """The contexts of one set of credentials, one per identity and side; to rotate, make a new set.

    Args:
        update: what the agent said.
        trust_domain: ours.
        now: the wall clock, in UTC.
    """

    def __init__(self, update: CredentialsUpdate, *, trust_domain: str, now: Callable[[], datetime]) -> None:
        self._trust_domain = trust_domain
        self._now = now
        self._update = update
        self._trust = self._trust_of(update)
        self._roots = update.roots_pem + "".join(
            pem for domain in update.federated for pem in domain.roots_pem
        )
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

    def after(self, update: CredentialsUpdate) -> "TlsContexts":
        """Give the contexts of the next update: these with other revocations, if nothing else has changed."""
        if not self.differ(update):
            others = copy.copy(self)
            others._update = update  # noqa: SLF001 - a copy of our own
            others._trust = self._trust_of(update)  # noqa: SLF001
            return others
        return TlsContexts(update, trust_domain=self._trust_domain, now=self._now)

    def differ(self, update: CredentialsUpdate) -> bool:
        """Whether `update` changes what handshakes show or which roots they trust."""
        before = self._update
        same = msgspec.structs.replace(update, revocations=before.revocations, generation=before.generation)
        return same != before

    def peer(self, tls: TlsStream) -> Peer:
        """Give whom the handshake has proved the other end to be.

        Raises:
            HandshakeError, PeerIdentityError: it may not be our peer; says why.
        """
        return self._trust.judge(_verified_chain(tls), client=tls.server_side, now=self._now())

    def require(self, tls: TlsStream, expected: str) -> Peer:
        """Give the peer if it is `expected`, a SPIFFE ID.

        Raises:
            HandshakeError, PeerIdentityError: it is somebody else, or may not be our peer at all.
        """
        peer = self.peer(tls)
        if str(peer.identity) != expected:
            raise PeerIdentityError(expected=expected, presented=str(peer.identity), reason="peer_identity")
        return peer

    @property
    def generation(self) -> int:
        """The number of the update that these come from."""
        return self._update.generation

    def objection(self, peer: Peer) -> Objection | None:
        """Say why a peer that was accepted before may not stay; None when it may."""
        return self._trust.objection(peer)

    def _trust_of(self, update: CredentialsUpdate) -> PeerTrust:
        return PeerTrust(
            trust_domain=self._trust_domain,
            roots_pem=update.roots_pem,
            federated=update.federated,
            revocations=update.revocations,
        )

    def _client(self, credential: Credential) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The name is no DNS name; `require` compares the SPIFFE ID instead.
        context.check_hostname = False
        return self._prepare(context, credential)

    def _server(self, credential: Credential) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        return self._prepare(context, credential)

    def _prepare(self, context: ssl.SSLContext, credential: Credential) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT | _NO_CHECK_TIME
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
    await shake_hands(tls)
    try:
        _require_http2(tls)
    except HandshakeError:
        tls.close()
        raise
    return tls


async def shake_hands(tls: TlsStream) -> None:
    """Do a handshake, for whatever is spoken behind it.

    Raises:
        HandshakeError: TLS failed. The socket is closed, as it is on cancellation.
    """
    try:
        scratch = memoryview(bytearray(HANDSHAKE_READ))
        while not await _shake(tls):
            await _receive(tls, scratch)
    except OSError as error:
        tls.close()
        raise handshake_error(error) from error
    except BaseException:
        tls.close()
        raise


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


async def refuse(tls: TlsStream, error: HandshakeError | PeerIdentityError) -> None:
    """Close after a handshake whose peer may not be ours, having told it why.

    Under TLS 1.3 a client has finished before its certificate is looked at: it would only see us leave.
    Takes `LAST_WORDS` at most; cancellation closes at once.
    """
    role = Role.SERVER if tls.server_side else Role.CLIENT
    try:
        with suppress(OSError), trio.move_on_after(LAST_WORDS):
            tls.send(tls.encrypt(memoryview(refusal(role, f"{error.reason}: {error}"))))
            # Closing over what the peer has sent would be a reset, which may overtake what was just said.
            tls.end_writing()
            scratch = memoryview(bytearray(HANDSHAKE_READ))
            for _ in range(MOST_IGNORED):
                await trio.lowlevel.wait_readable(tls.fileno())
                if not tls.receive(scratch):
                    break
    finally:
        tls.close()


def _verified_chain(tls: TlsStream) -> list[x509.Certificate]:
    """Give the peer's chain as OpenSSL verified it, from the leaf to the root.

    Raises:
        HandshakeError: the peer has shown no certificate.
    """
    found = tls.verified_chain()
    if not found:
        raise HandshakeError("the peer has shown no certificate", reason="no_certificate")
    try:
        return [x509.load_der_x509_certificate(each) for each in found]
    except ValueError as error:
        raise HandshakeError(
            f"the peer's certificate is malformed: {error}", reason="bad_certificate"
        ) from error
