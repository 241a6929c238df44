"""Header blocks of CONNECT requests and their answers, written and read. Pure.

A tunnel sends the same few headers a thousand times a second. They are written as literals without
indexing (RFC 7541 section 6.2.2), which need no state and hardly more bytes, and the two shapes that our own
peers send are recognised as they are; everything else is read by hpack.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import hpack
import hpack.exceptions

from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel import frames
from node_proxy.tunnel.http2 import COMPRESSION_ERROR, MAX_HEADER_LIST_SIZE

Fields = Sequence[tuple[bytes, bytes]]

REASON_HEADER = b"nodemesh-reason"
# Longer ones are cut: a reason is a code, a policy's name and an id.
MAX_REASON = 512
# A block this long, compressed, holds more than we advertise.
MAX_HEADER_BLOCK = 2 * MAX_HEADER_LIST_SIZE

# RFC 7541 appendix A: 1 is `:authority`, 2 `:method` (GET, so the value follows), 8 `:status` 200.
_CONNECT = b"\x02\x07CONNECT\x01"
_STATUS_200 = b"\x88"
_STATUS_NAME = b"\x08"
# Goes before our first block: we keep no table, whatever the peer allows (RFC 7541 sections 4.2 and 6.3).
NO_TABLE = b"\x20"
_NEW_NAME = b"\x00"
# A string's length below this fits the first byte (section 5.1, a prefix of 7 bits).
_ONE_BYTE_LENGTH = 127

_METHOD_FIELD = (b":method", b"CONNECT")
_ACCEPTED: Fields = ((b":status", b"200"),)
# What `write_request` writes in fact: longer blocks are hpack's, which knows the limit of a list of headers.
_MAX_WRITTEN = 512

_REQUEST_PSEUDO = frozenset({b":method", b":authority", b":scheme", b":path", b":protocol"})
_ANSWER_PSEUDO = frozenset({b":status"})
# RFC 9113 section 8.2.2.
_CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
# RFC 9113 section 8.2.1: no upper case, no controls, no spaces; values not framed by white space.
_NAME = re.compile(rb"[!-9;-@\[-~]+\Z")
_VALUE = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])\Z")
_NOT_PRINTABLE = re.compile(rb"[^!-~]+")


def write_request(authority: str, fields: Fields = ()) -> bytes:
    """Give the block of a CONNECT to `authority`."""
    return _CONNECT + _string(authority.encode("ascii")) + _literals(fields)


def write_accepted() -> bytes:
    """Give the block of a 200."""
    return _STATUS_200


def write_refused(status: int, reason: str) -> bytes:
    """Give the block of an answer with `status` and the reason header."""
    # Cut first: a value that ends with a space would make the whole answer malformed.
    text = _NOT_PRINTABLE.sub(b" ", reason.encode("ascii", "replace")[:MAX_REASON]).strip()
    return _STATUS_NAME + _string(b"%d" % status) + _literals([(REASON_HEADER, text)])


def _literals(fields: Fields) -> bytes:
    return b"".join(_NEW_NAME + _string(name) + _string(value) for name, value in fields)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < _ONE_BYTE_LENGTH:
        return bytes((length,)) + text
    rest = length - _ONE_BYTE_LENGTH
    prefix = bytearray((_ONE_BYTE_LENGTH,))
    while rest >= 128:
        prefix.append(rest & 127 | 128)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + text


class HeaderReader:
    """Reads one peer's blocks in the order in which they came, since they share a compression state.

    `max_list_size` is of a block's fields, as RFC 9113 section 6.5.2 counts them.
    """

    def __init__(self, max_list_size: int = MAX_HEADER_LIST_SIZE) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_list_size)

    def read(self, block: bytes) -> Fields:
        """Give the fields of a block.

        Raises:
            RemoteProtocolError: it cannot be decoded, or is larger than we advertise; the connection is lost.
        """
        if block == _STATUS_200:
            return _ACCEPTED
        if fields := _written_request(block):
            return fields
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.exceptions.OversizedHeaderListError as error:
            raise RemoteProtocolError(str(error), code=frames.ENHANCE_YOUR_CALM) from error
        except hpack.exceptions.HPACKError as error:
            raise RemoteProtocolError(
                f"a header block cannot be read: {error}", code=COMPRESSION_ERROR
            ) from error


def _written_request(block: bytes) -> Fields:
    """Give the fields of a block that `write_request` could have written, else nothing."""
    end = len(block)
    if end > _MAX_WRITTEN or not block.startswith(_CONNECT):
        return ()
    position = len(_CONNECT)
    # The authority, then names and values in turn.
    strings: list[bytes] = []
    while position < end and block[position] < _ONE_BYTE_LENGTH:
        start = position + 1
        position = start + block[position]
        strings.append(block[start:position])
        if position == end and strings[0] and len(strings) % 2:
            fields = [_METHOD_FIELD, (b":authority", strings[0])]
            fields += zip(strings[1::2], strings[2::2], strict=True)
            return fields
        if len(strings) % 2:
            if block[position : position + 1] != _NEW_NAME:
                return ()
            position += 1
    return ()


@dataclass(frozen=True, slots=True)
class HeaderBlock:
    """A whole header block: the stream it is for, whether it ends that stream's sending, its fields."""

    stream_id: int
    end_stream: bool
    fields: Fields


