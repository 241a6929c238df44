"""The PROXY protocol (HAProxy, 2020), section 2.2, read by its own structures."""

import ipaddress
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.proxy_header import LOCAL_HEADER, SPIFFE_ID, proxy_header

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
WEB = "spiffe://nodemesh.local/ns/default/sa/web"
PORTS = st.integers(0, 65535)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@dataclass
class Told:
    """What a receiver understands."""

    command: int
    family: int
    source: tuple[str, int]
    destination: tuple[str, int]
    tlvs: dict[int, bytes]


def read(header: bytes) -> Told:
    """Read a header as the specification says, strictly: nothing may be left over."""
    signature, version_command, family, length = struct.unpack_from("!12sBBH", header)
    assert signature == SIGNATURE
    assert version_command >> 4 == 2
    body = header[16:]
    assert len(body) == length
    assert family & 0xF == 1, "STREAM"
    size, kind = {1: (4, ipaddress.IPv4Address), 2: (16, ipaddress.IPv6Address)}[family >> 4]
    ends = [str(kind(body[i * size : (i + 1) * size])) for i in range(2)]
    ports = struct.unpack_from("!HH", body, 2 * size)
    tlvs, rest = {}, body[2 * size + 4 :]
    while rest:
        number, size = struct.unpack_from("!BH", rest)
        assert number not in tlvs
        tlvs[number], rest = rest[3 : 3 + size], rest[3 + size :]
    return Told(version_command & 0xF, family >> 4, (ends[0], ports[0]), (ends[1], ports[1]), tlvs)


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (
            ("192.168.0.1", 56324),
            ("192.168.0.11", 443),
            # "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443", section 2.1's example, in binary.
            "0D0A0D0A000D0A515549540A 21 11 000C C0A80001 C0A8000B DC04 01BB",
        ),
        (
            ("2001:db8::1", 56324),
            ("2001:db8::2", 443),
            "0D0A0D0A000D0A515549540A 21 21 0024"
            "20010DB8000000000000000000000001 20010DB8000000000000000000000002 DC04 01BB",
        ),
    ],
)
def test_bytes(source: tuple[str, int], destination: tuple[str, int], expected: str) -> None:
    """A header is exactly these bytes."""
    assert proxy_header(source=source, destination=destination) == bytes.fromhex(expected)


def test_local() -> None:
    """A health check is LOCAL and of no family, as section 2.2 wants it of connections of the proxy's own."""
    assert bytes.fromhex("0D0A0D0A000D0A515549540A 20 00 0000") == LOCAL_HEADER


def test_identity() -> None:
    """The caller's SPIFFE ID is one TLV of the first custom type (PP2_TYPE_MIN_CUSTOM)."""
    told = read(proxy_header(source=("10.0.0.1", 7), destination=("10.0.0.2", 80), spiffe_id=WEB))
    assert SPIFFE_ID == 0xE0
    assert told.tlvs == {0xE0: WEB.encode()}


def test_two_families() -> None:
    """A header has one family for both ends: an IPv4 address is then written as IPv6."""
    told = read(proxy_header(source=("10.0.0.1", 7), destination=("fd77::2", 80)))
    assert told.family == 2
    assert ipaddress.IPv6Address(told.source[0]).ipv4_mapped == ipaddress.IPv4Address("10.0.0.1")


@given(ADDRESSES, PORTS, ADDRESSES, PORTS, st.text(st.characters(codec="ascii"), max_size=2048))
def test_read_back(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address,
    destination_port: int,
    spiffe_id: str,
) -> None:
    """Whatever is said is read back by the specification's own structures."""
    header = proxy_header(
        source=(str(source), source_port),
        destination=(str(destination), destination_port),
        spiffe_id=spiffe_id,
    )
    told = read(header)
    assert told.command == 1
    for (address, port), meant in (
        (told.source, (source, source_port)),
        (told.destination, (destination, destination_port)),
    ):
        seen = ipaddress.ip_address(address)
        assert meant in ((seen, port), (getattr(seen, "ipv4_mapped", None), port))
    assert told.tlvs == ({SPIFFE_ID: spiffe_id.encode()} if spiffe_id else {})
