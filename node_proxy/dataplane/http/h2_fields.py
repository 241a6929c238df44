"""Heads of messages as the fields of HTTP/2, and back; strict in reading. Pure.

What is read here is judged by routes and policies, and written anew in HTTP/1.1: a field that only one of the
two versions takes for one would mean two things. So names are tokens in lower case, values are printable, and
framing is said once.
Source: RFC 9113 sections 8.2 and 8.3; RFC 9110 section 5.
"""

import re
from collections.abc import Sequence
from typing import Final

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h1_syntax import AUTHORITY, BAD_EXPECTATION, CONTENT_LENGTH
from node_proxy.dataplane.http.limits import (
    HEAD_TOO_LARGE,
    TARGET_TOO_LONG,
    TOO_MANY_FIELDS,
    TRAILERS_TOO_LARGE,
    HttpLimits,
)
from node_proxy.dataplane.http.message import Field, Fields, RequestHead, ResponseHead, Version, has_no_body

# Reasons of `MessageRefused`.
MALFORMED: Final = "malformed"
NOT_OFFERED: Final = "not_offered"

# RFC 9113 section 6.5.2: what each field counts beyond its bytes.
FIELD_OVERHEAD: Final = 32

# Whole sections at once, a line for each: one call for a field would cost more than all the rest.
_NAMES: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9a-z-]++\n)*+\Z")
_VALUES: Final = re.compile(rb"(?:(?![ \t])[\t -~\x80-\xff]*+(?<![ \t])\n)*+\Z")

# Without a fragment, which no request has, and without what is not printable.
_TARGET: Final = re.compile(rb"/[!-\"$-~]*\Z")
_SCHEMES: Final = frozenset({b"http", b"https"})
# As long as HTTP/1.1's are here. In capitals, as all that exist: servers that take ``delete`` for DELETE are
# asked past a policy that names it.
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Z-]{1,32}")
_REQUEST_PSEUDO: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_ANSWER_PSEUDO: Final = frozenset({b":status"})
_CONNECTION_SPECIFIC: Final = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
# What needs a look, or never comes from `fields` when a head is written.
_SPECIAL: Final = _CONNECTION_SPECIFIC | {b"host", b"content-length", b"te", b"cookie", b"expect"}
_NOT_WRITTEN: Final = _CONNECTION_SPECIFIC | {b"host", b"content-length", b"te"}
_CONTINUE: Final = b"100-continue"


def read_request(fields: Sequence[Field], *, ended: bool, limits: HttpLimits) -> RequestHead:
    """Read the head of a request; `ended` says that nothing follows it.

    Raises:
        MessageRefused: it is malformed, too large, or a CONNECT, which is not offered.
    """
    pseudo, regular = _split(fields, _REQUEST_PSEUDO)
    _check_size(fields, limits)
    method = pseudo.get(b":method", b"")
    if method == b"CONNECT":
        raise MessageRefused(501, NOT_OFFERED, "CONNECT is not offered")
    target = _target(method, pseudo.get(b":path", b""), limits)
    scheme = pseudo.get(b":scheme", b"").lower()
    if not _METHOD.fullmatch(method) or scheme not in _SCHEMES:
        raise _malformed("there must be a method, and a scheme of HTTP")
    head = RequestHead(
        method=method,
        target=target,
        authority=pseudo.get(b":authority", b"").lower(),
        fields=[],
        version=Version.HTTP_2,
        scheme=scheme,
        length=0 if ended else None,
    )
    _read_regular(head, regular, ended=ended)
    found = AUTHORITY.fullmatch(head.authority)
    if found is None or int(found[1] or 0) > 0xFFFF:
        raise _malformed("the authority is missing, or is no host and port")
    return head


def _target(method: bytes, path: bytes, limits: HttpLimits) -> bytes:
    if len(path) > limits.target_bytes:
        raise MessageRefused(414, TARGET_TOO_LONG, f"more than {limits.target_bytes} bytes")
    if _TARGET.match(path) or (path == b"*" and method == b"OPTIONS"):
        return path
    raise _malformed("the path is no path with a query")


def _read_regular(head: RequestHead, regular: Sequence[Field], *, ended: bool) -> None:
    kept = head.fields
    # The place of the one cookie, of which HTTP/2 may send the crumbs apart (RFC 9113 section 8.2.3).
    cookie = -1
    length: int | None = None
    for each in regular:
        name, value = each
        if name not in _SPECIAL:
            kept.append(each)
        elif name == b"cookie":
            if cookie < 0:
                cookie = len(kept)
                kept.append(each)
            else:
                kept[cookie] = (name, b"%s; %s" % (kept[cookie][1], value))
        elif name == b"content-length":
            length = _length(value, length)
        elif name == b"te":
            if value.lower() != b"trailers":
                raise _malformed("te says more than trailers")
            head.trailers = True
        elif name == b"expect":
            if value.lower() != _CONTINUE:
                raise MessageRefused(417, BAD_EXPECTATION, "the expectation is not known")
            head.expects_continue = not ended
        elif name == b"host":
            _agree(head, value)
        else:
            raise _malformed("a field that concerns an HTTP/1.1 connection")
    if length is not None:
        if ended and length:
            raise _malformed("a content-length, and no content")
        head.length = length


def _agree(head: RequestHead, host: bytes) -> None:
    """Take a host for the authority; where both are there they must say the same (RFC 9113 section 8.3.1)."""
    host = host.lower()
    if head.authority and head.authority != host:
        raise _malformed("host is not the authority")
    head.authority = host


