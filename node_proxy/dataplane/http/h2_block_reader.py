"""Header blocks, read: HPACK (RFC 7541), with hpack's table and its Huffman code. Pure.

hpack's own reader copies the rest of a block for each of its fields, so that the time it takes grows with the
square of the length: no matter for the few hundred bytes of a tunnel's CONNECT, but half a second for the
longest block that is taken here. This one is linear, and takes a fifth of the time for an ordinary head.
"""

from functools import lru_cache
from typing import Final

import hpack.exceptions
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from node_proxy.dataplane.http.message import Field, Fields
from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel.frames import ENHANCE_YOUR_CALM
from node_proxy.tunnel.headers import HeaderReader
from node_proxy.tunnel.http2 import COMPRESSION_ERROR

# What RFC 7541 section 4.2 starts with; we advertise no other.
TABLE_SIZE: Final = 4096
# RFC 9113 section 6.5.2: what each field counts beyond its bytes.
FIELD_OVERHEAD: Final = 32

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_FIRST_DYNAMIC: Final = len(_STATIC)
# An integer of more bytes is longer than any block (section 5.1 lets us say so).
_MOST_SHIFT: Final = 21
# Names, methods, paths that come again and again; longer strings are as likely secrets as not.
_REMEMBERED_LENGTH: Final = 24


class BlockReader(HeaderReader):
    """Reads one peer's blocks in the order in which they came.

    Args:
        max_list_size: of a block's fields, as RFC 9113 section 6.5.2 counts them; more costs the connection.
    """

    def __init__(self, max_list_size: int) -> None:
        super().__init__(max_list_size)
        self._table = HeaderTable()
        self._max_list_size = max_list_size

    def read(self, block: bytes) -> Fields:
        """Give the fields of a block.

        Raises:
            RemoteProtocolError: it cannot be decoded, or is larger than allowed; the connection is lost.
        """
        try:
            return self._read(block)
        except IndexError:
            raise _broken("it ends too early") from None
        except hpack.exceptions.HPACKError as error:
            raise _broken(str(error)) from error

    def _read(self, block: bytes) -> Fields:
        fields: Fields = []
        position, end, room = 0, len(block), self._max_list_size
        while position < end:
            byte = block[position]
            if byte & 0x80:
                if byte == 0xFF:
                    index, position = _integer(block, position, 0x7F)
                else:
                    index, position = byte & 0x7F, position + 1
                field = self._entry(index)
            elif byte & 0xE0 == 0x20:
                position = self._resize(block, position, first=not fields)
                continue
            else:
                field, position = self._literal(block, position, byte)
            room -= len(field[0]) + len(field[1]) + FIELD_OVERHEAD
            if room < 0:
                raise RemoteProtocolError(
                    f"a header of more than {self._max_list_size} bytes", code=ENHANCE_YOUR_CALM
                )
            fields.append(field)
        if position > end:
            raise _broken("it ends too early")
        return fields

    def _entry(self, index: int) -> Field:
        if 0 < index < _FIRST_DYNAMIC:
            return _STATIC[index]
        if index == 0 or index - _FIRST_DYNAMIC >= len(self._table.dynamic_entries):
            raise _broken(f"there is no entry {index}")
        return self._table.dynamic_entries[index - _FIRST_DYNAMIC]

    def _literal(self, block: bytes, position: int, byte: int) -> tuple[Field, int]:
        """Read sections 6.2.1 to 6.2.3: to be indexed, or not."""
        mask = 0x3F if byte & 0x40 else 0x0F
        if byte & mask:
            index, position = _integer(block, position, mask)
            name = self._entry(index)[0]
        else:
            name, position = _string(block, position + 1)
        value, position = _string(block, position)
        if byte & 0x40:
            self._table.add(name, value)
        return (name, value), position

    def _resize(self, block: bytes, position: int, *, first: bool) -> int:
        size, position = _integer(block, position, 0x1F)
        if size > TABLE_SIZE or not first:
            raise _broken("the table is resized beyond what is allowed, or within a block")
        self._table.maxsize = size
        return position


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """Read section 5.1; gives the integer, and where the next byte is."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > _MOST_SHIFT:
            raise _broken("an integer without end")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """Read section 5.2."""
    byte = block[position]
    if byte & 0x7F == 0x7F:
        length, position = _integer(block, position, 0x7F)
    else:
        length, position = byte & 0x7F, position + 1
    text = block[position : position + length]
    if len(text) != length:
        raise _broken("it ends too early")
    if byte & 0x80:
        text = _remembered(text) if length <= _REMEMBERED_LENGTH else bytes(decode_huffman(text))
    return text, position + length


@lru_cache(maxsize=4096)
def _remembered(text: bytes) -> bytes:
    return bytes(decode_huffman(text))


def _broken(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a header block cannot be read: {why}", code=COMPRESSION_ERROR)
