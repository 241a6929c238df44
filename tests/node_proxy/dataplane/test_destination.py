"""Where callers say that they want to go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.destination import read_destination


@pytest.mark.parametrize(
    ("host", "read"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::FFFF:192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("API.Mesh", "api.mesh"),
        ("api.mesh.", "api.mesh"),
        ("_http._tcp.api.mesh", "_http._tcp.api.mesh"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_one_form(host: str, read: str) -> None:
    """However a host is written, it is read in one form."""
    assert read_destination(host, 80).host == read


@pytest.mark.parametrize(
    "host",
    ["", ".", "a..b", ".a", "a b", "a\n", "a/b", "a@b", "é", "-a", "a-", "a" * 64, "a." * 127 + "a",
     "127.1", "0177.0.0.1", "2130706433", "0x7f000001", "1.2.3.4.5", "fe80::1%eth0%", "[::1]"],
)  # fmt: skip
def test_neither_address_nor_name(host: str) -> None:
    """What some resolver might take for an address, and what none takes for a name, is refused."""
    with pytest.raises(ValueError, match="neither"):
        read_destination(host, 80)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_port(port: int) -> None:
    """Ports are from 1 to 65535."""
    with pytest.raises(ValueError, match="no port"):
        read_destination("a.example", port)


@given(st.text(max_size=300))
def test_whatever_is_said(text: str) -> None:
    """Whatever is said is refused, or read into what reads as itself."""
    try:
        found = read_destination(text, 80)
    except ValueError:
        return
    assert read_destination(found.host, 80) == found
    assert found.host.isascii()
