"""What names there are: the services' own, their ports', and the way back from virtual addresses.

Pure, and knows nothing of DNS messages. A name is a tuple of labels in lower case, without the root, so that
a dot within a label cannot pass for one between labels.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

Labels = tuple[bytes, ...]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The bits of one label below in-addr.arpa and ip6.arpa (RFC 1035 section 3.5, RFC 3596 section 2.5).
_BITS_OF_A_LABEL = {4: 8, 6: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPort:
    """A service's port; `name` is empty when it has none."""

    name: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedService:
    """A service with its virtual addresses; `hosts` are names outside the mesh that lead to it, too."""

    name: str
    namespace: str
    addresses: tuple[str, ...]
    ports: tuple[NamedPort, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a zone is made of: the services, and the networks that virtual addresses come from."""

    services: tuple[NamedService, ...] = ()
    networks: tuple[Network, ...] = ()


@dataclass(slots=True)
class Entry:
    """What there is under one name; nothing at all for a name that only has others below it."""

    addresses: tuple[str, ...] = ()
    ports: list[tuple[int, Labels]] = field(default_factory=list)
    pointers: list[Labels] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """The answer about a name of ours. `entry` is None when there is no such name below `apex`.

    `foreign` marks a name outside the mesh: only its addresses are ours to say.
    """

    apex: Labels
    entry: Entry | None
    foreign: bool = False


class Zone:
    """All names, at one moment.

    Args:
        contents: what there is. Of two services of one name, or with one host, the first has it.
        domain: what the services' names end in.
        namespace: the one whose services are found without it.
        serial: of the SOA records; rises whenever the contents change.
    """

    def __init__(self, contents: Contents, *, domain: str, namespace: str, serial: int) -> None:
        self.serial = serial
        self.apex = labels_of(domain)
        self._entries: dict[Labels, Entry] = {}
        self._inner: set[Labels] = set()
        self._apexes: set[Labels] = set()
        # The lengths of their names, longest first.
        self._depths: list[int] = []
        self._be_authority(
            {self.apex, *(apex for each in contents.networks for apex in _reverse_zones(each))}
        )
        self._foreign: dict[Labels, Entry] = {}
        for service in contents.services:
            name = (service.name.encode(), service.namespace.encode(), *self.apex)
            if name not in self._entries:
                self._add(name, name, service)
                if service.namespace == namespace:
                    self._add((service.name.encode(), *self.apex), name, service)
            for address in service.addresses:
                self._point_back(address, name)
            # Until it has an address, a name outside the mesh is whatever it was before.
            for host in service.hosts if service.addresses else ():
                self._foreign.setdefault(labels_of(host), Entry(service.addresses))
        for owner in [each for each in self._foreign if each[-len(self.apex) :] == self.apex]:
            entry = self._foreign.pop(owner)
            if owner not in self._entries:
                self._at(owner).addresses = entry.addresses

    def __len__(self) -> int:
        """Count the names that have records."""
        return len(self._entries) + len(self._foreign)

    def find(self, name: Labels) -> Found | None:
        """Look a name up; None when it is none of ours."""
        apex = self._apex_of(name)
        if apex is None:
            entry = self._foreign.get(name)
            return None if entry is None else Found(name, entry, foreign=True)
        entry = self._entries.get(name)
        if entry is None and (name == apex or name in self._inner):
            entry = Entry()
        return Found(apex, entry)

    def addresses(self, name: Labels) -> tuple[str, ...]:
        """Give the addresses of a name of ours."""
        found = self.find(name)
        return found.entry.addresses if found is not None and found.entry is not None else ()

    def _be_authority(self, apexes: set[Labels]) -> None:
        self._apexes |= apexes
        self._depths = sorted({len(apex) for apex in self._apexes}, reverse=True)

    def _apex_of(self, name: Labels) -> Labels | None:
        return next((name[-depth:] for depth in self._depths if name[-depth:] in self._apexes), None)

    def _add(self, owner: Labels, name: Labels, service: NamedService) -> None:
        self._at(owner).addresses = service.addresses
        for port in service.ports:
            for word in dict.fromkeys((port.name or str(port.port), str(port.port))):
                self._at((f"_{word}".encode(), b"_tcp", *owner)).ports.append((port.port, name))

    def _point_back(self, address: str, name: Labels) -> None:
        owner = labels_of(ipaddress.ip_address(address).reverse_pointer)
        if self._apex_of(owner) is None:
            # The mesh's ranges were changed and the service has its address still.
            self._be_authority({owner})
        self._at(owner).pointers.append(name)

    def _at(self, owner: Labels) -> Entry:
        entry = self._entries.get(owner)
        if entry is None:
            entry = self._entries[owner] = Entry()
            for at in range(1, len(owner)):
                if owner[at:] in self._inner or owner[at:] in self._apexes:
                    break
                self._inner.add(owner[at:])
        return entry


def labels_of(name: str) -> Labels:
    """Take a name as people write it apart."""
    return tuple(name.lower().rstrip(".").encode().split(b"."))


def _reverse_zones(network: Network) -> Iterator[Labels]:
    """Give the zones that hold the reverse names of exactly this network: they end where labels do."""
    bits = _BITS_OF_A_LABEL[network.version]
    count = -(-network.prefixlen // bits)
    for subnet in network.subnets(new_prefix=count * bits):
        labels = labels_of(subnet.network_address.reverse_pointer)
        yield labels[network.max_prefixlen // bits - count :]
