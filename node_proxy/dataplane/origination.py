"""TLS that the proxy speaks for its callers: contexts, kept for as long as the host's roots may be."""

import socket
import ssl
from collections.abc import Callable

import trio

from node_proxy.dataplane.external_table import Origination
from node_proxy.errors import HandshakeError
from node_proxy.tunnel.tls import handshake_error, shake_hands
from node_proxy.tunnel.tls_stream import TlsStream

# The host's roots are updated now and then, and those who trust them should follow.
CONTEXT_LIFE = 3600.0
# Each holds some 150 roots, 1 MB; more different ones than these are made anew each time.
MOST_CONTEXTS = 32


class Originator:
    """Shakes hands with servers outside the mesh.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._contexts: dict[tuple[str, tuple[str, ...]], tuple[float, ssl.SSLContext]] = {}

    async def shake_hands(self, sock: socket.socket, wanted: Origination) -> TlsStream:
        """Speak TLS on a connected socket, which is the stream's from now on.

        Raises:
            HandshakeError: TLS failed. The socket is closed, as it is on cancellation.
        """
        try:
            context = await self._context(wanted)
            tls = TlsStream(sock, context, server_name=wanted.server_name)
        except (ssl.SSLError, ValueError) as error:
            sock.close()
            raise _explain(error) from error
        except BaseException:
            sock.close()
            raise
        await shake_hands(tls)
        return tls

    async def _context(self, wanted: Origination) -> ssl.SSLContext:
        key = (wanted.roots_pem, wanted.alpn)
        made, context = self._contexts.get(key, (0.0, None))
        if context is None or self._clock() - made > CONTEXT_LIFE:
            # Reading the host's roots takes some 20 ms.
            context = await trio.to_thread.run_sync(_make, wanted)
            if len(self._contexts) >= MOST_CONTEXTS:
                self._contexts.clear()
            self._contexts[key] = (self._clock(), context)
        return context


def _make(wanted: Origination) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=wanted.roots_pem or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if wanted.alpn:
        context.set_alpn_protocols(list(wanted.alpn))
    return context


def _explain(error: ssl.SSLError | ValueError) -> HandshakeError:
    if isinstance(error, ssl.SSLError):
        return handshake_error(error)
    return HandshakeError(f"the roots or the name cannot be used: {error}", reason="server_name")
