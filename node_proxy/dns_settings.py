"""The table [dns] of proxy.toml: its shape and its checks. Nothing is opened or resolved."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from node_proxy.address import SocketAddress, join_address
from node_proxy.toml import Section, wrong
from registry.model.resource import DEFAULT_NAMESPACE, Name

DNS_PORT = 53

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
# A service, its namespace and two labels of SRV take up to 162 of a name's 253 characters.
_DOMAIN = re.compile(rf"(?=.{{1,64}}\Z){_LABEL}(\.{_LABEL})*\Z")


class DnsSection(Section, frozen=True, kw_only=True):
    """The resolver for the services' names, on loopback.

    Names below `domain` are answered from what the mesh says; services of `namespace` are found by their
    name alone, too. Others are refused, or with `forward` asked of `upstreams` (none: those of this host).
    """

    enabled: bool = False
    listen: Annotated[tuple[SocketAddress, ...], Meta(min_length=1)] = (SocketAddress("127.0.0.1:15053"),)
    domain: str = "mesh"
    namespace: Name = DEFAULT_NAMESPACE
    ttl: Annotated[int, Meta(ge=0, le=3600)] = 5
    forward: bool = False
    upstreams: tuple[str, ...] = ()


def check_dns(path: Path, dns: DnsSection) -> None:
    """Check what the types cannot say.

    Raises:
        ConfigError: a field is wrong or contradicts another.
    """
    if not _DOMAIN.match(dns.domain):
        raise wrong(
            path, "dns.domain", f"{dns.domain!r} is no domain; write lower-case labels, as in mesh.example"
        )
    for index, address in enumerate(dns.listen):
        if not address.ip.is_loopback:
            raise wrong(
                path,
                f"dns.listen[{index}]",
                f"{address} is not on loopback, and the resolver answers this host alone; "
                f"write 127.0.0.1:{address.port} or [::1]:{address.port}",
            )
    if dns.upstreams and not dns.forward:
        raise wrong(path, "dns.upstreams", "nothing is forwarded; add forward = true, or remove them")
    for index, text in enumerate(dns.upstreams):
        field = f"dns.upstreams[{index}]"
        try:
            upstream = upstream_address(text)
        except ValueError as error:
            raise wrong(path, field, str(error)) from error
        if any(upstream.overlaps(address) for address in dns.listen):
            raise wrong(path, field, f"{text} is this resolver itself; write the next one's address")


def upstream_address(text: str) -> SocketAddress:
    """Read the address of a resolver; its port is 53 unless it says otherwise.

    Raises:
        ValueError: it is neither an IP address nor one with a port.
    """
    try:
        return SocketAddress(join_address(str(ipaddress.ip_address(text)), DNS_PORT))
    except ValueError:
        try:
            return SocketAddress(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is not a resolver's address; write 10.0.0.53, or with its port 10.0.0.53:5353"
            ) from None
