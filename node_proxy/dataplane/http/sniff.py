"""What a connection to a port of `protocol: auto` speaks, by its first bytes. Pure.

Only what is surely HTTP counts as HTTP: HTTP/2's preface, or a whole request line of HTTP/1. To take it for
TCP by mistake is safe, since rules over requests never allow anything there; the other way round were not.
"""

import enum
import re
from collections.abc import Iterable
from typing import Final

# A field of CONNECT: says to the destination's proxy what a stream carries, so that it need not find out.
PROTOCOL_HEADER: Final = b"nodemesh-protocol"

# RFC 9113 section 3.4.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A request line that is not whole by then is none: the longest method and target that we would take.
MAX_FIRST_BYTES: Final = 17 * 1024

# RFC 9112 section 3, with methods as they are in use: what begins otherwise is told apart by its first bytes.
_METHOD = rb"[A-Z][A-Z_-]{1,31}"
_LINE = re.compile(_METHOD + rb" [\x21-\x7e]+ HTTP/1\.[01]\r\n")
_BEGINNING = re.compile(
    rb"[A-Z](?:[A-Z_-]{0,31}\Z|[A-Z_-]{1,31} "
    rb"(?:[\x21-\x7e]*\Z|[\x21-\x7e]+ (?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?\Z))"
)


class Sniffed(enum.Enum):
    """What was found; the value is what the source tells the destination (header `nodemesh-protocol`)."""

    TCP = "tcp"
    HTTP_1 = "http/1.1"
    HTTP_2 = "h2"


def sniff(first: bytes) -> Sniffed | None:
    """Say what a connection speaks that begins with these bytes; None while more could still tell."""
    if first.startswith(PREFACE):
        return Sniffed.HTTP_2
    if PREFACE.startswith(first):
        return None
    if _LINE.match(first):
        return Sniffed.HTTP_1
    if len(first) < MAX_FIRST_BYTES and _BEGINNING.match(first):
        return None
    return Sniffed.TCP


def read_spoken(headers: Iterable[tuple[bytes, bytes]]) -> Sniffed | None:
    """Read what the caller's proxy says that a stream carries; None when it says nothing we understand."""
    said = [value for name, value in headers if name == PROTOCOL_HEADER]
    if len(said) != 1:
        return None
    return next((each for each in Sniffed if each.value.encode("ascii") == said[0]), None)
