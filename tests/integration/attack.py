"""Frames by hand over a good tunnel: what a peer sends that means harm or is badly broken."""

import select
import ssl
import struct
import time
from collections.abc import Callable

from tests.integration.hbone import TunnelClient
from tests.integration.workloads import CHUNK, PATIENCE

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_HEADERS = 4
ACK = 1

_HEADER = struct.Struct(">IBI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Give one HTTP/2 frame (RFC 9113 section 4.1)."""
    return _HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def connect_block(authority: str) -> bytes:
    """Give the header block of a CONNECT as literals without indexing (RFC 7541 section 6.2.2)."""
    value = authority.encode()
    # 2 is `:method` and 1 is `:authority` in the static table.
    return b"\x02\x07CONNECT\x01" + bytes([len(value)]) + value


class Attack:
    """Takes over a client's TLS socket: writes as fast as it may, reads what comes, remembers the end.

    One thread does both, since an SSL connection must not be read and written at the same time.
    """

    def __init__(self, client: TunnelClient) -> None:
        self.goaway: int | None = None
        self.resets = 0
        self.ended = False
        self._buffer = bytearray()
        self._socket = client.socket
        self._socket.setblocking(False)

    def push(self, data: bytes) -> None:
        """Send all of `data`, unless the peer ends the connection before."""
        view = memoryview(data)
        deadline = time.monotonic() + PATIENCE
        while view and not self.ended:
            try:
                view = view[self._socket.send(view) :]
            except ssl.SSLWantWriteError:
                self._read_available()
                select.select([self._socket], [self._socket], [], 0.1)
                assert time.monotonic() < deadline, "the worker neither reads nor ends the tunnel"
            except (ssl.SSLError, ConnectionError):
                self.ended = True
        self._read_available()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Read until `condition`."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            select.select([self._socket], [], [], 0.1)
            self._read_available()
            assert time.monotonic() < deadline, "the worker did not end the tunnel"

    def _read_available(self) -> None:
        while not self.ended:
            try:
                data = self._socket.recv(CHUNK)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except (ssl.SSLError, ConnectionError):
                data = b""
            if not data:
                self.ended = True
            self._buffer += data
        self._take_frames()

    def _take_frames(self) -> None:
        while len(self._buffer) >= _HEADER.size:
            length_and_kind, _, _ = _HEADER.unpack_from(self._buffer)
            end = _HEADER.size + (length_and_kind >> 8)
            if len(self._buffer) < end:
                return
            match length_and_kind & 0xFF:
                case 0x3:
                    self.resets += 1
                case 0x7:
                    # After the last stream id comes the error code (RFC 9113 section 6.8).
                    (self.goaway,) = struct.unpack_from(">I", self._buffer, _HEADER.size + 4)
            del self._buffer[:end]
