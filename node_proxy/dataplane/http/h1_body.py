"""How bodies of HTTP/1.1 messages are framed, and the decoder of chunks (RFC 9112 sections 6 and 7). Pure."""

import enum
from typing import Final

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h1_syntax import (
    BAD_CHUNK,
    BAD_FIELD,
    BARE_END,
    CHUNK_LINE,
    CONNECTION_FIELDS,
    FIELD_LINE,
    FIELD_LINES,
    bad,
)
from node_proxy.dataplane.http.limits import (
    CHUNK_LINE_TOO_LONG,
    TOO_MANY_FIELDS,
    TRAILERS_TOO_LARGE,
    HttpLimits,
)
from node_proxy.dataplane.http.message import Fields

_CRLF = b"\r\n"


class Framing(enum.Enum):
    """What tells the end of a body."""

    NONE = "there is none"
    LENGTH = "its length"
    CHUNKED = "its last chunk"
    CLOSE = "the end of the connection"


# As in `message`: members by their own names, for every message asks for them.
BODILESS: Final = Framing.NONE
BY_LENGTH: Final = Framing.LENGTH
IN_CHUNKS: Final = Framing.CHUNKED
BY_CLOSE: Final = Framing.CLOSE


class _State(enum.Enum):
    SIZE = "the line with a chunk's size"
    DATA = "a chunk's data"
    DATA_END = "the line end behind a chunk's data"
    TRAILERS = "the trailers"
    ENDED = "nothing more"


class ChunkedBody:
    """Decodes one chunked body; extensions are checked and dropped."""

    __slots__ = ("_left", "_limits", "_state", "trailers")

    def __init__(self, limits: HttpLimits) -> None:
        self.trailers: Fields = []
        self._limits = limits
        self._state = _State.SIZE
        # Of the chunk's data.
        self._left = 0

    @property
    def ended(self) -> bool:
        """Whether the body is whole, and its trailers are there."""
        return self._state is _State.ENDED

    def decode(self, data: bytes) -> tuple[bytes, int]:
        """Give the payload in `data`, and how many of its bytes are used up; the others must come again.

        Raises:
            MessageRefused: these are no chunks, or they are beyond the limits.
        """
        pieces: list[bytes] = []
        position, total = 0, len(data)
        while position < total:
            match self._state:
                case _State.DATA:
                    piece = data[position : position + self._left]
                    pieces.append(piece)
                    position += len(piece)
                    self._left -= len(piece)
                    if not self._left:
                        self._state = _State.DATA_END
                    continue
                case _State.SIZE:
                    used = self._take_size(data, position)
                case _State.DATA_END:
                    used = self._take_data_end(data, position)
                case _State.TRAILERS:
                    used = self._take_trailers(data, position)
                case _State.ENDED:
                    break
            if not used:
                break
            position += used
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), position

    # Each of these gives how many bytes it used; 0 when more must come first.

    def _take_size(self, data: bytes, position: int) -> int:
        limit = self._limits.chunk_line_bytes
        end = data.find(b"\n", position, position + limit)
        if end < 0:
            if len(data) - position >= limit:
                raise bad(CHUNK_LINE_TOO_LONG, f"a chunk's first line has more than {limit} bytes")
            if BARE_END.search(data, position):
                raise bad(BAD_CHUNK, "a line of a chunk ends in CR alone")
            return 0
        line = CHUNK_LINE.fullmatch(data, position, end + 1)
        if line is None:
            raise bad(BAD_CHUNK, "a chunk begins with no size, or with a malformed extension")
        self._left = int(line[1], 16)
        self._state = _State.DATA if self._left else _State.TRAILERS
        return end + 1 - position

    def _take_data_end(self, data: bytes, position: int) -> int:
        found = data[position : position + 2]
        if found == _CRLF:
            self._state = _State.SIZE
            return 2
        if found != b"\r":
            raise bad(BAD_CHUNK, "a chunk is longer than its size says")
        return 0

    def _take_trailers(self, data: bytes, position: int) -> int:
        if data.startswith(_CRLF, position):
            self._state = _State.ENDED
            return 2
        limit = self._limits.trailer_bytes
        end = data.find(b"\r\n\r\n", position, position + limit)
        if end < 0:
            if len(data) - position >= limit:
                raise MessageRefused(431, TRAILERS_TOO_LARGE, f"the trailers have more than {limit} bytes")
            if BARE_END.search(data, position):
                raise bad(BAD_FIELD, "a trailer's line does not end in CRLF")
            return 0
        if not FIELD_LINES.fullmatch(data, position, end + 2):
            raise bad(BAD_FIELD, "a trailer is malformed")
        found = FIELD_LINE.findall(data, position, end + 2)
        if len(found) > self._limits.fields:
            raise MessageRefused(431, TOO_MANY_FIELDS, f"there are more than {self._limits.fields} trailers")
        fields = [(name.lower(), value.rstrip(b" \t")) for name, value in found]
        # What frames and routes a message was decided by its header (RFC 9110 section 6.5.1).
        self.trailers = [each for each in fields if each[0] not in CONNECTION_FIELDS]
        self._state = _State.ENDED
        return end + 4 - position
