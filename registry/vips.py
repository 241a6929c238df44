"""Virtual IPs: which address each service is captured at.

Pure. An address once given stays; a new one is where the hash of the service's name points, or the next free
one, so that a mesh rebuilt from the same services gets nearly the same addresses.
"""

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def read_networks(ranges: Iterable[str]) -> tuple[Network, ...]:
    """Read the ranges of a mesh's settings, which parsing has checked."""
    return tuple(ip_network(text) for text in ranges)


def allocate(
    held: Mapping[str, tuple[str, ...]],
    wanting: Collection[str],
    networks: Iterable[Network],
    withheld: Iterable[str] = (),
) -> dict[str, tuple[str, ...]]:
    """Give each service its addresses, one of each network as far as they last.

    Args:
        held: services and the addresses they have; those outside the networks, and those that two services
            claim (the first by name keeps it), are given up.
        wanting: services that get an address where they have none.
        networks: where addresses come from.
        withheld: addresses that nobody gets who does not have them.
    """
    unfree = frozenset(_addresses(withheld))
    given: dict[str, tuple[str, ...]] = dict.fromkeys(held, ())
    for network in networks:
        of_network: dict[Address, str] = {}
        for name in sorted(held):
            kept = next((each for each in _addresses(held[name]) if _usable(each, network, of_network)), None)
            if kept is not None:
                of_network[kept] = name
        lucky = set(of_network.values())
        taken = {*of_network, *unfree}
        for name in sorted(set(wanting) - lucky):
            if (free := _free(name, network, taken)) is not None:
                of_network[free] = name
                taken.add(free)
        for address, name in of_network.items():
            given[name] = (*given.get(name, ()), str(address))
    return given


def _addresses(texts: Iterable[str]) -> Iterable[Address]:
    for text in texts:
        try:
            yield ip_address(text)
        except ValueError:
            # Somebody edited the status by hand; it is as if the service had none.
            continue


def _usable(address: Address, network: Network, taken: Mapping[Address, str]) -> bool:
    return address.version == network.version and address in network and address not in taken


def _free(name: str, network: Network, taken: Collection[Address]) -> Address | None:
    # Without the first and the last: network and broadcast address, subnet-router anycast.
    count = network.num_addresses - 2
    start = int.from_bytes(sha256(name.encode()).digest()[:16], "big")
    # One more attempt than addresses are taken must meet a free one, if there is any.
    for step in range(min(len(taken) + 1, count)):
        address = network[1 + (start + step) % count]
        if address not in taken:
            return address
    return None
