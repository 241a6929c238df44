"""Requests and answers as values, whatever version of HTTP they came in. Pure.

Names of fields are in lower case. `host`, `content-length` and everything that concerns one connection only
(RFC 9110 section 7.6.1: connection, keep-alive, te, transfer-encoding, upgrade, ...) is no field here: it
became a value of its own, and whoever writes the message makes it anew.
"""

import enum
from dataclasses import dataclass, field
from typing import Final

Field = tuple[bytes, bytes]
Fields = list[Field]


class Version(enum.Enum):
    """The version of HTTP that a message came in."""

    HTTP_10 = "HTTP/1.0"
    HTTP_11 = "HTTP/1.1"
    HTTP_2 = "HTTP/2"

    # That of an Enum is a function in Python, and connections are looked up by their version.
    __hash__ = object.__hash__


# By these names where every message asks: a member looked up on its class costs seven times as much.
HTTP_10: Final = Version.HTTP_10
HTTP_11: Final = Version.HTTP_11
HTTP_2: Final = Version.HTTP_2


@dataclass(slots=True)
class RequestHead:
    """A request without its body.

    Args:
        method: a token, as it came.
        target: path and query, beginning with ``/``; or ``*`` of an OPTIONS.
        authority: host and perhaps port, in lower case; empty when the caller names none: HTTP/1.0, or an
            empty Host.
        fields: the header, in order.
        version: how it came.
        scheme: ``http`` unless the caller said otherwise.
        length: of the body in bytes; 0 when there is none, None when only its end will tell.
        upgrade: the protocol that the caller would rather speak, as ``websocket``; empty if none.
        expects_continue: the caller waits for 100 before it sends its body (RFC 9110 section 10.1.1).
        trailers: whether the caller takes trailers (``te: trailers``); gRPC insists.
    """

    method: bytes
    target: bytes
    authority: bytes
    fields: Fields
    version: Version = Version.HTTP_11
    scheme: bytes = b"http"
    length: int | None = 0
    upgrade: bytes = b""
    expects_continue: bool = False
    trailers: bool = False

    def changed(self, *, target: bytes, authority: bytes, fields: Fields) -> "RequestHead":
        """Give the same request with these in the place of its own."""
        # By position: names would double what it costs.
        return RequestHead(
            self.method,
            target,
            authority,
            fields,
            self.version,
            self.scheme,
            self.length,
            self.upgrade,
            self.expects_continue,
            self.trailers,
        )


@dataclass(slots=True)
class ResponseHead:
    """An answer without its body; `status` below 200 is informational, and another answer follows.

    `length` as in `RequestHead`; None also where only the connection's end will tell. Of an answer to HEAD or
    with 304, which has no body, it is what the body would have had; None when that was not said. `upgrade` is
    what a 101 switches to.
    """

    status: int
    fields: Fields = field(default_factory=list)
    length: int | None = None
    upgrade: bytes = b""


def has_no_body(method: bytes, status: int) -> bool:
    """Whether an answer has no body whatever its fields say (RFC 9110 section 6.4.1)."""
    return method == b"HEAD" or status < 200 or status in (204, 304)


def says_length(method: bytes, status: int) -> bool:
    """Whether an answer without body may say how long it would have been (RFC 9110 section 8.6)."""
    return status == 304 or (method == b"HEAD" and status >= 200 and status != 204)


def first(fields: Fields, name: bytes) -> bytes | None:
    """Give the first value of a field."""
    for each, value in fields:
        if each == name:
            return value
    return None
