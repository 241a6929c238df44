"""Relay between a caller's socket and a TLS connection that the proxy speaks on its behalf.

Each direction ends by itself: a caller's end becomes close_notify, the server's close_notify the end of what
the caller reads. A server that leaves without one may have been cut off, and so is the caller: with a reset.
"""

import select
import socket
import ssl
from collections.abc import Callable

from node_proxy.dataplane.socket_side import BROKEN, SocketSide
from node_proxy.dataplane.telemetry import Traffic
from node_proxy.tunnel.handlers import Poller
from node_proxy.tunnel.tls_stream import TlsStream

# One read from the caller: four full records.
READ_SIZE = 64 * 1024


class TlsRelay:
    """Moves bytes between a caller and a TLS server until both directions have ended.

    Args:
        caller: the caller's socket; `Traffic.sent` counts its bytes.
        tls: shaken hands; what was received behind the handshake is still in it.
        plain: shared by all relays of a worker: plaintext, both ways.
        cipher: shared likewise: what was read from servers.
        on_closed: called once with an outcome: ``done``, or why it was cut.
    """

    def __init__(
        self,
        caller: socket.socket,
        tls: TlsStream,
        *,
        poller: Poller,
        plain: bytearray,
        cipher: bytearray,
        on_closed: Callable[["TlsRelay", str], None],
    ) -> None:
        self.traffic = Traffic()
        self.closed = False
        self._caller = SocketSide(caller, poller)
        self._tls = tls
        self._poller = poller
        self._plain = memoryview(plain)
        self._cipher = memoryview(cipher)[:READ_SIZE]
        self._on_closed = on_closed
        self._server = _Server(self)
        self._server_mask = 0
        # What the server's socket would not take yet.
        self._unsent = bytearray()
        self._caller_ended = False
        self._server_ended = False

    def start(self) -> None:
        """Begin."""
        self._server_mask = select.EPOLLIN
        self._poller.register(self._tls.fileno(), self._server_mask, self._server)
        self._caller.start(self, reading=True)
        try:
            self._decrypt()
        except OSError as error:
            self._break(error)

    def cut(self, outcome: str) -> None:
        """End both sides at once with a reset."""
        self._close(outcome, abort=True)

    # The caller's socket.

    def on_ready(self, events: int) -> None:
        """Handle readiness of the caller's socket."""
        if events & BROKEN and not self._reads_caller:
            self._close("the caller's connection broke", abort=True)
            return
        try:
            if events & select.EPOLLOUT:
                self._flush_caller()
            if events & ~select.EPOLLOUT and not self.closed and self._reads_caller:
                self._read_caller()
        except OSError as error:
            self._break(error)

    def on_crash(self, error: Exception) -> None:
        """Give up after a bug."""
        self.cut(f"internal error: {error!r}")

    @property
    def _reads_caller(self) -> bool:
        return not (self._caller_ended or self._unsent)

    def _read_caller(self) -> None:
        view = self._plain[:READ_SIZE]
        try:
            count = self._caller.read_into(view)
        except BlockingIOError:
            return
        if count:
            self.traffic.sent += count
            self._send(self._tls.encrypt(view[:count]))
        else:
            self._caller_ended = True
            self._send(self._tls.end_records())
        self._watch()
        self._close_if_done()

    def _flush_caller(self) -> None:
        self._caller.flush()
        if not self._caller.has_pending:
            if self._server_ended:
                self._caller.end_writing()
            self._watch()
            self._close_if_done()

    # The server's socket.

    def on_server_ready(self, events: int) -> None:
        """Handle readiness of the server's socket."""
        if events & BROKEN and not self._reads_server:
            self._close("the server's connection broke", abort=True)
            return
        try:
            if events & select.EPOLLOUT:
                self._send(b"")
                self._watch()
                self._close_if_done()
            if events & ~select.EPOLLOUT and not self.closed and self._reads_server:
                count = self._tls.receive(self._cipher)
                self._decrypt(at_end=count == 0)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(error)

    @property
    def _reads_server(self) -> bool:
        return not (self._server_ended or self._caller.has_pending)

    def _decrypt(self, *, at_end: bool = False) -> None:
        """Hand the caller all that was received; what it does not take yet is at most one read's."""
        # Asking in vain would cost an exception each time. At the end OpenSSL says whether it was announced.
        while (self._tls.pending or at_end) and not self._server_ended:
            try:
                count = self._tls.read_into(self._plain)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                count = 0
            if count:
                self.traffic.received += count
                self._caller.write(self._plain[:count])
            else:
                self._server_ended = True
                if not self._caller.has_pending:
                    self._caller.end_writing()
        if output := self._tls.take_output():
            self._send(output)
        self._watch()
        self._close_if_done()

    def _send(self, records: bytes) -> None:
        """Send records behind what waits already."""
        if self._unsent or not records:
            self._unsent += records
            with memoryview(self._unsent) as waiting:
                sent = self._tls.send(waiting) if waiting else 0
            del self._unsent[:sent]
        elif (sent := self._tls.send(records)) < len(records):
            self._unsent += memoryview(records)[sent:]

    # Both.

    def _watch(self) -> None:
        if self.closed:
            return
        self._caller.watch(reading=self._reads_caller, paused=not (self._reads_caller or self._caller_ended))
        mask = (select.EPOLLIN if self._reads_server else 0) | (select.EPOLLOUT if self._unsent else 0)
        # Without either it is not watched: a hang-up would be reported again and again until it may be read.
        if mask != self._server_mask:
            if not self._server_mask:
                self._poller.register(self._tls.fileno(), mask, self._server)
            elif not mask:
                self._poller.unregister(self._tls.fileno())
            else:
                self._poller.modify(self._tls.fileno(), mask)
            self._server_mask = mask

    def _close_if_done(self) -> None:
        if self._caller_ended and self._server_ended and not self._caller.has_pending and not self._unsent:
            self._close("done")

    def _break(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLEOFError):
            self._close("the server left without ending TLS", abort=True)
        else:
            self._close(f"a connection broke: {error}", abort=True)

    def _close(self, outcome: str, *, abort: bool = False) -> None:
        if self.closed:
            return
        self.closed = True
        if self._server_mask:
            self._poller.unregister(self._tls.fileno())
        self._caller.close(abort=abort)
        self._tls.close()
        self._on_closed(self, outcome)
        # They hold each other: only the garbage collector could free them.
        self._server.part()


class _Server:
    """The relay as the server's socket calls it."""

    def __init__(self, relay: TlsRelay) -> None:
        self._relay = relay

    def on_ready(self, events: int) -> None:
        """Pass it on."""
        self._relay.on_server_ready(events)

    def on_crash(self, error: Exception) -> None:
        """Give up after a bug."""
        self._relay.on_crash(error)

    def part(self) -> None:
        """Let go of the relay; nothing is called after this."""
        del self._relay
