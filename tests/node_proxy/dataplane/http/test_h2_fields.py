"""Heads as fields of HTTP/2: what is refused, and what comes back the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.h2_fields import (
    read_request,
    read_response,
    read_trailers,
    request_fields,
    response_fields,
    trailer_fields,
)
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead, Version

_LIMITS = HttpLimits(head_bytes=4096, fields=16, target_bytes=256, trailer_bytes=512)
_GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"api"), (b":path", b"/")]


def _with(name: bytes, value: bytes) -> Fields:
    return [(each, value if each == name else said) for each, said in _GET]


def _without(name: bytes) -> Fields:
    return [each for each in _GET if each[0] != name]


_MALFORMED: list[Fields] = [
    # RFC 9113 section 8.3: pseudo fields.
    [],
    _without(b":method"),
    _without(b":scheme"),
    _without(b":path"),
    _without(b":authority"),
    [*_GET, (b":method", b"POST")],
    [*_GET, (b":path", b"/admin")],
    [*_GET, (b":authority", b"api")],
    [*_GET, (b":status", b"200")],
    [*_GET, (b":protocol", b"websocket")],
    [*_GET, (b":unknown", b"x")],
    [*_GET, (b"a", b"b"), (b":path", b"/admin")],
    [(b"a", b"b"), *_GET],
    [*_GET, (b":", b"x")],
    _with(b":method", b""),
    _with(b":method", b"GE T"),
    _with(b":method", b"get"),
    _with(b":method", b"connect"),
    _with(b":method", b"GET\r\nx: y"),
    _with(b":method", b"A" * 33),
    _with(b":scheme", b""),
    _with(b":scheme", b"ftp"),
    _with(b":scheme", b"http://x/?"),
    # Targets, which become lines of HTTP/1.1.
    _with(b":path", b""),
    _with(b":path", b"*"),
    _with(b":path", b"admin"),
    _with(b":path", b"http://api/admin"),
    _with(b":path", b"/a b"),
    _with(b":path", b"/a\tb"),
    _with(b":path", b"/ HTTP/1.1\r\nhost: evil"),
    _with(b":path", b"/\x00"),
    _with(b":path", b"/\x7f"),
    _with(b":path", b"/caf\xc3\xa9"),
    _with(b":path", b"/a#b"),
    # Authorities.
    _with(b":authority", b""),
    _with(b":authority", b"user@api"),
    _with(b":authority", b"api:"),
    _with(b":authority", b"api:65536"),
    _with(b":authority", b"api:80:80"),
    _with(b":authority", b"api/x"),
    _with(b":authority", b"a b"),
    _with(b":authority", b"api%2fx"),
    _with(b":authority", b"[::1"),
    _with(b":authority", b"api\r\nx: y"),
    [*_GET, (b"host", b"evil")],
    [*_GET, (b"host", b"api:80")],
    [*_GET, (b"host", b"api"), (b"host", b"evil")],
    [*_GET, (b"host", b"")],
    # RFC 9113 section 8.2.1: names and values.
    [*_GET, (b"", b"x")],
    [*_GET, (b"X-Upper", b"x")],
    [*_GET, (b"a b", b"x")],
    [*_GET, (b"a:b", b"x")],
    [*_GET, (b"a\nb", b"x")],
    [*_GET, (b"a\r", b"x")],
    [*_GET, (b"a\x00", b"x")],
    [*_GET, (b"caf\xc3\xa9", b"x")],
    [*_GET, (b"transfer-encoding ", b"chunked")],
    [*_GET, (b"a(b)", b"x")],
    [*_GET, (b"a", b"x\r\ny: z")],
    [*_GET, (b"a", b"x\ny")],
    [*_GET, (b"a", b"x\ry")],
    [*_GET, (b"a", b"\n")],
    [*_GET, (b"a", b"x\x00y")],
    [*_GET, (b"a", b"x\x0by")],
    [*_GET, (b"a", b"\x7f")],
    [*_GET, (b"a", b" x")],
    [*_GET, (b"a", b"x ")],
    [*_GET, (b"a", b"x\t")],
    [*_GET, (b"a", b"\t")],
    # RFC 9113 section 8.2.2: the connection's.
    [*_GET, (b"connection", b"close")],
    [*_GET, (b"connection", b"x-internal")],
    [*_GET, (b"transfer-encoding", b"chunked")],
    [*_GET, (b"keep-alive", b"timeout=5")],
    [*_GET, (b"proxy-connection", b"keep-alive")],
    [*_GET, (b"upgrade", b"h2c")],
    [*_GET, (b"http2-settings", b"AAMAAABkAAQAAP__")],
    [*_GET, (b"te", b"gzip")],
    [*_GET, (b"te", b"trailers, chunked")],
    # Lengths.
    [*_GET, (b"content-length", b"")],
    [*_GET, (b"content-length", b"-1")],
    [*_GET, (b"content-length", b"+1")],
    [*_GET, (b"content-length", b"0x1")],
    [*_GET, (b"content-length", b"1, 1")],
    [*_GET, (b"content-length", b"1"), (b"content-length", b"1")],
    [*_GET, (b"content-length", b"1"), (b"content-length", b"2")],
    [*_GET, (b"content-length", b"9" * 19)],
]


class TestRequests:
    @pytest.mark.parametrize("fields", _MALFORMED)
    def test_malformed(self, fields: Fields) -> None:
        """What HTTP/1.1 would take for something else, or for two things, is no request."""
        with pytest.raises(MessageRefused) as refused:
            read_request(fields, ended=False, limits=_LIMITS)
        assert (refused.value.status, refused.value.reason) == (400, "malformed")

    @pytest.mark.parametrize(
        ("fields", "status", "reason"),
        [
            (_with(b":path", b"/" + b"a" * 256), 414, "target_too_long"),
            ([*_GET, *[(b"a", b"b")] * 13], 431, "too_many_fields"),
            ([*_GET, (b"a", b"b" * 4096)], 431, "head_too_large"),
            ([*_GET, (b"expect", b"the-unexpected")], 417, "bad_expectation"),
            ([(b":method", b"CONNECT"), (b":authority", b"api:80")], 501, "not_offered"),
            ([*_with(b":method", b"CONNECT"), (b"x", b"y")], 501, "not_offered"),
        ],
    )
    def test_refused(self, fields: Fields, status: int, reason: str) -> None:
        """What is too large, or not offered, is told apart from what is malformed."""
        with pytest.raises(MessageRefused) as refused:
            read_request(fields, ended=False, limits=_LIMITS)
        assert (refused.value.status, refused.value.reason) == (status, reason)

    def test_ended_with_a_length(self) -> None:
        """A length without content is a lie."""
        with pytest.raises(MessageRefused):
            read_request([*_GET, (b"content-length", b"1")], ended=True, limits=_LIMITS)

    def test_crumbs(self) -> None:
        """Cookies that came apart are one field again (section 8.2.3)."""
        fields = [*_GET, (b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d"), (b"cookie", b"e=f")]
        head = read_request(fields, ended=True, limits=_LIMITS)
        assert head.fields == [(b"cookie", b"a=b; c=d; e=f"), (b"x", b"y")]

    def test_host_alone(self) -> None:
        """A host stands in for the authority, and is no field."""
        head = read_request([*_without(b":authority"), (b"host", b"API:8080")], ended=True, limits=_LIMITS)
        assert (head.authority, head.fields) == (b"api:8080", [])

    def test_host_agrees(self) -> None:
        """Both may be there if they say the same."""
        head = read_request([*_GET, (b"host", b"Api")], ended=True, limits=_LIMITS)
        assert (head.authority, head.fields) == (b"api", [])

    def test_values(self) -> None:
        """What HTTP/1.1 says by fields of the connection becomes values."""
        fields = [*_GET, (b"te", b"trailers"), (b"expect", b"100-continue"), (b"content-length", b"3")]
        head = read_request(fields, ended=False, limits=_LIMITS)
        assert (head.trailers, head.expects_continue, head.length, head.fields) == (True, True, 3, [])

    def test_asterisk(self) -> None:
        """OPTIONS may ask about the whole server."""
        fields = [*_with(b":method", b"OPTIONS")[:3], (b":path", b"*")]
        assert read_request(fields, ended=True, limits=_LIMITS).target == b"*"

    def test_not_written(self) -> None:
        """What a filter added of the connection's own is not sent."""
        head = RequestHead(
            b"GET",
            b"/",
            b"api",
            [(b"host", b"evil"), (b"connection", b"x"), (b"transfer-encoding", b"chunked")],
        )
        assert request_fields(head, ended=True) == _GET


