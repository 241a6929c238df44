"""From the operator's settings and what the mesh says to what is to be in force. Pure."""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from node_proxy.agent.capture.ruleset import any_of, cgroup_set, daddr, replacement, skeleton
from node_proxy.agent.capture.terms import Address, CaptureRules, CaptureView, Elements, HostPort, Network
from node_proxy.capture_settings import ALL_SERVICES
from node_proxy.errors import ConfigError

# A virtual range wider than this would take in addresses that are somebody's.
WIDEST = {4: 8, 6: 32}
# Whoever may log in to mend things must not depend on what is to be mended.
SSH_PORT = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePlan:
    """What is to be in force.

    `cgroups` are elements too, by the set they belong to, but exist only while something runs in them.
    `self_check` is a virtual address of each range that is no service's. `notes` are for people.
    """

    skeleton: str
    elements: Elements
    cgroups: Mapping[str, tuple[str, ...]]
    routes: tuple[str, ...]
    self_check: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Name the skeleton and the routes: what changes only with the operator's settings."""
        text = "\n".join((self.skeleton, *self.routes))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ruleset(self, cgroups: Elements) -> str:
        """Write nft's input that replaces the whole table: one input is one transaction."""
        return replacement(self.skeleton, {**self.elements, **cgroups})


def plan(rules: CaptureRules, view: CaptureView) -> CapturePlan:
    """Plan the capture.

    Raises:
        ConfigError: a virtual range is malformed, too wide, or contains a real address of the mesh.
    """
    networks = tuple(_network(text) for text in view.vip_ranges)
    control = sorted(_literal(rules.control))
    real = [*map(ipaddress.ip_address, rules.own_addresses), *(address for _, address, _ in control)]
    for network in networks:
        for address in real:
            if address in network:
                raise ConfigError(
                    f"mesh: spec.vipRanges: {network} contains the real {address}; choose another range"
                )
    self_check = tuple(str(network.network_address) for network in networks)
    notes: list[str] = []
    elements = _elements(rules, view, networks, notes)
    for each in self_check:
        elements[f"vips{_version(each)}"].add(each)
    exempt = sorted(
        {SSH_PORT, *rules.exempt_ports, *(port for host, port in rules.control if not _is_ip(host))}
    )
    if rules.inbound_port is not None:
        notes += [
            f"workload port {port} is exempt: plaintext from other hosts reaches it"
            for port in sorted(set(exempt) & set(view.workload_ports))
        ]
    cgroups = _cgroup_sets("excluded", rules.exclude_cgroups) | _cgroup_sets(
        "included", rules.include_cgroups
    )
    exemptions = [
        f"tcp dport {any_of(map(str, exempt))} return",
        *_pairs_return(control),
    ]
    return CapturePlan(
        skeleton=skeleton(rules, networks, exemptions, cgroups),
        elements={name: frozenset(values) for name, values in elements.items()},
        cgroups=cgroups,
        routes=tuple(str(network) for network in networks),
        self_check=self_check,
        notes=tuple(notes),
    )


def _elements(
    rules: CaptureRules, view: CaptureView, networks: Sequence[Network], notes: list[str]
) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in ("vips4", "vips6", "endpoints4", "endpoints6")}
    for service in sorted(filter(rules.wants, view.vips)):
        for text in view.vips[service]:
            # What the mesh says must not lead real addresses' traffic into the proxy.
            if _is_ip(text) and any(ipaddress.ip_address(text) in network for network in networks):
                found[f"vips{_version(text)}"].add(str(ipaddress.ip_address(text)))
            else:
                notes.append(
                    f"{service}: {text} is no address of the mesh's virtual ranges; it is left alone"
                )
    if rules.endpoints:
        named = (
            each
            for service in sorted(filter(rules.wants, view.endpoints))
            for each in view.endpoints[service]
        )
        for version, address, port in _literal(named):
            # Calls within the host reach the workload by its own address as before.
            if str(address) not in rules.own_addresses and not address.is_loopback:
                found[f"endpoints{version}"].add(f"{address} . {port}")
    if rules.inbound_port is not None:
        found["inbound_ports"] = {str(port) for port in view.workload_ports}
    if missing := sorted({each for each in rules.services if each != ALL_SERVICES} - view.vips.keys()):
        notes.append(f"the mesh has no such service yet: {', '.join(missing)}")
    return found


def _cgroup_sets(kind: str, paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """File cgroups by depth: nft compares one depth at a time."""
    filed: dict[str, tuple[str, ...]] = {}
    for path in sorted(set(paths)):
        name = cgroup_set(kind, path)
        filed[name] = (*filed.get(name, ()), path)
    return filed


def _pairs_return(pairs: Iterable[tuple[int, Address, int]]) -> Iterator[str]:
    by_version: dict[int, list[str]] = {}
    for version, address, port in pairs:
        by_version.setdefault(version, []).append(f"{address} . {port}")
    for version, each in sorted(by_version.items()):
        yield f"{daddr(version)} . tcp dport {any_of(dict.fromkeys(each))} return"


def _literal(pairs: Iterable[HostPort]) -> Iterator[tuple[int, Address, int]]:
    for host, port in pairs:
        if _is_ip(host):
            address = ipaddress.ip_address(host)
            yield address.version, address, port


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # A zone would name an interface; nft takes none, and no mesh address has one.
    return "%" not in text


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"mesh: spec.vipRanges: {text!r}: {error}; write 240.240.0.0/16") from error
    if network.prefixlen < WIDEST[network.version]:
        raise ConfigError(
            f"mesh: spec.vipRanges: {network} is too wide; use at least /{WIDEST[network.version]}"
        )
    return network
