"""External services as the byte path looks them up: by virtual IP, by host, by name. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from node_proxy.snapshot import ExternalServiceView
from registry.model.identity import Identity, WorkloadIdentity
from registry.model.service import PortProtocol
from registry.rules.patterns import Contains, text_test

# What a server that speaks several protocols on one port is asked for, where the service says what it is.
_ALPN = {
    PortProtocol.HTTP: ("http/1.1",),
    PortProtocol.HTTP2: ("h2",),
    PortProtocol.GRPC: ("h2",),
}


@dataclass(frozen=True, slots=True)
class Origination:
    """The TLS that the proxy speaks for callers: the name to verify, the roots, the protocols asked for.

    Without `roots_pem` the host's own are trusted.
    """

    server_name: str
    roots_pem: str = ""
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExternalRoute:
    """A port of an external service, how it is reached, and who may."""

    service: str
    port: int
    target: int
    addresses: tuple[str, ...]
    tls: Origination | None
    allowed: Contains | None

    def admits(self, caller: Identity) -> bool:
        """Whether `caller` may call: it has a workload's identity, one of those allowed if any are named."""
        if not isinstance(caller, WorkloadIdentity):
            return False
        return self.allowed is None or self.allowed(caller.principal)


class ExternalTable:
    """The external services of a snapshot."""

    def __init__(self, externals: Iterable[ExternalServiceView]) -> None:
        self._by_name: dict[tuple[str, int], ExternalRoute] = {}
        self._by_vip: dict[tuple[str, int], ExternalRoute] = {}
        self._by_host: dict[tuple[str, int], ExternalRoute] = {}
        self._hosts: set[str] = set()
        for external in externals:
            allowed = None if external.allowed is None else text_test(external.allowed)
            self._hosts.update(external.hosts)
            for view in external.ports:
                tls = None
                if external.server_name is not None:
                    tls = Origination(external.server_name, external.roots_pem, _ALPN.get(view.protocol, ()))
                route = ExternalRoute(external.name, view.port, view.target, external.addresses, tls, allowed)
                self._by_name[external.name, view.port] = route
                for vip in external.vips:
                    self._by_vip[str(ip_address(vip)), view.port] = route
                for host in external.hosts:
                    # The first by name has it, as the controller's verdict says.
                    self._by_host.setdefault((host, view.port), route)

    def by_name(self, name: str, port: int) -> ExternalRoute | None:
        """Find a port by ``namespace/name``."""
        return self._by_name.get((name, port))

    def by_vip(self, address: str, port: int) -> ExternalRoute | None:
        """Find a port by a virtual IP in canonical text."""
        return self._by_vip.get((address, port))

    def by_host(self, host: str, port: int) -> ExternalRoute | None:
        """Find a port by the service's own name."""
        return self._by_host.get((host, port))

    def names(self, host: str) -> bool:
        """Whether `host` is an external service's, at whatever port."""
        return host in self._hosts
