"""Where a caller says that it wants to go, as SOCKS and CONNECT say it. Pure."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

from node_proxy.address import canonical, join_address

# RFC 1035 section 2.3.4. An underscore is no host's, but names of services have it.
LONGEST_NAME = 253
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\Z")
# All digits and dots: `inet_aton` would take it for an address, and we would not.
_NUMBERS = re.compile(r"[0-9.]+\Z|0x[0-9a-f.]+\Z")


@dataclass(frozen=True, slots=True)
class Destination:
    """An IP address in canonical text, or a name in lower case without a dot at its end; and a port."""

    host: str
    port: int

    @property
    def is_address(self) -> bool:
        """Whether `host` is an address."""
        try:
            ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return join_address(self.host, self.port)


def read_destination(host: str, port: int) -> Destination:
    """Read a host and a port.

    Raises:
        ValueError: the host is neither an address nor a name, or the port is 0.
    """
    if not 0 < port <= 0xFFFF:
        raise ValueError(f"there is no port {port}")
    try:
        if "%" not in host:
            # An address of one link says nothing without its interface.
            return Destination(canonical(host), port)
    except ValueError:
        pass
    name = host.lower().removesuffix(".")
    if len(name) > LONGEST_NAME or not _NAME.match(name) or _NUMBERS.match(name):
        raise ValueError("the host is neither an address nor a name")
    return Destination(name, port)
