"""What the fields of one connection say about it and its message (RFC 9112 sections 6 and 9). Pure."""

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h1_body import BODILESS, BY_LENGTH, IN_CHUNKS, Framing
from node_proxy.dataplane.http.h1_syntax import (
    BAD_EXPECTATION,
    BAD_FIELD,
    BAD_FRAMING,
    BAD_HOST,
    CONTENT_LENGTH,
    PROTOCOL,
    TOKEN,
    bad,
)
from node_proxy.dataplane.http.message import HTTP_11, Fields, Version

# RFC 9112 section 7: codings that exist, and that nobody sends.
_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"})
# Behind an upgrade nobody judges what is asked for: HTTP/2 (RFC 9113 section 3.1 has none any more), HTTP of
# whatever version, and TLS (RFC 2817), within which a workload goes on with HTTP.
_CARRY_REQUESTS = frozenset({b"h2c", b"h2", b"h3", b"http", b"https", b"tls", b"ssl"})
_NO_OPTIONS: frozenset[bytes] = frozenset()
_KEEP_ALIVE = frozenset({b"keep-alive"})
# Options that name no field that could be left in a header.
_PLAIN_OPTIONS = frozenset({b"close", b"keep-alive", b"te", b"upgrade"})


class Said:
    """What the fields of a connection say, of which none may say two things."""

    __slots__ = ("chunked", "expect", "host", "length", "options", "te", "upgrade", "version")

    def __init__(self, special: Fields, version: Version) -> None:
        self.version = version
        self.host: bytes | None = None
        self.length: int | None = None
        self.chunked = False
        self.expect = False
        self.options = _NO_OPTIONS
        self.te = b""
        self.upgrade = b""
        for name, value in special:
            match name:
                case b"host":
                    if self.host is not None:
                        raise bad(BAD_HOST, "there are several Host fields")
                    self.host = value
                case b"connection":
                    self._add_options(value)
                case b"content-length":
                    self._set_length(value)
                case b"transfer-encoding":
                    self._set_coding(value)
                case b"expect":
                    if value.lower() != b"100-continue":
                        raise MessageRefused(417, BAD_EXPECTATION, "the expectation is not known")
                    self.expect = True
                case b"te":
                    self.te += b"," + value
                case b"upgrade":
                    self.upgrade += b"," + value if self.upgrade else value
        if self.chunked and self.length is not None:
            raise bad(BAD_FRAMING, "there are both a length and a transfer coding")

    @property
    def framing(self) -> Framing:
        """What tells the end of the body, if the message may have one."""
        if self.chunked:
            return IN_CHUNKS
        return BY_LENGTH if self.length else BODILESS

    @property
    def keep_alive(self) -> bool:
        """Whether the connection outlives the message (RFC 9112 section 9.3)."""
        if b"close" in self.options:
            return False
        return self.version is HTTP_11 or b"keep-alive" in self.options

    @property
    def takes_trailers(self) -> bool:
        """Whether ``te: trailers`` was said (RFC 9110 section 10.1.4)."""
        return any(each.strip(b" \t").lower() == b"trailers" for each in self.te.split(b","))

    def keep(self, fields: Fields) -> Fields:
        """Give what is left of the fields when those that `connection` names are gone."""
        named = self.options - _PLAIN_OPTIONS
        return [each for each in fields if each[0] not in named] if named else fields

    def _add_options(self, value: bytes) -> None:
        if value == b"keep-alive":
            # What most say who say anything.
            self.options |= _KEEP_ALIVE
            return
        options = {each.strip(b" \t").lower() for each in value.split(b",")} - {b""}
        if not all(TOKEN.fullmatch(each) for each in options):
            raise bad(BAD_FIELD, "a connection option is no token")
        self.options |= options

    def _set_length(self, value: bytes) -> None:
        if self.length is not None:
            raise bad(BAD_FRAMING, "there are several lengths")
        if not CONTENT_LENGTH.fullmatch(value):
            raise bad(BAD_FRAMING, "the length is no number")
        self.length = int(value)

    def _set_coding(self, value: bytes) -> None:
        if self.chunked:
            raise bad(BAD_FRAMING, "there are several transfer codings")
        if self.version is not HTTP_11:
            raise bad(BAD_FRAMING, "HTTP/1.0 has no transfer codings")
        coding = value.lower()
        if coding != b"chunked":
            *others, last = (each.strip(b" \t") for each in coding.split(b","))
            if last == b"chunked" and _CODINGS.issuperset(others):
                raise MessageRefused(501, BAD_FRAMING, "only chunked is known as transfer coding")
            raise bad(BAD_FRAMING, "the transfer coding is not chunked")
        self.chunked = True


def first_protocol(said: bytes) -> bytes:
    """Give the first protocol of an upgrade that can be carried: none that carries requests in its turn."""
    for each in said.lower().split(b","):
        protocol = each.strip(b" \t")
        if PROTOCOL.fullmatch(protocol) and protocol.partition(b"/")[0] not in _CARRY_REQUESTS:
            return protocol
    return b""
