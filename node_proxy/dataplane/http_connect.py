"""HTTP/1 CONNECT (RFC 9110 section 9.3.6, RFC 9112), the server's side. Pure.

Strict: two readers that understand a request differently are how requests are smuggled, and what is read here
has no reader behind it that could tell.
"""

import re
from typing import Final

from node_proxy.dataplane.destination import Destination, read_destination
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.reason import Reason, render_reason

# As much as most servers take; a CONNECT has a few hundred bytes.
MAX_HEAD: Final = 8192
MAX_FIELDS: Final = 64
_END: Final = b"\r\n\r\n"

_REQUEST: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.([01])\Z")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})\Z")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)\Z")

_STATUSES: Final = {
    Refused.DENIED: 403,
    Refused.UNKNOWN: 404,
    Refused.UNREACHABLE: 502,
    Refused.LATE: 504,
    Refused.FAILED: 502,
}
_PHRASES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    504: "Gateway Timeout",
}


class HttpConnect:
    """A `Handshake`."""

    def __init__(self) -> None:
        self.destination: Destination | None = None
        self.broken = ""
        self._buffer = bytearray()
        self._output = b""

    def receive(self, data: bytes) -> int:
        """Take bytes; gives how many of them belong to the request's head."""
        before = len(self._buffer)
        self._buffer += data
        end = self._buffer.find(_END, max(0, before - len(_END) + 1))
        if end < 0 and len(self._buffer) <= MAX_HEAD:
            return len(data)
        if end < 0 or end + len(_END) > MAX_HEAD:
            self._break(431, f"the head is longer than {MAX_HEAD} bytes")
            return len(data)
        self._read(bytes(self._buffer[:end]))
        return end + len(_END) - before

    def take_output(self) -> bytes:
        """Give, once, what is to be sent now."""
        output, self._output = self._output, b""
        return output

    def granted(self) -> bytes:
        """Give the answer after which payload flows."""
        # Without length: RFC 9110 section 9.3.6 forbids it here.
        return b"HTTP/1.1 200 Connection established\r\n\r\n"

    def refused(self, why: Refused, reason: Reason) -> bytes:
        """Give the answer before the connection is closed."""
        return _refusal(_STATUSES[why], f"nodemesh-reason: {render_reason(reason)}\r\n")

    def _read(self, head: bytes) -> None:
        request, *fields = head.split(b"\r\n")
        found = _REQUEST.match(request)
        if found is None:
            self._break(400, "the request line is malformed")
            return
        method, target, minor = found[1], found[2].decode("ascii"), found[3]
        if method != b"CONNECT":
            self._break(405, "the method is not CONNECT", "allow: CONNECT\r\n")
            return
        if fault := _fault(fields, http11=minor == b"1"):
            self._break(400, fault)
            return
        authority = _AUTHORITY.match(target)
        if authority is None:
            self._break(400, "the target is not host:port")
            return
        try:
            self.destination = read_destination(authority[1] or authority[2], int(authority[3]))
        except ValueError as error:
            self._break(400, str(error))

    def _break(self, status: int, why: str, fields: str = "") -> None:
        self.broken = why
        self._output += _refusal(status, fields)


def _fault(fields: list[bytes], *, http11: bool) -> str:
    """Say what is wrong with the header, empty when nothing is."""
    if len(fields) > MAX_FIELDS:
        return f"there are more than {MAX_FIELDS} header fields"
    hosts = 0
    for line in fields:
        field = _FIELD.match(line)
        if field is None:
            return "a header field is malformed"
        match field[1].lower():
            case b"host":
                hosts += 1
            case b"transfer-encoding":
                return "a CONNECT has no content"
            case b"content-length" if field[2].strip(b" \t") != b"0":
                return "a CONNECT has no content"
            case _:
                pass
    # RFC 9112 section 3.2.
    return "" if hosts == 1 or (hosts == 0 and not http11) else "there must be one Host"


def _refusal(status: int, fields: str) -> bytes:
    head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{fields}content-length: 0\r\nconnection: close\r\n\r\n"
    return head.encode("ascii")