class TestResponses:
    @pytest.mark.parametrize(
        ("fields", "ended"),
        [
            ([], False),
            ([(b":status", b"20")], False),
            ([(b":status", b"0200")], False),
            ([(b":status", b"099")], False),
            ([(b":status", b"600")], False),
            ([(b":status", b"2 0")], False),
            ([(b":status", b"\xb2\xb2\xb2")], False),
            ([(b":status", b"200"), (b":status", b"200")], False),
            ([(b":status", b"200"), (b":path", b"/")], False),
            ([(b"a", b"b"), (b":status", b"200")], False),
            ([(b":status", b"101")], False),
            ([(b":status", b"100")], True),
            ([(b":status", b"200"), (b"connection", b"close")], False),
            ([(b":status", b"200"), (b"transfer-encoding", b"chunked")], False),
            ([(b":status", b"200"), (b"a", b"x\r\ny: z")], False),
            ([(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"1")], False),
            ([(b":status", b"200"), (b"content-length", b"1")], True),
            ([(b":status", b"200"), *[(b"a", b"b")] * 16], False),
            ([(b":status", b"200"), (b"a", b"b" * 4096)], False),
        ],
    )
    def test_malformed(self, fields: Fields, ended: bool) -> None:
        """What is no answer is the workload's fault, not the caller's."""
        with pytest.raises(MessageRefused) as refused:
            read_response(fields, method=b"GET", ended=ended, limits=_LIMITS)
        assert refused.value.status == 502

    @pytest.mark.parametrize(
        ("method", "status", "fields", "ended", "length"),
        [
            (b"GET", b"200", [(b"content-length", b"5")], False, 5),
            (b"GET", b"200", [], False, None),
            (b"GET", b"200", [], True, 0),
            (b"HEAD", b"200", [(b"content-length", b"5")], True, 5),
            (b"HEAD", b"200", [], True, None),
            (b"GET", b"304", [(b"content-length", b"5")], True, 5),
            (b"GET", b"204", [], True, None),
            (b"GET", b"103", [], False, None),
        ],
    )
    def test_lengths(
        self, method: bytes, status: bytes, fields: Fields, ended: bool, length: int | None
    ) -> None:
        """A length is that of the body, or of the one that HEAD did not ask for."""
        head = read_response([(b":status", status), *fields], method=method, ended=ended, limits=_LIMITS)
        assert head.length == length

    @pytest.mark.parametrize("status", [100, 103, 204])
    def test_no_length_written(self, status: int) -> None:
        """RFC 9110 section 8.6: some answers have no length."""
        assert response_fields(ResponseHead(status, [], 0), ended=False) == [(b":status", b"%d" % status)]


