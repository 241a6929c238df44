"""SOCKS 5 as RFC 1928 says it."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.reason import Reason
from node_proxy.dataplane.socks5 import Socks5
from tests.node_proxy.dataplane.handshakes import feed, in_pieces

GREETING = b"\x05\x01\x00"
CHOSEN = b"\x05\x00"


def request(host: str, port: int = 80, *, command: int = 1) -> bytes:
    """Write a request as a client does."""
    try:
        packed = ip_address(host).packed
    except ValueError:
        address = b"\x03" + bytes([len(host)]) + host.encode()
    else:
        address = (b"\x01" if len(packed) == 4 else b"\x04") + packed
    return b"\x05" + bytes([command]) + b"\x00" + address + struct.pack("!H", port)


def reply(code: int) -> bytes:
    return b"\x05" + bytes([code]) + b"\x00\x01" + bytes(6)


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "api.mesh", "a"])
@given(data=st.data())
def test_any_pieces(host: str, data: st.DataObject) -> None:
    """However the bytes come, the destination is the same, and the payload behind is left alone."""
    pieces = data.draw(in_pieces(GREETING + request(host, 8080) + b"GET /"))
    handshake = Socks5()
    sent, rest = feed(handshake, pieces)
    assert (handshake.destination, handshake.broken) == (Destination(host, 8080), "")
    assert (sent, rest) == (CHOSEN, b"GET /")
    assert handshake.granted() == reply(0)


def test_several_methods() -> None:
    """Of the methods offered, none is chosen that authenticates."""
    handshake = Socks5()
    sent, _ = feed(handshake, [b"\x05\x03\x02\x00\x01", request("api.mesh")])
    assert (sent, handshake.destination) == (CHOSEN, Destination("api.mesh", 80))


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x04\x01\x00P\x7f\x00\x00\x01\x00", b""),
        (b"GET / HTTP/1.1\r\n", b""),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (GREETING + b"\x04\x01\x00\x01" + bytes(6), CHOSEN + reply(1)),
        (GREETING + request("192.0.2.7", command=2), CHOSEN + reply(7)),
        (GREETING + request("192.0.2.7", command=3), CHOSEN + reply(7)),
        (GREETING + b"\x05\x01\x00\x02" + bytes(6), CHOSEN + reply(8)),
        (GREETING + b"\x05\x01\x00\x03\x00\x00P", CHOSEN + reply(1)),
        (GREETING + b"\x05\x01\x00\x03\x02\xc3\xa9\x00P", CHOSEN + reply(1)),
        (GREETING + request("192.0.2.7", 0), CHOSEN + reply(1)),
        (GREETING + request("127.1"), CHOSEN + reply(1)),
    ],
    ids=["version-4", "http", "password", "no-method", "version", "bind", "udp", "type", "empty", "not-ascii",
         "port-0", "half-an-address"],
)  # fmt: skip
def test_broken(data: bytes, answer: bytes) -> None:
    """What is not to be understood gets the reply that says so, and leads nowhere."""
    handshake = Socks5()
    sent, _ = feed(handshake, [data])
    assert sent == answer
    assert handshake.broken
    assert handshake.destination is None


@pytest.mark.parametrize(
    ("why", "code"),
    [
        (Refused.DENIED, 2),
        (Refused.UNKNOWN, 4),
        (Refused.UNREACHABLE, 5),
        (Refused.LATE, 6),
        (Refused.FAILED, 1),
    ],
)
def test_refused(why: Refused, code: int) -> None:
    """Each refusal has the reply that comes nearest."""
    assert Socks5().refused(why, Reason("denied")) == reply(code)


@given(st.binary(max_size=600))
def test_whatever_comes(data: bytes) -> None:
    """No bytes crash it, and it never waits for more than a message can have."""
    handshake = Socks5()
    feed(handshake, [data])
    if len(data) > 2 + 255 + 4 + 256 + 2:
        assert handshake.broken or handshake.destination
