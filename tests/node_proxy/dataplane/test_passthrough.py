"""What is no service: refused, or dialled as it is, and never the proxy itself."""

import socket

import msgspec
import pytest

from node_proxy.dataplane import passthrough, telemetry
from node_proxy.dataplane.destination import Destination
from tests.fakes.eventually import eventually
from tests.node_proxy.dataplane.leaving import Exit, accepted, leaving, listening, outside
from tests.node_proxy.dataplane.test_external import port_of


def own_address() -> str:
    """Give an address of this host that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has loopback alone")
        return str(probe.getsockname()[0])


async def refused(exit_: Exit, host: str, port: int = 80) -> str:
    """Call what must be refused; gives the reason."""
    reader = exit_.call(Destination(host, port))
    await eventually(lambda: reader.ended() == "reset")
    return exit_.refusals()[-1]


async def test_bytes_flow() -> None:
    """With passthrough a call to what is no service goes there as it is, counted and logged."""
    address = own_address()
    with listening(address) as server:
        async with leaving(outside(), frozenset({15008})) as exit_:
            caller = exit_.call(Destination(address, port_of(server)))
            caller.sock.send(b"question")
            await eventually(lambda: exit_.direct.relayed)
            with accepted(server) as served:
                await eventually(lambda: served.read() == b"question")
            caller.sock.close()
            await eventually(lambda: exit_.stage.logged("connection closed"))
            (line,) = exit_.stage.logged("connection closed")
            assert (line["side"], line["destination"]) == ("passthrough", f"{address}:{port_of(server)}")
            assert exit_.stage.counted(telemetry.CONNECTIONS_OPENED, side="passthrough") == 1
            assert exit_.direct.open_connections == 0


async def test_registry_only() -> None:
    """Without passthrough it is refused."""
    async with leaving(outside()) as exit_:
        assert await refused(exit_, "192.0.2.7") == "unknown_destination"
        assert await refused(exit_, "a.example") == "unknown_destination"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.1", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "ff02::1",
     "255.255.255.255"],
)  # fmt: skip
async def test_never_back(host: str) -> None:
    """Nothing passes to this host's own loopback, its link, or a crowd, by whatever name."""
    host = "0.0.0.0" if host == "0.0.0.1" else host  # noqa: S104
    async with leaving(outside(), frozenset()) as exit_:
        assert await refused(exit_, host) == "not_outside"


async def test_own_ports() -> None:
    """Nothing passes to a port of the proxy itself, at whatever address of this host; to others it may."""
    address = own_address()
    with listening(address) as server:
        port = port_of(server)
        async with leaving(outside(), frozenset({port})) as exit_:
            assert await refused(exit_, address, port) == "not_outside"
            assert exit_.stage.logged("stream refused")[0]["detail"].endswith("it is a port of this proxy")


@pytest.mark.parametrize("host", ["240.240.7.7", "fd6d:6573:6800::7", "nobody.mesh", "mesh", "a.b.c.mesh"])
async def test_inside(host: str) -> None:
    """Virtual IPs and names of the mesh that lead to no service are refused, not passed on."""
    async with leaving(outside(), frozenset()) as exit_:
        assert await refused(exit_, host) == "unknown_destination"


async def test_names() -> None:
    """A name is judged by what it resolves to: whoever answers for it cannot lead the proxy to itself."""
    back = ("127.0.0.1", "::1", "240.240.0.1")
    async with leaving(outside(), frozenset(), resolved=back) as exit_:
        assert await refused(exit_, "rebound.example") == "not_outside"
    async with leaving(outside(), frozenset()) as exit_:
        assert await refused(exit_, "nobody.example") == "not_resolved"
    address = own_address()
    with listening(address) as server:
        async with leaving(outside(), frozenset(), resolved=("127.0.0.1", address)) as exit_:
            exit_.call(Destination("a.example", port_of(server)))
            await eventually(lambda: exit_.direct.relayed)


def test_resolver() -> None:
    """The host's resolver is asked for names; what it does not know has no addresses."""
    assert "127.0.0.1" in passthrough.look_up("localhost")
    assert passthrough.look_up("a" * 64 + ".invalid") == []


async def test_becomes_virtual() -> None:
    """When a range of the mesh comes to hold an address, what is open to it is cut."""
    address = own_address()
    with listening(address) as server:
        state = outside()
        async with leaving(state, frozenset()) as exit_:
            exit_.call(Destination(address, port_of(server)))
            await eventually(lambda: exit_.direct.relayed)
            exit_.change(msgspec.structs.replace(state, vip_ranges=(f"{address}/32",)))
            await eventually(lambda: exit_.stage.logged("stream cut"))


def test_addresses_of_this_host() -> None:
    """Another host's port of the same number is no port of ours."""
    assert not passthrough._is_ours("192.0.2.7", 80)
    assert passthrough._is_ours("127.0.0.1", 80)
