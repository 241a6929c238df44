"""HTTP/2 frames that the byte path makes and reads itself: DATA and WINDOW_UPDATE. Pure.

Nearly every frame is one of these two, and h2 spends more on one of them than the kernel does on
its payload. Every other frame goes through h2 (`node_proxy.tunnel.protocol`).
Source: RFC 9113 sections 4.1 (frame format), 6.1 (DATA), 6.9 (WINDOW_UPDATE).
"""

import struct

FRAME_HEADER = 9

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8

# RFC 9113 section 6.9.1: a window above this is a flow-control error.
MAX_WINDOW = 2**31 - 1

# Length and type share the first four bytes: 24 bits and 8 bits.
_HEADER = struct.Struct(">IBI")
_WINDOW_UPDATE = struct.Struct(">IBII")
_INCREMENT = struct.Struct(">I")
_STREAM_MASK = 0x7FFFFFFF


def read_header(buffer: bytearray | memoryview, position: int) -> tuple[int, int, int, int]:
    """Give payload length, type, flags and stream id of the frame that begins at `position`.

    At least FRAME_HEADER bytes must be there.
    """
    length_and_type, flags, stream_id = _HEADER.unpack_from(buffer, position)
    return length_and_type >> 8, length_and_type & 0xFF, flags, stream_id & _STREAM_MASK


def write_data_header(buffer: bytearray | memoryview, stream_id: int, length: int) -> None:
    """Write the header of a DATA frame of `length` payload bytes into the buffer's first nine bytes."""
    _HEADER.pack_into(buffer, 0, length << 8 | DATA, 0, stream_id)


def empty_end_stream(stream_id: int) -> bytes:
    """Give an empty DATA frame that carries END_STREAM."""
    return _HEADER.pack(DATA, END_STREAM, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    """Give a WINDOW_UPDATE frame; stream 0 is the connection."""
    return _WINDOW_UPDATE.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def read_increment(buffer: bytearray | memoryview, position: int) -> int:
    """Give the increment in the payload of the WINDOW_UPDATE whose header begins at `position`."""
    increment: int = _INCREMENT.unpack_from(buffer, position + FRAME_HEADER)[0]
    return increment & _STREAM_MASK


_GOAWAY = struct.Struct(">IBIII")
_TWO_WORDS = struct.Struct(">II")


def goaway(last_stream_id: int, code: int) -> bytes:
    """Give a GOAWAY frame (RFC 9113 section 6.8)."""
    return _GOAWAY.pack(8 << 8 | GOAWAY, 0, 0, last_stream_id, code)


def read_goaway(buffer: bytearray | memoryview, position: int) -> tuple[int, int]:
    """Give last stream id and error code of the GOAWAY whose header begins at `position`."""
    last_stream_id, code = _TWO_WORDS.unpack_from(buffer, position + FRAME_HEADER)
    return last_stream_id & _STREAM_MASK, code
