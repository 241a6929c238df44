"""Frames as another peer might send them, and whether they end a connection."""

import hpack
import hyperframe.frame

from node_proxy.errors import RemoteProtocolError
from tests.fakes.link import AUTHORITY, End

# RFC 9113 section 7.
PROTOCOL_ERROR = 1
FLOW_CONTROL_ERROR = 3
STREAM_CLOSED = 5
FRAME_SIZE_ERROR = 6
ENHANCE_YOUR_CALM = 11

PING = hyperframe.frame.PingFrame(0, b"12345678").serialize()


def request_headers() -> bytes:
    """Give the header block of a CONNECT."""
    return bytes(hpack.Encoder().encode([(":method", "CONNECT"), (":authority", AUTHORITY)], huffman=False))


def connect(stream_id: int, *flags: str) -> bytes:
    """Give the HEADERS frame of a CONNECT."""
    frame = hyperframe.frame.HeadersFrame(stream_id, request_headers(), flags=["END_HEADERS", *flags])
    return frame.serialize()


def breaks(end: End, wire: bytes, code: int = PROTOCOL_ERROR) -> bool:
    """Whether `wire` ends the connection with `code`, in the error and in a GOAWAY."""
    try:
        end.receive(wire)
    except RemoteProtocolError as error:
        output = end.take_outbox()
        goaway = hyperframe.frame.GoAwayFrame(0)
        goaway.parse_body(memoryview(output[-8:]))
        return error.code == goaway.error_code == code and output[-14:-13] == b"\x07"
    return False
