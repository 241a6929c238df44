"""A small HBONE client of the tests' own, on h2: well-behaved on demand, and anything else too."""

import socket
import ssl
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.integration.workloads import CHUNK, PATIENCE

Header = tuple[bytes, bytes]


class Stream:
    """What has been seen of one stream."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.headers: dict[bytes, bytes] = {}
        self.data = bytearray()
        self.ended = False
        self.reset: int | None = None

    @property
    def status(self) -> int | None:
        """The answer's status, once it is there."""
        status = self.headers.get(b":status")
        return None if status is None else int(status)

    @property
    def reason(self) -> str:
        """The nodemesh-reason header, or nothing."""
        return self.headers.get(b"nodemesh-reason", b"").decode()


class TunnelClient:
    """One mTLS HTTP/2 connection to a tunnel's port."""

    def __init__(self, target: tuple[str, int], context: ssl.SSLContext, *, name: str | None = None) -> None:
        """Connect and shake hands.

        Raises:
            OSError: TLS failed already (TLS 1.3 servers refuse a client only after its handshake).
        """
        plain = socket.create_connection(target, timeout=PATIENCE)
        try:
            self.socket = context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        self.closed = False
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                # The tests send what no honest client would.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.h2.initiate_connection()
        self.flush()

    def close(self) -> None:
        """Close without a word."""
        self.socket.close()

    def __enter__(self) -> "TunnelClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, headers: list[Header], *, end_stream: bool = False) -> Stream:
        """Send HEADERS without waiting for an answer."""
        stream = Stream(self.h2.get_next_available_stream_id())
        self.streams[stream.stream_id] = stream
        self.h2.send_headers(stream.stream_id, headers, end_stream=end_stream)
        self.flush()
        return stream

    def connect(self, authority: str) -> Stream:
        """CONNECT to `authority` and wait for the answer."""
        stream = self.request([(b":method", b"CONNECT"), (b":authority", authority.encode())])
        self.pump(lambda: stream.status is not None or stream.reset is not None)
        return stream

    def exchange(self, stream: Stream, data: bytes) -> bytes:
        """Send `data` and wait until as many bytes have come back."""
        expected = len(stream.data) + len(data)
        self.h2.send_data(stream.stream_id, data)
        self.flush()
        self.pump(lambda: len(stream.data) >= expected or stream.ended or stream.reset is not None)
        return bytes(stream.data[expected - len(data) :])

    def flush(self) -> None:
        """Write what h2 has to say."""
        self.send_raw(self.h2.data_to_send())

    def send_raw(self, data: bytes) -> None:
        """Write bytes past h2; a peer that has ended the connection is noted, not raised."""
        try:
            self.socket.sendall(data)
        except (ConnectionError, ssl.SSLError):
            self.closed = True

    def pump(self, done: Callable[[], bool]) -> None:
        """Take what the peer sends until `done` or it closes.

        Raises:
            TimeoutError: neither happened in time.
        """
        while not done() and not self.closed:
            try:
                data = self.socket.recv(CHUNK)
            except (ConnectionError, ssl.SSLError):
                data = b""
            self._take(data)

    def wait_closed(self) -> None:
        """Wait for the peer to end the connection."""
        self.pump(lambda: False)

    def _take(self, data: bytes) -> None:
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived(stream_id=stream_id, headers=headers):
                    self._stream(stream_id).headers = dict(headers or ())
                case h2.events.DataReceived(stream_id=stream_id, data=payload):
                    self._stream(stream_id).data += payload or b""
                    if event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id or 0)
                case h2.events.StreamEnded(stream_id=stream_id):
                    self._stream(stream_id).ended = True
                case h2.events.StreamReset(stream_id=stream_id, error_code=code):
                    self._stream(stream_id).reset = int(code or 0)
                case h2.events.ConnectionTerminated(error_code=code):
                    self.goaway = int(code or 0)
                case _:
                    pass
        if self.goaway is None:
            self.flush()

    def _stream(self, stream_id: int | None) -> Stream:
        assert stream_id is not None
        return self.streams[stream_id]
