"""HTTP CONNECT as RFC 9110 and 9112 say it, read strictly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.http_connect import MAX_HEAD, HttpConnect
from node_proxy.dataplane.reason import Reason
from tests.node_proxy.dataplane.handshakes import feed, in_pieces

CURL = (
    b"CONNECT api.mesh:8080 HTTP/1.1\r\nHost: api.mesh:8080\r\nUser-Agent: curl/8.5.0\r\n"
    b"Proxy-Connection: Keep-Alive\r\n\r\n"
)


def connect(target: str = "a.example:80", *fields: str, version: str = "1.1", host: str = "Host: a") -> bytes:
    """Write a request."""
    lines = [f"CONNECT {target} HTTP/{version}", *([host] if host else []), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@given(in_pieces(CURL + b"\x16\x03\x01"))
def test_any_pieces(pieces: list[bytes]) -> None:
    """However the bytes come, the destination is the same, and the payload behind is left alone."""
    handshake = HttpConnect()
    sent, rest = feed(handshake, pieces)
    assert (handshake.destination, handshake.broken) == (Destination("api.mesh", 8080), "")
    assert (sent, rest) == (b"", b"\x16\x03\x01")
    assert handshake.granted() == b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "destination"),
    [
        (connect("192.0.2.7:80"), Destination("192.0.2.7", 80)),
        (connect("[2001:db8::7]:443"), Destination("2001:db8::7", 443)),
        (connect("API.mesh:1"), Destination("api.mesh", 1)),
        (connect(version="1.0", host=""), Destination("a.example", 80)),
        (connect("a.example:80", "Content-Length: 0", "X-Y:", "X: caf\xe9"), Destination("a.example", 80)),
    ],
)
def test_read(data: bytes, destination: Destination) -> None:
    """What clients send is understood."""
    handshake = HttpConnect()
    feed(handshake, [data])
    assert (handshake.destination, handshake.broken) == (destination, "")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET http://api.mesh/ HTTP/1.1\r\nHost: api.mesh\r\n\r\n", 405),
        (connect("api.mesh"), 400),
        (connect("api.mesh:0"), 400),
        (connect("api.mesh:65536"), 400),
        (connect("api.mesh:80/"), 400),
        (connect("http://api.mesh:80"), 400),
        (connect("user@api.mesh:80"), 400),
        (connect("127.1:80"), 400),
        (connect("2001:db8::7:443"), 400),
        (connect(version="2.0"), 400),
        (connect(version="1.10"), 400),
        (connect(host=""), 400),
        (connect("a:1", "Host: b"), 400),
        (connect("a:1", "Content-Length: 5"), 400),
        (connect("a:1", "Content-Length: 0, 5"), 400),
        (connect("a:1", "Transfer-Encoding: chunked"), 400),
        (connect("a:1", "X : y"), 400),
        (connect("a:1", " folded"), 400),
        (connect("a:1", "X: \x00"), 400),
        (connect("a:1", "X: a\nY: b"), 400),
        (connect("a:1", "X: a\rY: b"), 400),
        (connect("a:1", *(f"X{n}: y" for n in range(64))), 400),
        (b"\r\n\r\n", 400),
        (b"CONNECT  a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (connect("a:1", "X: " + "y" * MAX_HEAD), 431),
        (b"x" * (MAX_HEAD + 1), 431),
    ],
)
def test_broken(data: bytes, status: int) -> None:
    """What is not exactly a CONNECT gets the status that says so, and leads nowhere."""
    handshake = HttpConnect()
    sent, _ = feed(handshake, [data])
    assert sent.startswith(b"HTTP/1.1 %d " % status)
    assert sent.endswith(b"content-length: 0\r\nconnection: close\r\n\r\n")
    assert handshake.broken
    assert handshake.destination is None


@pytest.mark.parametrize(
    ("why", "status"),
    [
        (Refused.DENIED, 403),
        (Refused.UNKNOWN, 404),
        (Refused.UNREACHABLE, 502),
        (Refused.LATE, 504),
        (Refused.FAILED, 502),
    ],
)
def test_refused(why: Refused, status: int) -> None:
    """Each refusal has its status, and the reason by which it is found in the logs."""
    answer = HttpConnect().refused(why, Reason("denied", "default/no-web", "0123abcd-7"))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nnodemesh-reason: denied; policy=default/no-web; id=0123abcd-7\r\n" in answer


@given(st.binary(max_size=300))
def test_whatever_comes(data: bytes) -> None:
    """No bytes crash it."""
    feed(HttpConnect(), [data, b"\r\n\r\n"])
