"""Header blocks, written. Pure.

As in tunnels: literals without indexing (RFC 7541 section 6.2.2), which need no state and, on the paths of a
mesh, are dearer by a few bytes only; fields of the static table are one byte. What holds secrets is marked
as never to be indexed (section 6.2.3), for whoever sends it on.
"""

import struct
from collections.abc import Iterable
from typing import Final

from hpack.table import HeaderTable

from node_proxy.dataplane.http.message import Field
from node_proxy.tunnel import frames

# RFC 9113 section 4.2: every peer takes frames of this size.
LEAST_FRAME: Final = 16_384

_SECRET: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
# Length and type share the first four bytes: 24 bits and 8 bits.
_HEADER: Final = struct.Struct(">IBI")
_NEW_NAME: Final = b"\x00"
# A string's length below this fits the first byte (section 5.1, a prefix of 7 bits).
_ONE_BYTE_LENGTH: Final = 127
_ONE_BYTE_INDEX: Final = 15


def _integer(value: int, prefix: int, flags: int) -> bytes:
    """Give an integer with a prefix of so many bits, whose other bits are `flags` (section 5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((flags | value,))
    written = bytearray((flags | most,))
    value -= most
    while value >= 128:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


# Fields of appendix A that are one byte, and the prefixes of those whose name is there.
_WHOLE: Final[dict[Field, bytes]] = {}
_NAMES: Final[dict[bytes, bytes]] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _WHOLE.setdefault((_name, _value), _integer(_index, 7, 0x80))
    _NAMES.setdefault(_name, _integer(_index, 4, 0x10 if _name in _SECRET else 0x00))
_ONE_BYTE: Final = tuple(bytes((length,)) for length in range(_ONE_BYTE_LENGTH))


def write_block(fields: Iterable[Field]) -> bytes:
    """Give the block of some fields."""
    parts: list[bytes] = []
    for field in fields:
        whole = _WHOLE.get(field)
        if whole is not None:
            parts.append(whole)
            continue
        name, value = field
        prefix = _NAMES.get(name)
        if prefix is not None:
            parts.append(prefix)
        else:
            parts += (_NEW_NAME, _length(name), name)
        parts += (_length(value), value)
    return b"".join(parts)


def _length(text: bytes) -> bytes:
    length = len(text)
    return _ONE_BYTE[length] if length < _ONE_BYTE_LENGTH else _integer(length, 7, 0)


def frame_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Give what goes before a frame's payload (RFC 9113 section 4.1)."""
    return _HEADER.pack(length << 8 | kind, flags, stream_id)


def header_frames(stream_id: int, block: bytes, *, end_stream: bool) -> bytes:
    """Give a HEADERS frame, and the CONTINUATION frames that hold what does not fit in it."""
    if len(block) <= LEAST_FRAME:
        return frames.headers(stream_id, block, end_stream=end_stream)
    pieces = [block[at : at + LEAST_FRAME] for at in range(0, len(block), LEAST_FRAME)]
    flags = [frames.END_STREAM if end_stream else 0, *(0 for _ in pieces[1:])]
    flags[-1] |= frames.END_HEADERS
    kinds = [frames.HEADERS, *(frames.CONTINUATION for _ in pieces[1:])]
    return b"".join(
        frame_header(kind, flag, stream_id, len(piece)) + piece
        for kind, flag, piece in zip(kinds, flags, pieces, strict=True)
    )
