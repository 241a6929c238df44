"""Reads the heads of HTTP/1.1 messages: bytes in, values out. Pure.

Two judges must agree on every head: the strict grammar of `h1_syntax`, which looks at all of its bytes, and
llhttp (by httptools), whose fields are taken. What either refuses is refused. Bodies are framed in `h1_body`
and not by llhttp: it would run through everything that was pipelined before anybody asked for it.
"""

import re
from dataclasses import dataclass

import httptools

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h1_body import BODILESS, BY_CLOSE, IN_CHUNKS, Framing
from node_proxy.dataplane.http.h1_said import Said, first_protocol
from node_proxy.dataplane.http.h1_syntax import (
    ANSWER_CONNECTION_FIELDS,
    BAD_FIELD,
    BAD_FRAMING,
    BAD_METHOD,
    BAD_START_LINE,
    BAD_STATUS,
    BAD_TARGET,
    BAD_VERSION,
    CONNECTION_FIELDS,
    FIELD_LINES,
    REQUEST_LINE,
    STATUS_LINE,
    bad,
)
from node_proxy.dataplane.http.h1_target import read_target
from node_proxy.dataplane.http.limits import TARGET_TOO_LONG, TOO_MANY_FIELDS, HttpLimits
from node_proxy.dataplane.http.message import (
    HTTP_10,
    HTTP_11,
    Fields,
    RequestHead,
    ResponseHead,
    has_no_body,
    says_length,
)

_VERSIONS = {b"HTTP/1.1": HTTP_11, b"HTTP/1.0": HTTP_10}


@dataclass(slots=True)
class ParsedRequest:
    """A request's head, what tells the end of its body, and whether another request may follow."""

    head: RequestHead
    framing: Framing
    keep_alive: bool


@dataclass(slots=True)
class ParsedResponse:
    """An answer's head, what tells the end of its body, and whether the connection takes another request."""

    head: ResponseHead
    framing: Framing
    keep_alive: bool


def parse_request(raw: bytes, limits: HttpLimits) -> ParsedRequest:
    """Read a request's head, with the empty line at its end.

    Raises:
        MessageRefused: it is no request of HTTP/1.1, or beyond the limits.
    """
    line = match_request_line(raw, limits)
    method, version = line[1], _VERSIONS[line[3]]
    collector = _Collector(CONNECTION_FIELDS)
    _collect(raw, line.end(), collector, httptools.HttpRequestParser(collector), limits)
    if collector.url != line[2]:
        raise bad(BAD_START_LINE, "the request line has two readings")
    said = Said(collector.special, version)
    scheme, authority, target = read_target(method, line[2], said.host, version)
    framing = said.framing
    head = RequestHead(
        method,
        target,
        authority,
        said.keep(collector.fields),
        version,
        scheme,
        None if framing is IN_CHUNKS else said.length or 0,
    )
    if said.te:
        head.trailers = said.takes_trailers
    if framing is BODILESS:
        # An upgrade of a request with a body would have to wait for its end: RFC 9110 lets us ignore it.
        if said.upgrade and version is HTTP_11 and b"upgrade" in said.options:
            head.upgrade = first_protocol(said.upgrade)
    elif said.expect:
        # HTTP/1.0 knows no expectations (RFC 9110 section 10.1.1).
        head.expects_continue = version is HTTP_11
    return ParsedRequest(head, framing, said.keep_alive)


def parse_response(raw: bytes, method: bytes, limits: HttpLimits) -> ParsedResponse:
    """Read the head of an answer to a request of `method`, with the empty line at its end.

    Raises:
        MessageRefused: it is no answer of HTTP/1.1, or beyond the limits.
    """
    line = STATUS_LINE.match(raw)
    if line is None:
        raise bad(BAD_STATUS, "the status line is malformed")
    version = HTTP_11 if line[1] == b"1" else HTTP_10
    collector = _Collector(ANSWER_CONNECTION_FIELDS)
    _collect(raw, line.end(), collector, httptools.HttpResponseParser(collector), limits)
    said = Said(collector.special, version)
    status, framing, length = int(line[2]), said.framing, said.length
    keep_alive = said.keep_alive
    if has_no_body(method, status):
        framing = BODILESS
        if not says_length(method, status):
            length = 0
    elif framing is BODILESS and length is None:
        framing, keep_alive = BY_CLOSE, False
    head = ResponseHead(status, said.keep(collector.fields), length)
    if status == 101:
        head.upgrade = said.upgrade.lower()
    return ParsedResponse(head, framing, keep_alive)


def match_request_line(raw: bytes, limits: HttpLimits) -> re.Match[bytes]:
    """Read a request line at the beginning of `raw`: method, target, version.

    Raises:
        MessageRefused: there is none.
    """
    line = REQUEST_LINE.match(raw)
    if line is None:
        raise bad(BAD_START_LINE, "the request line is malformed")
    if len(line[2]) > limits.target_bytes:
        raise MessageRefused(
            414, TARGET_TOO_LONG, f"the request's target has more than {limits.target_bytes} bytes"
        )
    if line[3] not in _VERSIONS:
        raise MessageRefused(505, BAD_VERSION, "this is neither HTTP/1.1 nor HTTP/1.0")
    if line[1] == b"CONNECT":
        raise MessageRefused(501, BAD_METHOD, "this is no proxy that is asked to connect")
    return line


class _Collector:
    """What llhttp calls: sorts fields into those of the message and those of the connection."""

    __slots__ = ("_special", "complete", "fields", "special", "url")

    def __init__(self, special: frozenset[bytes]) -> None:
        self._special = special
        self.url = b""
        self.fields: Fields = []
        self.special: Fields = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        # llhttp leaves the space behind a value.
        if name in self._special:
            self.special.append((name, value.rstrip(b" \t")))
        else:
            self.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def _collect(
    raw: bytes,
    begin: int,
    collector: _Collector,
    parser: httptools.HttpRequestParser | httptools.HttpResponseParser,
    limits: HttpLimits,
) -> None:
    """Let both judges look at a head whose fields begin at `begin`."""
    if FIELD_LINES.fullmatch(raw, begin, len(raw) - 2) is None:
        raise bad(BAD_FIELD, "a field is malformed")
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        # Only says where the head ends.
        pass
    except httptools.HttpParserInvalidMethodError:
        raise MessageRefused(501, BAD_METHOD, "the method is not known") from None
    except httptools.HttpParserInvalidURLError as error:
        raise bad(BAD_TARGET, str(error)) from None
    except httptools.HttpParserError as error:
        said = str(error)
        raise bad(BAD_FRAMING if "Length" in said or "Encoding" in said else BAD_FIELD, said) from None
    if not collector.complete:
        raise bad(BAD_FIELD, "the head has two readings")
    if len(collector.fields) + len(collector.special) > limits.fields:
        raise MessageRefused(431, TOO_MANY_FIELDS, f"there are more than {limits.fields} fields")
