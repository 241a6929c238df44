"""The listening sockets: bound once by the agent, inherited by every worker, never closed while it lives."""

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass, field

from node_proxy.address import SocketAddress, join_address
from node_proxy.config import ProxyConfig
from node_proxy.control import ExplicitListener
from node_proxy.errors import ConfigError
from registry.model.identity import WorkloadIdentity

# A burst of connects must fit while a worker is being replaced; the kernel caps it at somaxconn.
BACKLOG = 4096


@dataclass(slots=True)
class Listeners:
    """All sockets that this node listens on; `explicit` in the order of the configuration."""

    tunnel: list[socket.socket] = field(default_factory=list)
    captured: list[socket.socket] = field(default_factory=list)
    explicit: list[socket.socket] = field(default_factory=list)
    admin: list[socket.socket] = field(default_factory=list)

    @property
    def for_workers(self) -> list[socket.socket]:
        """Those that workers accept on."""
        return [*self.tunnel, *self.captured, *self.explicit]

    def close(self) -> None:
        """Close all of them."""
        for each in [*self.for_workers, *self.admin]:
            each.close()


def bind_all(config: ProxyConfig) -> Listeners:
    """Bind everything the configuration names.

    Raises:
        ConfigError: one of them cannot be bound; none stays open.
    """
    listeners = Listeners()
    try:
        for index, address in enumerate(config.tunnel.listen):
            listeners.tunnel.append(bind(address, f"tunnel.listen[{index}]"))
        if config.capture.enabled:
            listeners.captured += _bind_captured(config.capture.port)
        for index, listener in enumerate(config.listener):
            listeners.explicit.append(bind(listener.address, f"listener[{index}].address"))
        listeners.admin.append(bind(config.admin.listen, "admin.listen"))
    except ConfigError:
        listeners.close()
        raise
    return listeners


def bind(address: SocketAddress, place: str) -> socket.socket:
    """Bind and listen; `place` names the field for the operator.

    Raises:
        ConfigError: the address is taken, not this host's, or not permitted.
    """
    try:
        return _listen(address)
    except OSError as error:
        mend = {
            errno.EADDRINUSE: "stop what listens there, or choose another port",
            errno.EADDRNOTAVAIL: "write an address of this host",
            errno.EACCES: "run with CAP_NET_BIND_SERVICE, or choose a port above 1023",
        }.get(error.errno or 0, "choose another address")
        raise ConfigError(
            f"{place}: cannot listen on {address}: {os.strerror(error.errno or 0)}; {mend}"
        ) from error


def explicit_listeners(
    config: ProxyConfig, listeners: Listeners, speakers: dict[str, WorkloadIdentity]
) -> tuple[ExplicitListener, ...]:
    """Describe the explicit listeners to workers; `speakers` are the declared workloads' identities."""
    return tuple(
        ExplicitListener(
            fd=bound.fileno(),
            service=section.service,
            port=section.port,
            workload=str(speakers[section.workload]) if section.workload else None,
        )
        for section, bound in zip(config.listener, listeners.explicit, strict=True)
    )


def _bind_captured(port: int) -> list[socket.socket]:
    # nftables' redirect in the output hook leads to the loopback address of the packet's family.
    bound = [bind(SocketAddress(f"127.0.0.1:{port}"), "capture.port")]
    try:
        bound.append(_listen(SocketAddress(f"[::1]:{port}")))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            bound[0].close()
            raise ConfigError(
                f"capture.port: cannot listen on [::1]:{port}: {os.strerror(error.errno or 0)}; "
                "stop what listens there, or choose another port"
            ) from error
        # A host without IPv6 has nothing to capture there.
    return bound


def _listen(address: SocketAddress) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address.ip, ipaddress.IPv6Address) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Each family has a socket of its own, so that both can be listed.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((str(address.ip), address.port))
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def bound_address(bound: socket.socket) -> str:
    """Give ``address:port`` as bound."""
    host, port = bound.getsockname()[:2]
    return join_address(host, port)