def read_response(fields: Sequence[Field], *, method: bytes, ended: bool, limits: HttpLimits) -> ResponseHead:
    """Read the head of an answer to a request by `method`.

    Raises:
        MessageRefused: it is malformed or too large; the status is what the caller is to be told.
    """
    pseudo, regular = _split(fields, _ANSWER_PSEUDO, status=502)
    _check_size(fields, limits, status=502)
    text = pseudo.get(b":status", b"")
    if len(text) != 3 or not text.isdigit() or not b"100" <= text <= b"599":
        raise _malformed("no status", status=502)
    status = int(text)
    if status < 200 and (ended or status == 101):
        raise _malformed("an informational answer that ends, or switches protocols", status=502)
    head = ResponseHead(status)
    length: int | None = None
    for each in regular:
        name, value = each
        if name not in _SPECIAL:
            head.fields.append(each)
        elif name == b"content-length":
            length = _length(value, length, status=502)
        elif name in _CONNECTION_SPECIFIC:
            raise _malformed("a field that concerns an HTTP/1.1 connection", status=502)
        elif name in (b"cookie", b"expect"):
            head.fields.append(each)
    if has_no_body(method, status):
        # What the body would have been long: only where there might have been one.
        head.length = length if status >= 200 and status != 204 else None
    elif ended and length:
        raise _malformed("a content-length, and no content", status=502)
    else:
        head.length = 0 if ended else length
    return head


def read_trailers(fields: Sequence[Field], *, limits: HttpLimits, status: int = 400) -> Fields:
    """Read what follows a body.

    Raises:
        MessageRefused: it is malformed or too large; its status is `status`, or 431 of a request.
    """
    _, regular = _split(fields, frozenset(), status=status)
    if _size(fields) > limits.trailer_bytes:
        raise MessageRefused(
            431 if status == 400 else status,
            TRAILERS_TOO_LARGE,
            f"more than {limits.trailer_bytes} bytes of trailers",
        )
    if any(name in _CONNECTION_SPECIFIC for name, _ in regular):
        raise _malformed("a field that concerns an HTTP/1.1 connection", status=status)
    return list(regular)


def request_fields(head: RequestHead, *, ended: bool) -> Fields:
    """Give the fields that a request is sent with; `ended` when it has no body."""
    fields = [
        (b":method", head.method),
        (b":scheme", head.scheme),
        (b":authority", head.authority),
        (b":path", head.target),
    ]
    fields += [each for each in head.fields if each[0] not in _NOT_WRITTEN]
    if head.length and not ended:
        fields.append((b"content-length", b"%d" % head.length))
    if head.expects_continue:
        fields.append((b"expect", _CONTINUE))
    if head.trailers:
        fields.append((b"te", b"trailers"))
    return fields


def response_fields(head: ResponseHead, *, ended: bool) -> Fields:
    """Give the fields that an answer is sent with; `ended` when nothing follows."""
    fields = [(b":status", b"%d" % head.status)]
    fields += [each for each in head.fields if each[0] not in _NOT_WRITTEN]
    # RFC 9110 section 8.6: never with 1xx and 204. Where the end says that there is nothing, 0 adds nothing.
    if (
        head.length is not None
        and not (ended and head.length == 0)
        and head.status >= 200
        and head.status != 204
    ):
        fields.append((b"content-length", b"%d" % head.length))
    return fields


def trailer_fields(trailers: Fields) -> Fields:
    """Give the fields that are sent after a body."""
    return [each for each in trailers if each[0] not in _NOT_WRITTEN and not each[0].startswith(b":")]


def _split(
    fields: Sequence[Field], allowed: frozenset[bytes], *, status: int = 400
) -> tuple[dict[bytes, bytes], Sequence[Field]]:
    """Part the pseudo fields from the others, and check the form of all."""
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name not in allowed or name in pseudo:
            raise _malformed("a pseudo field that is unknown, or there twice", status=status)
        pseudo[name] = value
        count += 1
    regular = fields[count:]
    # The trailing line makes both end with a newline, as every line of the expressions does.
    names = b"\n".join([name for name, _ in regular] + [b""])
    values = b"\n".join([value for _, value in fields] + [b""])
    if names.count(b"\n") != len(regular) or not _NAMES.match(names):
        raise _malformed("a field's name is none", status=status)
    if values.count(b"\n") != len(fields) or not _VALUES.match(values):
        raise _malformed("a field's value holds what none may", status=status)
    return pseudo, regular


def _size(fields: Sequence[Field]) -> int:
    return sum([len(name) + len(value) for name, value in fields]) + FIELD_OVERHEAD * len(fields)


def _check_size(fields: Sequence[Field], limits: HttpLimits, *, status: int = 431) -> None:
    if len(fields) > limits.fields:
        raise MessageRefused(status, TOO_MANY_FIELDS, f"more than {limits.fields} fields")
    if _size(fields) > limits.head_bytes:
        raise MessageRefused(status, HEAD_TOO_LARGE, f"more than {limits.head_bytes} bytes of fields")


def _length(value: bytes, before: int | None, *, status: int = 400) -> int:
    if before is not None or not CONTENT_LENGTH.fullmatch(value):
        raise _malformed("content-length is no length, or there twice", status=status)
    return int(value)


def _malformed(detail: str, *, status: int = 400) -> MessageRefused:
    return MessageRefused(status, MALFORMED, detail)
