"""HTTP/2 frames of streams as bytes. Pure.

h2 spends more on a frame than the kernel does on its payload, so what streams are made of is written
and read here; the connection's own frames go through h2 (`node_proxy.tunnel.protocol`).
Source: RFC 9113 section 4.1 (frame format) and the sections of 6 that each function names.
"""

import struct

from node_proxy.errors import RemoteProtocolError

FRAME_HEADER = 9

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

ACK = 0x1
END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# RFC 9113 section 7: the codes of errors in a frame's size and in its use.
FRAME_SIZE_ERROR = 0x6
ENHANCE_YOUR_CALM = 0xB

# RFC 9113 section 6.9.1: a window above this is a flow-control error.
MAX_WINDOW = 2**31 - 1

# RFC 9113 section 6.5.2 names six, RFC 8441 one more; nghttp2 takes no more than 32 in one frame either.
_LAST_SETTING = 0x8
_SETTING_SIZE = 6
_MAX_SETTINGS_SIZE = 32 * _SETTING_SIZE

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


def headers(stream_id: int, block: bytes, *, end_stream: bool = False) -> bytes:
    """Give a HEADERS frame that holds a whole header block (section 6.2)."""
    flags = END_HEADERS | (END_STREAM if end_stream else 0)
    return _HEADER.pack(len(block) << 8 | HEADERS, flags, stream_id) + block


def rst_stream(stream_id: int, code: int) -> bytes:
    """Give a RST_STREAM frame (section 6.4)."""
    return _WINDOW_UPDATE.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def require_size(payload: memoryview, size: int) -> None:
    """Check the payload of a frame whose size is fixed.

    Raises:
        RemoteProtocolError: it is another size, which costs the connection (section 4.2).
    """
    if len(payload) != size:
        raise RemoteProtocolError(
            f"a frame with {len(payload)} bytes instead of {size}", code=FRAME_SIZE_ERROR
        )


def without_padding(payload: memoryview) -> memoryview:
    """Give what is between the length of the padding and the padding (sections 6.1 and 6.2).

    Raises:
        RemoteProtocolError: there is less than that.
    """
    if not payload or payload[0] >= len(payload):
        raise RemoteProtocolError("padding longer than its frame (RFC 9113 section 6.1)")
    return payload[1 : len(payload) - payload[0]]


def known_settings(frame: memoryview) -> bytes:
    """Give a SETTINGS frame without unknown settings, which h2 would remember (section 6.5.2: ignore them).

    Raises:
        RemoteProtocolError: it is of wrong size, or holds more settings than there could be a reason for.
    """
    _, _, flags, stream_id = read_header(frame, 0)
    payload = frame[FRAME_HEADER:]
    if len(payload) > _MAX_SETTINGS_SIZE:
        raise RemoteProtocolError("SETTINGS without end", code=ENHANCE_YOUR_CALM)
    if flags & ACK:
        require_size(payload, 0)
    if len(payload) % _SETTING_SIZE:
        raise RemoteProtocolError("SETTINGS that end within a setting", code=FRAME_SIZE_ERROR)
    settings = (payload[i : i + _SETTING_SIZE] for i in range(0, len(payload), _SETTING_SIZE))
    known = b"".join(each for each in settings if each[0] == 0 and each[1] <= _LAST_SETTING)
    return _HEADER.pack(len(known) << 8 | SETTINGS, flags, stream_id) + known


def empty_end_stream(stream_id: int) -> bytes:
    """Give an empty DATA frame that carries END_STREAM (section 6.1)."""
    return _HEADER.pack(DATA, END_STREAM, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    """Give a WINDOW_UPDATE frame; stream 0 is the connection."""
    return _WINDOW_UPDATE.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def read_word(buffer: bytearray | memoryview, position: int) -> int:
    """Give the 32 bits of payload of the frame whose header begins at `position` (RST_STREAM's code)."""
    word: int = _INCREMENT.unpack_from(buffer, position + FRAME_HEADER)[0]
    return word


def read_increment(buffer: bytearray | memoryview, position: int) -> int:
    """Give the increment in the payload of the WINDOW_UPDATE whose header begins at `position`."""
    increment: int = _INCREMENT.unpack_from(buffer, position + FRAME_HEADER)[0]
    return increment & _STREAM_MASK


_GOAWAY = struct.Struct(">IBIII")
_TWO_WORDS = struct.Struct(">II")


def goaway(last_stream_id: int, code: int, why: bytes = b"") -> bytes:
    """Give a GOAWAY frame (RFC 9113 section 6.8); `why` is its debug data, for people."""
    return _GOAWAY.pack(8 + len(why) << 8 | GOAWAY, 0, 0, last_stream_id, code) + why


def read_goaway(buffer: bytearray | memoryview, position: int) -> tuple[int, int]:
    """Give last stream id and error code of the GOAWAY whose header begins at `position`."""
    last_stream_id, code = _TWO_WORDS.unpack_from(buffer, position + FRAME_HEADER)
    return last_stream_id & _STREAM_MASK, code
