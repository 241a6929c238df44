"""RFC 7239: the forwarded header, as far as tunnels use it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.forwarded import parse_forwarded, render_forwarded


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Sections 4, 6 and 7.4.
        (b'for="192.0.2.43:47011"', ("192.0.2.43", 47011)),
        (b"for=192.0.2.43", ("192.0.2.43", 0)),
        (b'For="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", 4711)),
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", ("192.0.2.60", 0)),
        (b'proto=http;host="x;for=10.0.0.1";for="[2001:DB8::1]"', ("2001:db8::1", 0)),
        # A list, or what names nobody.
        (b"for=192.0.2.43, for=198.51.100.17", None),
        (b"for=192.0.2.43;for=198.51.100.17", None),
        (b"for=unknown", None),
        (b'for="_gazonk"', None),
        (b"proto=http", None),
        (b'host="x;for=10.0.0.1"', None),
        # Malformed.
        (b"", None),
        (b"for", None),
        (b"for=", None),
        (b'for=""', None),
        (b"for=10.0.0.256", None),
        (b'for="10.0.0.1:65536"', None),
        (b"for=10.0.0.1:80", None),
        (b'for="2001:db8::1"', None),
        (b'for="[10.0.0.1]"', None),
        (b'for="[fe80::1%eth0]"', None),
        (b"for=10.0.0.1;", None),
        (b"for=10.0.0.1 ; x", None),
        (b'for="10.0.0.1"x', None),
        (b"for=10.0.0.1\n", None),
        (b"for=\xe2\x91\xa0.0.0.1", None),
        (b"for=10.0.0.1" + b";x=y" * 100, None),
    ],
)
def test_values(value: bytes, expected: tuple[str, int] | None) -> None:
    """Exactly one address is read; anything else says nothing."""
    assert parse_forwarded(value) == expected


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_read_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    """What we write we read."""
    if getattr(address, "scope_id", None) is None:
        assert parse_forwarded(render_forwarded(str(address), port)) == (str(address), port)


@given(st.one_of(st.binary(max_size=300), st.text('for="[]:;, .0123456789af\\', max_size=60).map(str.encode)))
def test_garbage(value: bytes) -> None:
    """Whatever a peer writes is an address in canonical text, or nothing."""
    if (found := parse_forwarded(value)) is not None:
        assert str(ipaddress.ip_address(found[0])) == found[0]
        assert 0 <= found[1] <= 65535
