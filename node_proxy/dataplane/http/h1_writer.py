"""Writes HTTP/1.1 messages anew from values (RFC 9112): never a byte of a head as it came. Pure."""

import enum
from http import HTTPStatus
from typing import Final

from node_proxy.dataplane.http.h1_body import BODILESS, BY_CLOSE, BY_LENGTH, IN_CHUNKS, Framing
from node_proxy.dataplane.http.message import (
    HTTP_11,
    Fields,
    RequestHead,
    ResponseHead,
    Version,
    has_no_body,
    says_length,
)
from node_proxy.errors import LocalProtocolError

# Where a missing length would be taken for a mistake (RFC 9110 section 8.6).
_MEANT_TO_HAVE_BODIES = frozenset({b"POST", b"PUT", b"PATCH"})
_STATUS_LINES = {each.value: b"HTTP/1.1 %d %s" % (each.value, each.phrase.encode()) for each in HTTPStatus}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Persistence(enum.Enum):
    """What an answer says about its connection."""

    DEFAULT = "nothing"
    CLOSE = "that it will be closed"
    # To HTTP/1.0, which closes unless it is told otherwise.
    KEEP_ALIVE = "that it will be kept"


_UNSAID: Final = Persistence.DEFAULT


def render_request(head: RequestHead) -> tuple[bytes, Framing]:
    """Give a request's head, and how its body must be framed.

    Raises:
        LocalProtocolError: a value cannot be written; it did not come through a reader.
    """
    lines = [b"%s %s HTTP/1.1" % (head.method, head.target), b"host: " + head.authority]
    lines += map(b": ".join, head.fields)
    length = head.length
    framing = BODILESS
    if length is None:
        framing = IN_CHUNKS
        lines.append(b"transfer-encoding: chunked")
    elif length:
        framing = BY_LENGTH
        lines.append(b"content-length: %d" % length)
    elif head.method in _MEANT_TO_HAVE_BODIES:
        lines.append(b"content-length: 0")
    if head.expects_continue and framing is not BODILESS:
        lines.append(b"expect: 100-continue")
    if head.upgrade:
        lines += (b"connection: upgrade", b"upgrade: " + head.upgrade)
    if head.trailers:
        lines += (b"connection: te", b"te: trailers")
    return _join(lines), framing


def render_response(
    head: ResponseHead, *, method: bytes, version: Version, persistence: Persistence
) -> tuple[bytes, Framing]:
    """Give the head of an answer to a request of `method` in `version`, and how its body must be framed.

    Framing.CLOSE needs Persistence.CLOSE.

    Raises:
        LocalProtocolError: a value cannot be written; it did not come through a reader.
    """
    status, length = head.status, head.length
    lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
    lines += map(b": ".join, head.fields)
    framing = BODILESS
    if has_no_body(method, status):
        if length is not None and says_length(method, status):
            lines.append(b"content-length: %d" % length)
    elif length is not None:
        framing = BY_LENGTH if length else BODILESS
        lines.append(b"content-length: %d" % length)
    elif version is HTTP_11:
        framing = IN_CHUNKS
        lines.append(b"transfer-encoding: chunked")
    else:
        framing = BY_CLOSE
    if head.upgrade:
        lines += (b"connection: upgrade", b"upgrade: " + head.upgrade)
    if persistence is not _UNSAID:
        lines.append(b"connection: close" if persistence is Persistence.CLOSE else b"connection: keep-alive")
    return _join(lines), framing


def render_chunk(data: bytes) -> bytes:
    """Give one chunk; `data` must not be empty, for that would be the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def render_last_chunk(trailers: Fields) -> bytes:
    """Give the end of a chunked body."""
    if not trailers:
        return b"0\r\n\r\n"
    return _join([b"0", *map(b": ".join, trailers)])


class BodyWriter:
    """Frames one body, and sees to it that it is what its head says.

    Args:
        framing: as the head was written.
        length: for BY_LENGTH.
        silent: whether to drop what is written, as of an answer to HEAD.
    """

    __slots__ = ("_framing", "_left", "_silent")

    def __init__(self, framing: Framing, length: int | None, *, silent: bool = False) -> None:
        self._framing = framing
        self._left = length or 0
        self._silent = silent

    def frame(self, data: bytes) -> bytes:
        """Give what to send for some bytes of the body.

        Raises:
            LocalProtocolError: it would have more than its head says.
        """
        if self._silent or not data:
            return b""
        if self._framing is IN_CHUNKS:
            return render_chunk(data)
        if self._framing is not BY_CLOSE:
            self._left -= len(data)
            if self._left < 0:
                raise LocalProtocolError("a body is longer than its head says")
        return data

    def finish(self, trailers: Fields) -> bytes:
        """Give what to send at the body's end; trailers are dropped where they cannot be said.

        Raises:
            LocalProtocolError: it has less than its head says.
        """
        if self._silent:
            return b""
        if self._framing is IN_CHUNKS:
            return render_last_chunk(trailers)
        if self._left > 0:
            raise LocalProtocolError("a body is shorter than its head says")
        return b""


def _join(lines: list[bytes]) -> bytes:
    """Give the lines with the empty one behind them, once it is sure that none is two."""
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    ends = len(lines) - 1
    # Values of HTTP/2 and of policies come here as well: whatever let one through, it does not get out.
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise LocalProtocolError("a field has a line end or a zero byte in it")
    return head
