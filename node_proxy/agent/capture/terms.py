"""What a plan is made of: the operator's settings looked up, and what the mesh says. Pure."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from node_proxy.capture_settings import ALL_SERVICES

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
HostPort = tuple[str, int]
Elements = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRules:
    """What the operator says, looked up.

    `control` are the addresses and ports of etcd and the registry, `own_addresses` this node's.
    `inbound_port` is None when nothing inbound is taken. `answers` are the rules of the chain that
    marks answers to callers whose address the proxy showed to a workload.
    """

    port: int
    mark: int
    inbound_port: int | None = None
    services: tuple[str, ...] = (ALL_SERVICES,)
    endpoints: bool = False
    include_users: tuple[int, ...] = ()
    exclude_users: tuple[int, ...] = ()
    include_cgroups: tuple[str, ...] = ()
    exclude_cgroups: tuple[str, ...] = ()
    exempt_ports: tuple[int, ...] = ()
    control: tuple[HostPort, ...] = ()
    own_addresses: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    @property
    def selective(self) -> bool:
        """Whether only some processes' calls are taken."""
        return bool(self.include_users or self.include_cgroups)

    def wants(self, service: str) -> bool:
        """Whether calls of a service are taken."""
        return ALL_SERVICES in self.services or service in self.services


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureView:
    """What the mesh says: virtual ranges, services' virtual IPs, ports, endpoints; and this node's ports."""

    vip_ranges: tuple[str, ...]
    vips: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    endpoints: Mapping[str, tuple[HostPort, ...]] = field(default_factory=dict)
    workload_ports: tuple[int, ...] = ()
