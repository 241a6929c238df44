"""The listening sockets: bound once by the agent, inherited by every worker, never closed while it lives."""

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from node_proxy.address import SocketAddress, join_address
from node_proxy.agent.unix_sockets import UnixSocket, listen_unix, path_of
from node_proxy.config import ProxyConfig
from node_proxy.control import ExplicitListener, ListenerKind
from node_proxy.errors import ConfigError
from node_proxy.listener_settings import ListenerSection
from registry.model.identity import WorkloadIdentity

# A burst of connects must fit while a worker is being replaced; the kernel caps it at somaxconn.
BACKLOG = 4096
# Some 5,000 small queries, each of which counts 768 bytes; without CAP_NET_ADMIN the kernel caps it at
# net.core.rmem_max.
RECEIVE_BUFFER = 4 << 20
# asm-generic/socket.h; the socket module does not name it.
_SO_RCVBUFFORCE = 33


@dataclass(slots=True)
class Listeners:
    """All sockets that this node listens on; `explicit` in the order of the configuration.

    `dns_tcp` and `dns_udp` go in pairs of one address. `files` are those of `explicit` that have one.
    """

    tunnel: list[socket.socket] = field(default_factory=list)
    captured: list[socket.socket] = field(default_factory=list)
    plaintext: list[socket.socket] = field(default_factory=list)
    explicit: list[socket.socket] = field(default_factory=list)
    admin: list[socket.socket] = field(default_factory=list)
    dns_tcp: list[socket.socket] = field(default_factory=list)
    dns_udp: list[socket.socket] = field(default_factory=list)
    files: list[UnixSocket] = field(default_factory=list)

    @property
    def for_workers(self) -> list[socket.socket]:
        """Those that workers accept on."""
        return [*self.tunnel, *self.captured, *self.plaintext, *self.explicit]

    def close(self) -> None:
        """Close all of them, and remove the files of Unix sockets."""
        for file in self.files:
            file.remove()
        for each in [*self.for_workers, *self.admin, *self.dns_tcp, *self.dns_udp]:
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
            # nftables' redirect in the output hook leads to the loopback address of the packet's family.
            listeners.captured += _bind_both("capture.port", config.capture.port, "127.0.0.1", "::1")
            if config.capture.inbound:
                # That in the prerouting hook leads to an address of the interface that the packet came in by.
                inbound_port = config.capture.inbound_port
                listeners.plaintext += _bind_both("capture.inbound_port", inbound_port, "0.0.0.0", "::")  # noqa: S104
        for index, listener in enumerate(config.listener):
            listeners.explicit.append(_bind_explicit(listener, f"listener[{index}].address", listeners.files))
        listeners.admin.append(bind(config.admin.listen, "admin.listen"))
        for index, address in enumerate(config.dns.listen if config.dns.enabled else ()):
            tcp = bind(address, f"dns.listen[{index}]")
            listeners.dns_tcp.append(tcp)
            # Port 0 is whatever the kernel chose for TCP: answers that are too long send their askers there.
            same = SocketAddress(bound_address(tcp))
            listeners.dns_udp.append(bind(same, f"dns.listen[{index}]", kind=socket.SOCK_DGRAM))
    except ConfigError:
        listeners.close()
        raise
    return listeners


def bind(
    address: SocketAddress, place: str, *, kind: socket.SocketKind = socket.SOCK_STREAM
) -> socket.socket:
    """Bind and listen; `place` names the field for the operator.

    Raises:
        ConfigError: the address is taken, not this host's, or not permitted.
    """
    try:
        return _listen(address, kind)
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
            kind=ListenerKind(section.type),
            service=section.service or "",
            port=section.port or 0,
            workload=str(speakers[section.workload]) if section.workload else None,
        )
        for section, bound in zip(config.listener, listeners.explicit, strict=True)
    )


def _bind_explicit(listener: ListenerSection, place: str, files: list[UnixSocket]) -> socket.socket:
    if listener.address.tcp is not None:
        return bind(listener.address.tcp, place)
    path = Path(listener.address.path or "")
    # `checked_listener` made names numbers.
    owner, group = (None if each is None else int(each) for each in (listener.owner, listener.group))
    made = listen_unix(path, mode=listener.bits, owner=owner, group=group, place=place)
    files.append(made)
    return made.sock


def own_ports(listeners: Listeners) -> tuple[int, ...]:
    """Give the TCP ports that this node's proxy listens on."""
    every = [*listeners.for_workers, *listeners.admin, *listeners.dns_tcp]
    return tuple(sorted({each.getsockname()[1] for each in every if each.family != socket.AF_UNIX}))


def _bind_both(place: str, port: int, address4: str, address6: str) -> list[socket.socket]:
    bound = [bind(SocketAddress(f"{address4}:{port}"), place)]
    try:
        bound.append(_listen(SocketAddress(f"[{address6}]:{port}")))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            bound[0].close()
            raise ConfigError(
                f"{place}: cannot listen on [{address6}]:{port}: {os.strerror(error.errno or 0)}; "
                "stop what listens there, or choose another port"
            ) from error
        # A host without IPv6 has nothing to capture there.
    return bound


def _listen(address: SocketAddress, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address.ip, ipaddress.IPv6Address) else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            # Of UDP sockets it would let two have the same address.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Each family has a socket of its own, so that both can be listed.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((str(address.ip), address.port))
        if kind == socket.SOCK_STREAM:
            bound.listen(BACKLOG)
        else:
            _widen(bound)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def _widen(bound: socket.socket) -> None:
    """Let a datagram socket hold what arrives while the agent is busy elsewhere."""
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def bound_address(bound: socket.socket) -> str:
    """Give ``address:port`` as bound, or ``unix:/path``."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{path_of(bound)}"
    host, port = bound.getsockname()[:2]
    return join_address(host, port)
