"""The driver of one tunnel: moves bytes between its TLS socket, its protocol and its streams' handlers.

It never awaits: a poller calls `on_ready` when the socket is ready, streams' handlers are called
inline, and everything they order is written before the call returns, or queued when the socket is full.
Only `keep_alive` is a task, one for each tunnel.
"""

import select
import ssl
from collections import deque
from collections.abc import Callable, Sequence

import trio

from node_proxy.errors import HandshakeError, NodeProxyError, RemoteProtocolError, TunnelClosed
from node_proxy.tunnel.events import (
    DataReceived,
    Established,
    Event,
    PeerDraining,
    PingAcknowledged,
    RequestRejected,
    StreamAccepted,
    StreamEnded,
    StreamRefused,
    StreamRequested,
    StreamReset,
    WindowOpened,
)
from node_proxy.tunnel.frames import FRAME_HEADER
from node_proxy.tunnel.handlers import TUNNEL_CLOSED, Poller, StreamHandler
from node_proxy.tunnel.http2 import MAX_FRAME_SIZE, REFUSED_STREAM, Role
from node_proxy.tunnel.meter import Meter
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.tls import handshake_error
from node_proxy.tunnel.tls_stream import TlsStream

# Of the shared buffer: payload, the beginning of one largest frame and as much again behind it;
PLAIN_SIZE = 2 * MAX_FRAME_SIZE
# and records as read from the socket. Larger reads gain nothing, and OpenSSL keeps as much for each tunnel.
CIPHER_SIZE = 128 * 1024
BUFFER_SIZE = PLAIN_SIZE + CIPHER_SIZE
# Streams stop reading from their workloads above this and go on below half of it.
WRITE_QUEUE_LIMIT = 1024 * 1024
# Answers to a peer that sends and never reads; only control frames can exceed the limit above.
WRITE_QUEUE_FATAL = 4 * WRITE_QUEUE_LIMIT
# RFC 8446 section 5.1: a TLS record carries at most this.
LARGEST_RECORD = 16 * 1024
# Frames up to this are put together until the turn's end: many streams' small answers in one record and one
# system call. Larger ones are worth a call of their own, and a copy would cost more than that.
GATHERED_FRAME = 4 * 1024
# One tunnel may not starve the others of its worker: this many reads, then it is their turn.
READS_PER_TURN = 2
# Finds a dead host in 10 s + 5 s at the latest; cheap enough for thousands of tunnels.
PING_INTERVAL = 10.0
PING_TIMEOUT = 5.0
# Bytes a second from which a tunnel is better left to those who are in it: a quarter of a gigabit link.
BUSY_RATE = 32 * 1024 * 1024