class HeaderBlocks:
    """Puts one peer's header blocks together from HEADERS and CONTINUATION frames.

    Args:
        reader: of the peer's blocks.
        max_block: bytes of a block, compressed; more costs the connection.
    """

    def __init__(self, reader: HeaderReader | None = None, max_block: int = MAX_HEADER_BLOCK) -> None:
        self._reader = reader or HeaderReader()
        self._max_block = max_block
        # The stream whose block is incomplete, or 0.
        self._stream_id = 0
        self._end_stream = False
        self._fragment = b""

    def check_next(self, kind: int, stream_id: int) -> None:
        """Check that a block which has begun goes on before anything else comes.

        Raises:
            RemoteProtocolError: another frame interrupts it.
        """
        if self._stream_id and (kind != frames.CONTINUATION or stream_id != self._stream_id):
            raise RemoteProtocolError(
                "a header block was interrupted by another frame (RFC 9113 section 4.3)"
            )

    def receive(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> HeaderBlock | None:
        """Take a HEADERS or CONTINUATION frame; gives the block when that was its last.

        Raises:
            RemoteProtocolError: the frame is malformed, continues nothing, or the block is endless.
        """
        if stream_id == 0:
            raise RemoteProtocolError("headers for the connection (RFC 9113 section 6.2)")
        if kind == frames.HEADERS:
            self._fragment = bytes(_fragment_of(flags, payload))
            self._end_stream = bool(flags & frames.END_STREAM)
        elif self._stream_id:
            self._fragment += payload
        else:
            raise RemoteProtocolError("a CONTINUATION of nothing (RFC 9113 section 6.10)")
        if len(self._fragment) > self._max_block:
            raise RemoteProtocolError("an endless header block", code=frames.ENHANCE_YOUR_CALM)
        if not flags & frames.END_HEADERS:
            self._stream_id = stream_id
            return None
        self._stream_id = 0
        # Read whatever becomes of the stream: the next block is compressed against this one.
        return HeaderBlock(stream_id, self._end_stream, self._reader.read(self._fragment))


def _fragment_of(flags: int, payload: memoryview) -> memoryview:
    if flags & frames.PADDED:
        payload = frames.without_padding(payload)
    if not flags & frames.HAS_PRIORITY:
        return payload
    if len(payload) < 5:
        raise RemoteProtocolError("a HEADERS without its priority", code=frames.FRAME_SIZE_ERROR)
    return payload[5:]


def _is_other_te(name: bytes, value: bytes) -> bool:
    return name == b"te" and value.lower() != b"trailers"


def malformed(fields: Fields, *, request: bool) -> str:
    """Say what makes a request or an answer malformed (RFC 9113 sections 8.2 and 8.3), or nothing."""
    allowed = _REQUEST_PSEUDO if request else _ANSWER_PSEUDO
    seen: set[bytes] = set()
    regular = False
    for name, value in fields:
        if not _VALUE.match(value):
            return f"the value of {name!r} holds what none may"
        if name.startswith(b":"):
            if regular or name not in allowed or name in seen:
                return f"{name!r} is unknown, out of place or there twice"
            seen.add(name)
            continue
        regular = True
        if not _NAME.match(name) or name in _CONNECTION_SPECIFIC or _is_other_te(name, value):
            return f"a header named {name!r}"
    if request and dict(fields).get(b":method") == b"CONNECT" and b":protocol" not in seen:
        # RFC 9113 section 8.5.
        return "a CONNECT with :scheme or :path" if seen & {b":scheme", b":path"} else ""
    return ""
