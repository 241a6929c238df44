import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.sniff import MAX_FIRST_BYTES, PREFACE, Sniffed, read_spoken, sniff


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (PREFACE, Sniffed.HTTP_2),
        (PREFACE + b"\x00\x00\x00\x04", Sniffed.HTTP_2),
        (b"GET / HTTP/1.1\r\n", Sniffed.HTTP_1),
        (b"GET / HTTP/1.0\r\nHost: a\r\n", Sniffed.HTTP_1),
        (b"OPTIONS * HTTP/1.1\r\n", Sniffed.HTTP_1),
        (b"M-SEARCH http://a/ HTTP/1.1\r\n", Sniffed.HTTP_1),
        (b"GET / HTTP/1.1\n", Sniffed.TCP),
        (b"GET /\r\n", Sniffed.TCP),
        (b"GET / HTTP/2.0\r\n", Sniffed.TCP),
        (b"PRI * HTTP/2.0\r\n\r\nXX", Sniffed.TCP),
        (b"get / HTTP/1.1\r\n", Sniffed.TCP),
        (b" GET / HTTP/1.1\r\n", Sniffed.TCP),
        (b"\r\nGET / HTTP/1.1\r\n", Sniffed.TCP),
        (b"GET  / HTTP/1.1\r\n", Sniffed.TCP),
        (b"GET /\x00 HTTP/1.1\r\n", Sniffed.TCP),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Sniffed.TCP),
        (b"EHLO mail.example\r\n", Sniffed.TCP),
        (b"\x16\x03\x01\x02\x00", Sniffed.TCP),
        (b"*1\r\n$4\r\nPING\r\n", Sniffed.TCP),
        (b"", None),
        (b"P", None),
        (b"GET", None),
        (b"GET /x", None),
        (b"GET /x HTTP/1.", None),
        (b"GET /x HTTP/1.1\r", None),
        (PREFACE[:-1], None),
    ],
)
def test_found(first: bytes, found: Sniffed | None) -> None:
    """What surely is HTTP is found, what surely is not is TCP, and the rest waits."""
    assert sniff(first) is found


def test_endless_line() -> None:
    """A request line without an end is not waited for beyond the longest that would be taken."""
    assert sniff(b"GET /" + b"a" * (MAX_FIRST_BYTES - 6)) is None
    assert sniff(b"GET /" + b"a" * MAX_FIRST_BYTES) is Sniffed.TCP


@given(st.binary(max_size=64), st.integers(0, 64))
def test_more_bytes_never_change_it(data: bytes, cut: int) -> None:
    """What was found stays found, however the bytes come in."""
    found = sniff(data[:cut])
    assert found is None or sniff(data) is found


@given(st.from_regex(rb"[A-Z]{3,7} /[!-~]{0,40} HTTP/1\.[01]\r\n", fullmatch=True), st.data())
def test_any_chunking_of_a_request_line(line: bytes, data: st.DataObject) -> None:
    """Every beginning of a request line waits for the rest."""
    assert sniff(line) is Sniffed.HTTP_1
    assert sniff(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@pytest.mark.parametrize(
    ("headers", "spoken"),
    [
        ([], None),
        ([(b"nodemesh-protocol", b"h2")], Sniffed.HTTP_2),
        ([(b"nodemesh-protocol", b"tcp"), (b"forwarded", b"for=x")], Sniffed.TCP),
        ([(b"nodemesh-protocol", b"H2")], None),
        ([(b"nodemesh-protocol", b"tcp"), (b"nodemesh-protocol", b"h2")], None),
    ],
)
def test_what_the_source_says(headers: list[tuple[bytes, bytes]], spoken: Sniffed | None) -> None:
    """One value that is understood says what a stream carries; anything else says nothing."""
    assert read_spoken(headers) is spoken
