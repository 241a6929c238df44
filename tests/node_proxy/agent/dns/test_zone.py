from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from node_proxy.agent.dns.zone import Contents, Entry, Found, NamedService, Zone, labels_of
from tests.node_proxy.agent.dns.questions import API, DB, NETWORKS, zone

MESH = labels_of("mesh")


def find(name: str, of: Zone | None = None) -> Found | None:
    """Look a name up as people write it."""
    return (zone() if of is None else of).find(labels_of(name))


def addresses(name: str, of: Zone | None = None) -> tuple[str, ...]:
    """Give the addresses of a name that exists."""
    found = find(name, of)
    assert found is not None
    assert found.entry is not None
    return found.entry.addresses


def test_long_and_short_names() -> None:
    """A service has its name with its namespace; the node's own namespace may be left out."""
    assert addresses("api.default.mesh") == addresses("api.mesh") == API.addresses
    assert addresses("db.shop.mesh") == DB.addresses
    assert find("db.mesh") == Found(MESH, None)


def test_other_domain_and_namespace() -> None:
    """The domain may have several labels, and another namespace may be the one that is left out."""
    other = Zone(Contents(services=(API, DB)), domain="svc.example", namespace="shop", serial=1)
    assert addresses("db.svc.example", other) == DB.addresses
    assert find("api.svc.example", other) == Found(labels_of("svc.example"), None)
    assert find("api.mesh", other) is None
    assert find("example", other) is None


def test_names_with_others_below_exist() -> None:
    """A namespace, or what is between a service and its ports, is a name without records."""
    for name in ("mesh", "shop.mesh", "_tcp.api.mesh", "_tcp.api.default.mesh", "240.240.in-addr.arpa"):
        found = find(name)
        assert found is not None
        assert found.entry == Entry()
    assert find("new.mesh") == Found(MESH, Entry())
    assert find("elsewhere.mesh") == Found(MESH, None)
    assert find("www.api.default.mesh") == Found(MESH, None)


def test_ports() -> None:
    """A port is found by its name, if it has one, and by its number."""
    target = labels_of("api.default.mesh")
    for name in ("_http._tcp.api.default.mesh", "_8080._tcp.api.mesh"):
        found = find(name)
        assert found is not None
        assert found.entry == Entry(ports=[(8080, target)])
    assert find("_9000._tcp.api.mesh") == Found(MESH, Entry(ports=[(9000, target)]))
    assert find("_http._udp.api.mesh") == Found(MESH, None)


def test_dots_within_labels() -> None:
    """A dot that is part of a label does not separate labels."""
    assert zone().find((b"api.default", b"mesh")) == Found(MESH, None)


def test_reverse_names() -> None:
    """A virtual address leads to its service's long name, with one zone for each range."""
    for address in API.addresses:
        found = find(ip_address(address).reverse_pointer)
        assert found is not None
        assert found.entry == Entry(pointers=[labels_of("api.default.mesh")])
    unused = find(ip_address("240.240.77.1").reverse_pointer)
    assert unused == Found(labels_of("240.240.in-addr.arpa"), None)
    assert find(ip_address("240.241.0.1").reverse_pointer) is None
    assert find("240.in-addr.arpa") is None


def test_address_outside_the_ranges() -> None:
    """A service that still has an address of an earlier range is found by it; its neighbours are not ours."""
    old = zone(NamedService(name="old", namespace="default", addresses=("10.0.0.1",)))
    found = find("1.0.0.10.in-addr.arpa", old)
    assert found is not None
    assert found.entry == Entry(pointers=[labels_of("old.default.mesh")])
    assert find("2.0.0.10.in-addr.arpa", old) is None


@given(
    st.ip_addresses(network="10.0.0.0/8"),
    st.integers(8, 32),
    st.ip_addresses(network="10.0.0.0/8"),
)
def test_reverse_zones_are_exactly_the_range(base: object, length: int, probe: object) -> None:
    """Whatever a range's length, the reverse names of its addresses and of no others are ours."""
    network = ip_network(f"{base}/{length}", strict=False)
    zoned = Zone(Contents(networks=(network,)), domain="mesh", namespace="default", serial=1)
    address = ip_address(str(probe))
    assert (find(address.reverse_pointer, zoned) is not None) == (address in network)
    assert find(network[-1].reverse_pointer, zoned) is not None


def test_external_hosts() -> None:
    """A host outside the mesh is ours as far as its addresses go; one inside it is a name like others."""
    assert find("api.bank.example") == Found(
        labels_of("api.bank.example"), Entry(("240.240.9.9",)), foreign=True
    )
    assert find("bank.example") is None
    assert addresses("pay.mesh") == addresses("bank.mesh") == ("240.240.9.9",)


def test_external_host_without_address() -> None:
    """Until it has a virtual address, an external service takes nothing from its host."""
    waiting = NamedService(name="bank", namespace="default", addresses=(), hosts=("api.bank.example",))
    assert find("api.bank.example", zone(waiting)) is None


def test_first_of_two_has_the_name() -> None:
    """Of two services of one name the first has it, and the other's hosts are found all the same."""
    second = NamedService(
        name="api", namespace="default", addresses=("240.240.8.8",), hosts=("api.other.example",)
    )
    both = zone(API, second)
    assert addresses("api.mesh", both) == API.addresses
    assert addresses("api.other.example", both) == ("240.240.8.8",)


def test_many_services() -> None:
    """Every one of 2,000 services is found by all its names."""
    services = [
        NamedService(
            name=f"s{i}", namespace="many", addresses=(str(NETWORKS[0][i + 1]), str(NETWORKS[1][i + 1]))
        )
        for i in range(2000)
    ]
    large = zone(*services)
    for service in services:
        assert addresses(f"{service.name}.many.mesh", large) == service.addresses
    assert len(large) == 3 * 2000
