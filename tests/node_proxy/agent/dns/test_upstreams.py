from pathlib import Path

import pytest

from node_proxy.address import SocketAddress
from node_proxy.agent.dns.upstreams import REREAD, SHUNNED, Upstreams, name_servers
from node_proxy.dns_settings import upstream_address

A, B, C = (SocketAddress(f"10.0.0.{i}:53") for i in (1, 2, 3))
OWN = SocketAddress("127.0.0.1:53")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.53", "10.0.0.53:53"),
        ("10.0.0.53:5353", "10.0.0.53:5353"),
        ("fd00::53", "[fd00::53]:53"),
        ("[fd00::53]:5353", "[fd00::53]:5353"),
    ],
)
def test_address_of_an_upstream(text: str, address: str) -> None:
    """An upstream is an IP address, with a port if that is not 53."""
    assert upstream_address(text) == address


def test_name_is_no_upstream() -> None:
    """A host name would have to be resolved first."""
    with pytest.raises(ValueError, match=r"'dns\.example' is not a resolver's address; write 10\.0\.0\.53"):
        upstream_address("dns.example")


def test_resolv_conf() -> None:
    """Name servers are read in their order; all else, and what is no address, is passed over."""
    text = (
        "# nameserver 1.1.1.1\nsearch example.org\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver\n"
    )
    text += "nameserver nonsense\n  nameserver\t10.0.0.2 # office\noptions edns0\n"
    assert list(name_servers(text)) == ["10.0.0.1:53", "[fe80::1%eth0]:53", "10.0.0.2:53"]


def test_one_that_failed_is_asked_last() -> None:
    """Order is that of the configuration, but for those that failed lately; the longest ago first."""
    upstreams = Upstreams([A, B, C], own=())
    assert upstreams.in_order(0) == [A, B, C]
    assert upstreams.failed(A, 0)
    assert not upstreams.failed(A, 1)
    assert upstreams.failed(B, 2)
    assert upstreams.in_order(3) == [C, A, B]
    upstreams.answered(B)
    assert upstreams.in_order(3) == [B, C, A]
    assert upstreams.in_order(1 + SHUNNED) == [A, B, C]


def test_resolvers_of_this_host(tmp_path: Path) -> None:
    """They are read again as they change, and this resolver itself is never among them."""
    file = tmp_path / "resolv.conf"
    upstreams = Upstreams([], own={OWN}, files=(file,))
    assert upstreams.in_order(0) == []
    file.write_text("nameserver 127.0.0.1\nnameserver 10.0.0.1\n")
    assert upstreams.in_order(REREAD) == [A]
    file.write_text("nameserver 10.0.0.2\n")
    assert upstreams.in_order(REREAD + 1) == [A]
    assert upstreams.in_order(2 * REREAD) == [B]


def test_behind_systemd_resolved(tmp_path: Path) -> None:
    """Where resolv.conf names its stub, what systemd-resolved itself asks is asked."""
    stub, real = tmp_path / "resolv.conf", tmp_path / "real.conf"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("nameserver 10.0.0.1\n")
    assert Upstreams([], own={OWN}, files=(stub, real)).in_order(0) == [A]