class TunnelConnection:
    """One established tunnel, which begins to live with `start`.

    Args:
        tls: a TLS connection after its handshake; owned from now on.
        protocol: our end of it.
        poller: calls us when the socket is ready.
        buffer: at least BUFFER_SIZE bytes, shared by all tunnels of a worker, since each call of `on_ready`
            has used them up or copied them when it returns.
        clock: seconds, monotonic.
        on_request: called for each CONNECT of the peer; server side only.
    """

    def __init__(
        self,
        tls: TlsStream,
        protocol: TunnelProtocol,
        *,
        poller: Poller,
        buffer: bytearray,
        clock: Callable[[], float],
        on_request: Callable[["TunnelConnection", StreamRequested], None] | None = None,
        on_rejected: Callable[["TunnelConnection", RequestRejected], None] | None = None,
    ) -> None:
        self.protocol = protocol
        self.closed: NodeProxyError | None = None
        self._told_why = ""
        self._established = trio.Event()
        self.ended = trio.Event()
        self.last_used = clock()
        self._tls = tls
        self._fd = tls.fileno()
        self._poller = poller
        self._plain = memoryview(buffer)[:PLAIN_SIZE]
        self._cipher = memoryview(buffer)[PLAIN_SIZE:BUFFER_SIZE]
        self._clock = clock
        self._on_request = on_request
        self._on_rejected = on_rejected
        self._handlers: dict[int, StreamHandler] = {}
        self._waiting: dict[int, StreamHandler] = {}
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._rest = b""
        self._gathered = bytearray()
        self._turn_end_asked = False
        # Whether to close as soon as no stream is left.
        self._leaving = False
        self._failure: OSError | None = None
        self._last_received = self._began = clock()
        self._meter = Meter(self._began)
        self._mask = select.EPOLLIN

    def start(self) -> None:
        """Let the poller watch the socket, say hello, and take what came with the handshake's last bytes."""
        try:
            self._poller.register(self._fd, self._mask, self)
        except OSError:
            # No memory for one more watch: nobody else will close the socket.
            self._tls.close()
            raise
        self._send_control()
        if self.closed is None:
            self._decrypt()

    # What streams' handlers call.

    @property
    def congested(self) -> bool:
        """Whether the peer's socket is so far behind that reading more for it would only fill memory."""
        return self._queued > WRITE_QUEUE_LIMIT

    @property
    def busy(self) -> bool:
        """Whether a flow fills the tunnel, so that a new stream would have to share with it."""
        return self.congested or self._meter.rate(self._clock()) >= BUSY_RATE

    @property
    def has_capacity(self) -> bool:
        """Whether `open_stream` would succeed."""
        return self.closed is None and self.protocol.has_capacity

    def open_stream(
        self, authority: str, handler: StreamHandler, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> int:
        """Ask the peer to connect to `authority`; the answer comes to `handler`. Needs `has_capacity`."""
        stream_id = self.protocol.open_stream(authority, headers)
        self._handlers[stream_id] = handler
        self.last_used = self._clock()
        self._send_control()
        return stream_id

    def accept_stream(self, stream_id: int) -> None:
        """Answer the peer's CONNECT with 200; payload may flow."""
        self.protocol.accept_stream(stream_id)
        self._send_control()

    def set_handler(self, stream_id: int, handler: StreamHandler) -> None:
        """Let `handler` hear of an open stream from now on."""
        self._handlers[stream_id] = handler

    def refuse_stream(self, stream_id: int, status: int, reason: str) -> None:
        """Answer the peer's CONNECT with an error status."""
        self._handlers.pop(stream_id, None)
        self.protocol.refuse_stream(stream_id, status, reason)
        self._send_control()

    def sendable(self, stream_id: int) -> int:
        """How many payload bytes may be sent at once now; 0 when the peer or its socket must catch up."""
        if self.closed or self.congested:
            return 0
        return self.protocol.sendable(stream_id)

    def send_payload(self, stream_id: int, buffer: bytearray, length: int) -> None:
        """Send `length` bytes that lie in `buffer` behind room for a frame header. Needs `sendable`."""
        self.protocol.write_data_header(buffer, stream_id, length)
        self._send(memoryview(buffer)[: FRAME_HEADER + length])

    def wait_writable(self, stream_id: int, handler: StreamHandler) -> None:
        """Ask for one `on_writable` when sending may go on."""
        self._waiting[stream_id] = handler

    def delivered(self, stream_id: int, amount: int, *, prompt: bool) -> None:
        """Say that the reader took `amount` bytes, so that the peer may send more."""
        self.protocol.delivered(stream_id, amount, prompt=prompt)
        self._send_control()

    def end_stream(self, stream_id: int) -> None:
        """Send END_STREAM."""
        self.protocol.end_stream(stream_id)
        self._send_control()

    def reset_stream(self, stream_id: int, code: int) -> None:
        """End the stream both ways; its handler hears nothing more."""
        self.forget_stream(stream_id)
        self.protocol.reset_stream(stream_id, code)
        self._send_control()

    def forget_stream(self, stream_id: int) -> None:
        """Let go of a finished stream's handler."""
        self._handlers.pop(stream_id, None)
        self._waiting.pop(stream_id, None)
        self.last_used = self._clock()
        if self._leaving:
            # The last stream may be ending: then nothing keeps a drained tunnel.
            self._ask_turn_end()

    # Lifetime.

    async def wait_established(self) -> None:
        """Wait for the peer's SETTINGS: under TLS 1.3 only they show that it accepted our certificate.

        Raises:
            HandshakeError: it did not, or closed for another reason, or allows no stream at all.
        """
        async with trio.open_nursery() as nursery:
            for event in (self._established, self.ended):
                nursery.start_soon(_cancel_when, event, nursery.cancel_scope)
        if self._told_why and (self.closed is not None or not self.has_capacity):
            raise HandshakeError(f"the peer refuses the tunnel: {self._told_why}", reason="refused")
        if isinstance(self.closed, RemoteProtocolError):
            raise HandshakeError(str(self.closed), reason="protocol")
        if self.closed is not None:
            raise handshake_error(self._failure or ConnectionError())
        if not self.has_capacity:
            raise HandshakeError("the peer allows no stream", reason="protocol")

    def drain(self) -> None:
        """Send GOAWAY; streams that are open go on. Draining twice is harmless."""
        self._leave()
        self.protocol.drain()
        self._send_control()

    def _leave(self) -> None:
        # A server waits a while: streams that its client opens meanwhile are refused, not lost.
        self._leaving = self.protocol.role is Role.CLIENT

    def close(self, cause: NodeProxyError) -> None:
        """Close now; every stream's handler hears `on_reset`. Closing twice is harmless.

        When a handler raises, closing again tells the handlers that are left.
        """
        if self.closed is None and self._failure is None:
            # A GOAWAY or a refusal that was put off; if it cannot be sent, that closes us with another cause.
            self._send_gathered()
        if self.closed is None:
            self.closed = cause
            self._poller.unregister(self._fd)
            self._tls.close()
            self.protocol.close()
            self._waiting.clear()
            self._queue.clear()
            self.ended.set()
        while self._handlers:
            _, handler = self._handlers.popitem()
            handler.on_reset(TUNNEL_CLOSED)

    async def keep_alive(self, *, idle_timeout: float | None = None, max_age: float | None = None) -> None:
        """Ping a silent peer and close when it does not answer, or when no stream used the tunnel for long.

        After `max_age` seconds the tunnel drains: no more streams, and it closes when the last has ended.
        Returns when the tunnel is closed. Cancellation closes it.
        """
        try:
            while self.closed is None:
                with trio.move_on_after(PING_INTERVAL):
                    await self.ended.wait()
                    return
                if max_age is not None and self._clock() - self._began >= max_age:
                    self.drain()
                self._close_if_spent(idle_timeout)
                if self.closed is None and self._clock() - self._last_received >= PING_INTERVAL:
                    await self._probe()
        finally:
            self.close(TunnelClosed("the tunnel's owner ended"))

    def _close_if_spent(self, idle_timeout: float | None) -> None:
        if self.protocol.open_streams:
            return
        idle = self._clock() - self.last_used
        if self.protocol.draining or (idle_timeout is not None and idle >= idle_timeout):
            self.close(TunnelClosed("drained" if self.protocol.draining else f"idle for {idle:.0f} s"))

    async def _probe(self) -> None:
        asked = self._clock()
        self.protocol.ping()
        self._send_control()
        with trio.move_on_after(PING_TIMEOUT):
            await self.ended.wait()
        if self._last_received < asked:
            self.close(TunnelClosed(f"the peer did not answer a PING within {PING_TIMEOUT:.0f} s"))

    # What the poller calls.

    def on_ready(self, events: int) -> None:
        """Handle readiness of the TLS socket."""
        if events & select.EPOLLOUT:
            self._flush()
        if self.closed is None and events & ~select.EPOLLOUT:
            self._read()

    def on_crash(self, error: Exception) -> None:
        """Close after a bug in a handler."""
        self.close(TunnelClosed(f"internal error: {error!r}"))

    def _read(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                count = self._tls.receive(self._cipher)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(error)
                return
            if count == 0:
                told = f" and says: {self._told_why}" if self._told_why else ""
                self.close(TunnelClosed(f"the peer closed the connection{told}"))
                return
            self._decrypt()
            if self.closed or count < CIPHER_SIZE:
                return

    def _decrypt(self) -> None:
        """Decrypt every record that is there, then handle them together: frames span records."""
        plain, tls = self._plain, self._tls
        end = len(self._rest)
        plain[:end] = self._rest
        failure: OSError | None = None
        # Asking in vain would cost an exception for every small message.
        while tls.pending:
            if PLAIN_SIZE - end < LARGEST_RECORD:
                end = self._receive(end)
            if self.closed:
                return
            try:
                count = tls.read_into(plain[end:])
            except ssl.SSLWantReadError:
                break
            except OSError as error:
                failure = error
                break
            if count == 0:
                failure = ssl.SSLEOFError("the peer ended TLS")
                break
            end += count
        self._rest = bytes(plain[: self._receive(end)])
        if output := self._tls.take_output():
            self._write(output)
        if failure is not None:
            self._fail(failure)

    def _receive(self, end: int) -> int:
        """Handle the buffer's first `end` bytes; gives how many are left, moved to its beginning."""
        now = self._last_received = self._clock()
        try:
            events, used = self.protocol.receive(self._plain[:end], now)
        except RemoteProtocolError as error:
            self._send_control()
            self.close(error)
            return 0
        for event in events:
            if self.closed:
                return 0
            self._dispatch(event)
        self._meter.moved += used
        self._meter.rate(now)
        left = end - used
        self._plain[:left] = self._plain[used:end]
        self._send_control()
        return left

    def _dispatch(self, event: Event) -> None:
        match event:
            case DataReceived(stream_id, data):
                if handler := self._handlers.get(stream_id):
                    handler.on_data(data)
            case WindowOpened(0):
                self._resume()
            case WindowOpened(stream_id):
                if handler := self._waiting.pop(stream_id, None):
                    handler.on_writable()
            case StreamRequested():
                if self._on_request:
                    self._on_request(self, event)
            case RequestRejected():
                if self._on_rejected:
                    self._on_rejected(self, event)
            case StreamAccepted(stream_id):
                if handler := self._handlers.get(stream_id):
                    handler.on_accepted()
            case StreamRefused(stream_id, status, reason):
                if handler := self._handlers.pop(stream_id, None):
                    handler.on_refused(status, reason)
            case StreamEnded(stream_id):
                if handler := self._handlers.get(stream_id):
                    handler.on_ended()
            case StreamReset(stream_id, code):
                self._waiting.pop(stream_id, None)
                if handler := self._handlers.pop(stream_id, None):
                    handler.on_reset(code)
            case Established():
                self._established.set()
            case PeerDraining(last_stream_id, why=why):
                self._told_why = why
                self._leave()
                self._give_up_unseen(last_stream_id)
            case PingAcknowledged():
                pass

    def _give_up_unseen(self, last_stream_id: int) -> None:
        """Treat streams above `last_stream_id` as refused: the peer never looked at them (RFC 9113 6.8)."""
        if self.protocol.role is Role.SERVER:
            # The peer speaks of streams that we opened, and a server opens none.
            return
        for stream_id in [known for known in self._handlers if known > last_stream_id]:
            handler = self._handlers.pop(stream_id)
            self.protocol.reset_stream(stream_id)
            handler.on_reset(REFUSED_STREAM)

    def _resume(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for stream_id, handler in waiting.items():
            if self.sendable(stream_id):
                handler.on_writable()
            else:
                self._waiting[stream_id] = handler

    # Writing.

    def _send_control(self) -> None:
        if output := self.protocol.take_output():
            self._send(memoryview(output))

    def _send(self, data: memoryview) -> None:
        if self.closed:
            return
        if len(data) > GATHERED_FRAME:
            self._send_gathered()
            self._transmit(data)
            return
        self._gathered += data
        if len(self._gathered) > LARGEST_RECORD - GATHERED_FRAME:
            self._send_gathered()
        else:
            self._ask_turn_end()

    def _ask_turn_end(self) -> None:
        if not self._turn_end_asked:
            self._turn_end_asked = True
            self._poller.at_turn_end(self)

    def on_turn_end(self) -> None:
        """Send what small frames the turn has brought together, as one TLS record."""
        self._turn_end_asked = False
        self._send_gathered()
        if self._leaving and self.closed is None:
            self._close_if_spent(None)

    def _send_gathered(self) -> None:
        if self._gathered:
            gathered = bytes(self._gathered)
            self._gathered.clear()
            self._transmit(memoryview(gathered))

    def _transmit(self, data: memoryview) -> None:
        if self.closed:
            return
        try:
            records = self._tls.encrypt(data)
        except OSError as error:
            self._fail(error)
        else:
            self._meter.moved += len(data)
            self._write(records)

    def _write(self, records: bytes) -> None:
        if self.closed:
            return
        sent = 0
        if not self._queue:
            sent = self._send_now(records)
            if self.closed or sent == len(records):
                return
        self._queue.append(records[sent:])
        self._queued += len(records) - sent
        if self._queued > WRITE_QUEUE_FATAL:
            self.close(TunnelClosed("the peer reads nothing of what it asks for"))
        elif not self._mask & select.EPOLLOUT:
            self._set_mask(select.EPOLLIN | select.EPOLLOUT)

    def _send_now(self, records: bytes) -> int:
        try:
            return self._tls.send(records)
        except OSError as error:
            self._fail(self._last_words() or error)
            return 0

    def _last_words(self) -> ssl.SSLError | None:
        """Give the TLS alert that the peer sent before it closed; a failed write would hide it."""
        try:
            self._tls.receive(self._cipher)
            self._tls.read_into(memoryview(bytearray(1)))
        except (ssl.SSLWantReadError, ssl.SSLEOFError):
            return None
        except ssl.SSLError as alert:
            return alert
        except OSError:
            return None
        return None

    def _fail(self, error: OSError) -> None:
        self._failure = error
        self.close(TunnelClosed(f"the peer's connection failed: {error}"))

    def _flush(self) -> None:
        while self._queue and self.closed is None:
            head = self._queue[0]
            sent = self._send_now(head)
            if self.closed or sent == 0:
                break
            self._queued -= sent
            if sent < len(head):
                self._queue[0] = head[sent:]
            else:
                self._queue.popleft()
        if self.closed:
            return
        if not self._queue:
            self._set_mask(select.EPOLLIN)
        if self._queued < WRITE_QUEUE_LIMIT // 2:
            self._resume()

    def _set_mask(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._poller.modify(self._fd, mask)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
