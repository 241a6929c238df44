"""Cuts the bytes of an HTTP/1.1 connection into heads and bodies. Pure.

A reader is fed what comes, and asked for the next head, then for the body to its end, then for the next head.
It does not look ahead: what is pipelined stays bytes until it is asked for.
"""

from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h1_body import BODILESS, BY_LENGTH, IN_CHUNKS, ChunkedBody, Framing
from node_proxy.dataplane.http.h1_head import (
    ParsedRequest,
    ParsedResponse,
    match_request_line,
    parse_request,
    parse_response,
)
from node_proxy.dataplane.http.h1_syntax import (
    BAD_FIELD,
    BAD_START_LINE,
    BAD_STATUS,
    BARE_END,
    REQUEST_BEGINNING,
    bad,
)
from node_proxy.dataplane.http.limits import HEAD_TOO_LARGE, TARGET_TOO_LONG, HttpLimits
from node_proxy.dataplane.http.message import Fields

_END = b"\r\n\r\n"


class MessageReader:
    """What the readers of requests and of answers have in common."""

    # The reason to refuse a first line.
    _bad_start = BAD_START_LINE

    def __init__(self, limits: HttpLimits, first_bytes: bytes = b"") -> None:
        self._limits = limits
        self._buffer = first_bytes
        # The other side has ended.
        self.ended = False
        # How much of a head that is not whole was looked at.
        self._scanned = 0
        self._framing = BODILESS
        # Of a body with a length.
        self._left = 0
        self._chunks: ChunkedBody | None = None

    def feed(self, data: bytes) -> None:
        """Take what came; empty is the end."""
        if data:
            self._buffer = self._buffer + data if self._buffer else data
        else:
            self.ended = True

    @property
    def buffered(self) -> int:
        """How many bytes were fed and not asked for."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        """Give what was fed and not asked for: the first bytes of what follows an upgrade."""
        rest, self._buffer = self._buffer, b""
        return rest

    @property
    def body_ended(self) -> bool:
        """Whether the body has been given to its end."""
        return self._framing is BODILESS

    @property
    def trailers(self) -> Fields:
        """The fields behind the body; complete when its end was given."""
        return self._chunks.trailers if self._chunks is not None else []

    def next_body(self) -> bytes | None:
        """Give the next bytes of the body; None when they have not come yet, empty at the end.

        Raises:
            MessageRefused: its framing is broken.
            ExchangeBroken: the other side ended before it.
        """
        match self._framing:
            case Framing.LENGTH:
                data = self._take_length()
            case Framing.CHUNKED:
                data = self._take_chunks()
            case Framing.NONE:
                return b""
            case Framing.CLOSE:
                data = self.take_rest()
                if self.ended:
                    self._framing = BODILESS
        if data or self._framing is BODILESS:
            return data
        if self.ended:
            raise ExchangeBroken("the connection ended in the middle of a body")
        return None

    def take_whole(self) -> bytes | None:
        """Give a body that has a length, if all of it is there and none was given; else None."""
        if self._framing is not BY_LENGTH or len(self._buffer) < self._left:
            return None
        return self._take_length()

    def _begin_body(self, framing: Framing, length: int | None) -> None:
        self._framing = framing
        self._left = length or 0
        self._chunks = ChunkedBody(self._limits) if framing is IN_CHUNKS else None

    def _take_length(self) -> bytes:
        buffer = self._buffer
        if len(buffer) <= self._left:
            data, self._buffer = buffer, b""
        else:
            data, self._buffer = buffer[: self._left], buffer[self._left :]
        self._left -= len(data)
        if not self._left:
            self._framing = BODILESS
        return data

    def _take_chunks(self) -> bytes:
        assert self._chunks is not None  # noqa: S101 - set with the framing
        data, used = self._chunks.decode(self._buffer)
        self._buffer = self._buffer[used:]
        if self._chunks.ended:
            self._framing = BODILESS
        return data

    def _take_head(self) -> bytes | None:
        """Give a whole head with the empty line at its end; None when it has not come yet."""
        buffer, limit = self._buffer, self._limits.head_bytes
        scanned = self._scanned
        end = buffer.find(_END, scanned - 3 if scanned > 3 else 0, limit)
        if end < 0:
            if len(buffer) >= limit:
                raise MessageRefused(431, HEAD_TOO_LARGE, f"the header has more than {limit} bytes")
            # Who sends this waits for an answer, and would wait long.
            if bare := BARE_END.search(buffer, max(0, scanned - 1)):
                first = buffer.find(b"\r\n", 0, bare.start()) < 0
                raise bad(self._bad_start if first else BAD_FIELD, "a line does not end in CRLF")
            self._scanned = len(buffer)
            return None
        self._scanned = 0
        self._buffer = buffer[end + 4 :]
        return buffer[: end + 4]


class RequestReader(MessageReader):
    """Reads what a caller sends."""

    # The empty line that may come before a request has come.
    _skipped = False

    def next_request(self) -> ParsedRequest | None:
        """Give the next request's head; None when it has not come yet, or never will: see `ended`.

        Raises:
            MessageRefused: it is no request, or beyond the limits.
        """
        if not self._buffer:
            return None
        if not self._skipped and self._buffer.startswith(b"\r\n"):
            # RFC 9112 section 2.2: one may come, a relic of careless clients.
            self._buffer, self._skipped = self._buffer[2:], True
        raw = self._take_head()
        if raw is None:
            self._judge_beginning()
            return None
        self._skipped = False
        parsed = parse_request(raw, self._limits)
        self._begin_body(parsed.framing, parsed.head.length)
        return parsed

    def _judge_beginning(self) -> None:
        """Refuse at once what will never be a request, instead of waiting for its end."""
        beginning = self._buffer
        if not beginning or beginning == b"\r":
            return
        if b"\r\n" in beginning:
            match_request_line(beginning, self._limits)
        elif not REQUEST_BEGINNING.match(beginning):
            raise bad(BAD_START_LINE, "this is no request")
        elif len(beginning) > self._limits.target_bytes + 64:
            raise MessageRefused(
                414, TARGET_TOO_LONG, f"the request's target has more than {self._limits.target_bytes} bytes"
            )


class ResponseReader(MessageReader):
    """Reads what a workload answers. Whatever is wrong with it has the status 502."""

    _bad_start = BAD_STATUS

    def next_response(self, method: bytes) -> ParsedResponse | None:
        """Give the next head of an answer to a request of `method`; None when it has not come yet.

        Raises:
            MessageRefused: it is no answer, or beyond the limits.
            ExchangeBroken: the other side ended before it.
        """
        if not (self._buffer or self.ended):
            return None
        try:
            raw = self._take_head()
            if raw is None:
                if self.ended:
                    raise ExchangeBroken("the connection ended before an answer")
                return None
            parsed = parse_response(raw, method, self._limits)
        except MessageRefused as refused:
            raise _of_answer(refused) from None
        self._begin_body(parsed.framing, parsed.head.length)
        return parsed

    def next_body(self) -> bytes | None:
        """Give the next bytes of the body; see `MessageReader`."""
        try:
            return super().next_body()
        except MessageRefused as refused:
            raise _of_answer(refused) from None


def _of_answer(refused: MessageRefused) -> MessageRefused:
    return MessageRefused(502, refused.reason, refused.detail)