class TestTrailers:
    @pytest.mark.parametrize(
        "fields", [[(b":path", b"/")], [(b"A", b"b")], [(b"a", b"\n")], [(b"connection", b"close")]]
    )
    def test_malformed(self, fields: Fields) -> None:
        """Trailers have no pseudo fields, and are fields like others."""
        with pytest.raises(MessageRefused):
            read_trailers(fields, limits=_LIMITS)

    def test_too_large(self) -> None:
        """They have a bound of their own."""
        with pytest.raises(MessageRefused) as refused:
            read_trailers([(b"a", b"b" * 512)], limits=_LIMITS)
        assert refused.value.status == 431

    def test_written(self) -> None:
        """No trailer that frames the message is sent."""
        assert trailer_fields([(b"content-length", b"1"), (b"a", b"b"), (b":path", b"/")]) == [(b"a", b"b")]


_names = st.from_regex(rb"[a-z][a-z0-9-]{0,10}", fullmatch=True).filter(
    lambda name: (
        name
        not in (
            b"host",
            b"te",
            b"cookie",
            b"expect",
            b"upgrade",
            b"connection",
            b"keep-alive",
            b"content-length",
        )
    )
)
_values = st.from_regex(rb"([!-~\x80-\xff]([ -~]{0,8}[!-~])?)?", fullmatch=True)
_fields = st.lists(st.tuples(_names, _values), max_size=6)


@given(
    st.builds(
        RequestHead,
        method=st.sampled_from([b"GET", b"POST", b"OPTIONS"]),
        target=st.from_regex(rb"/[!-\"$-~]{0,20}", fullmatch=True),
        authority=st.sampled_from([b"api", b"api:8080", b"[::1]:80"]),
        fields=_fields,
        version=st.just(Version.HTTP_2),
        length=st.none() | st.integers(1, 10**6),
        expects_continue=st.booleans(),
        trailers=st.booleans(),
    )
)
def test_request_read_back(head: RequestHead) -> None:
    """What we write we read."""
    assert read_request(request_fields(head, ended=False), ended=False, limits=HttpLimits()) == head


@given(st.builds(ResponseHead, st.integers(200, 599), _fields, st.none() | st.integers(1, 10**6)))
def test_response_read_back(head: ResponseHead) -> None:
    """What we write we read."""
    if head.status in (204, 304):
        head.length = None
    found = read_response(response_fields(head, ended=False), method=b"GET", ended=False, limits=HttpLimits())
    assert found == head


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=12)), max_size=8), st.booleans())
def test_garbage(fields: Fields, ended: bool) -> None:
    """Whatever comes is read or refused, never worse, and what is read can be written in HTTP/1.1."""
    try:
        head = read_request([*_GET, *fields], ended=ended, limits=_LIMITS)
    except MessageRefused:
        return
    for name, value in head.fields:
        assert name
        assert not set(name + value) & set(b"\r\n\x00")
        assert b":" not in name
