"""What the operator writes: proxy.toml and workloads.d/*.toml, read into immutable values.

Strict: an unknown field is an error. Every complaint is a `ConfigError` that names file, field and mend.
Here are only shapes and their checks; nothing is opened but the files themselves and the list of users.
"""

import ipaddress
import pwd
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from node_proxy.address import SocketAddress, join_address
from node_proxy.capture_settings import CaptureSection, Uid, checked_capture
from node_proxy.dns_settings import DnsSection, check_dns
from node_proxy.errors import ConfigError
from node_proxy.listener_settings import ListenerSection, QualifiedName, checked_listener
from node_proxy.owners import cgroup_fault, first_clash, unit_fault
from node_proxy.snapshot import OwnerRule
from node_proxy.toml import Section, read_section, wrong
from registry.model.identity import WorkloadIdentity
from registry.model.resource import DEFAULT_NAMESPACE, Labels, Name, Port
from registry.store.keys import DEFAULT_PREFIX

DEFAULT_CONFIG = Path("/etc/nodemesh/proxy.toml")
DEFAULT_WORKLOADS = Path("/etc/nodemesh/workloads.d")
# Marks the proxy's own sockets, so that its traffic is never captured; Istio's ztunnel uses the same value.
DEFAULT_MARK = 0x539

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Threshold = Annotated[int, Meta(ge=1, le=100)]
# As long as Kubernetes lets the labels be that say the same.
Place = Annotated[str, Meta(max_length=63)]


class EtcdSection(Section, frozen=True, kw_only=True):
    """How etcd is reached; `ca`, `cert`, `key` and `password_file` are paths."""

    endpoints: Annotated[tuple[str, ...], Meta(min_length=1)] = ("127.0.0.1:2379",)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    prefix: str = DEFAULT_PREFIX


class TunnelSection(Section, frozen=True, kw_only=True):
    """Where other nodes' tunnels are accepted."""

    listen: Annotated[tuple[SocketAddress, ...], Meta(min_length=1)] = (SocketAddress("0.0.0.0:15008"),)


class AdminSection(Section, frozen=True, kw_only=True):
    """Where health, metrics and configuration are shown; keep it on loopback."""

    listen: SocketAddress = SocketAddress("127.0.0.1:15020")


class ProxyConfig(Section, frozen=True, kw_only=True):
    """proxy.toml. `address` is what other nodes dial; `workers` 0 means one per core, at most four.

    `unknown_callers` is what becomes of a caller that belongs to no workload of this node: it counts as
    unauthenticated, or is refused. `outbound_policy` is what becomes of a call to what is no service: it is
    refused, or passes as it is. `renewal_spread`: when the mesh changes its certificate authority, this
    node's certificates are renewed at some moment within so many seconds, since all nodes hear of it at once.
    `region` and `zone` say where the host is: callers prefer what is near.
    """

    node: Name
    address: str
    registry: str
    region: Place = ""
    zone: Place = ""
    state_dir: str = "/var/lib/nodemesh"
    workers: Annotated[int, Meta(ge=0, le=256)] = 0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    default_workload: QualifiedName | None = None
    unknown_callers: Literal["unauthenticated", "refuse"] = "unauthenticated"
    outbound_policy: Literal["registry_only", "passthrough"] = "registry_only"
    renewal_spread: Seconds = 60.0
    # The one above is that of answers to callers' addresses (`node_proxy.agent.source_routing`).
    mark: Annotated[int, Meta(ge=1, lt=0xFFFFFFFF)] = DEFAULT_MARK
    workloads_dir: str | None = None
    etcd: EtcdSection = EtcdSection()
    tunnel: TunnelSection = TunnelSection()
    capture: CaptureSection = CaptureSection()
    admin: AdminSection = AdminSection()
    dns: DnsSection = DnsSection()
    listener: tuple[ListenerSection, ...] = ()


class HealthSection(Section, frozen=True, kw_only=True):
    """How a workload is checked; times in seconds, `port` defaults to the workload's first."""

    type: Literal["tcp", "http", "none"] = "tcp"
    port: Port | None = None
    path: str = "/"
    interval: Seconds = 2.0
    timeout: Seconds = 1.0
    unhealthy_after: Threshold = 2
    healthy_after: Threshold = 1


class WorkloadConfig(Section, frozen=True, kw_only=True):
    """One file of workloads.d: a service running on this host. `address` is where it listens here.

    `unit`, `user` (name or number) and `cgroup` say which processes speak for it when they call others.
    `preserve_source`: the proxy connects to it from the caller's own address; `proxy_protocol`: it is told of
    the caller by a header before the first byte. Without either its callers come from this host.
    """

    name: Name
    ports: Annotated[tuple[Port, ...], Meta(min_length=1)]
    namespace: Name = DEFAULT_NAMESPACE
    account: Name | None = None
    labels: Labels = msgspec.field(default_factory=dict)
    address: str = "127.0.0.1"
    weight: Annotated[int, Meta(ge=0, le=65535)] = 100
    health: HealthSection = HealthSection()
    unit: str | None = None
    user: str | Uid | None = None
    cgroup: str | None = None
    preserve_source: bool = False
    proxy_protocol: Literal["v2"] | None = None

    @property
    def owner(self) -> OwnerRule | None:
        """Say which processes belong to it; None when that is not declared. `load` made `user` a number."""
        if self.unit is None and self.user is None and self.cgroup is None:
            return None
        return OwnerRule(
            unit=self.unit, uid=None if self.user is None else int(self.user), cgroup=self.cgroup
        )

    @property
    def qualified(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def identity(self, trust_domain: str) -> WorkloadIdentity:
        """Give the identity it speaks with."""
        return WorkloadIdentity(trust_domain, self.namespace, self.account or self.name)


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All the operator's files together, checked against each other."""

    proxy: ProxyConfig
    workloads: tuple[WorkloadConfig, ...] = ()

    def workload(self, qualified: str) -> WorkloadConfig | None:
        """Find a declared workload by ``namespace/name``."""
        return next((workload for workload in self.workloads if workload.qualified == qualified), None)


def load(path: Path, *, workloads: Path | None = None) -> NodeConfig:
    """Read proxy.toml and the workloads beside it; `workloads` overrides the directory.

    Raises:
        ConfigError: a file is missing, malformed, or contradicts another.
    """
    proxy = load_proxy(path)
    if workloads is None and proxy.workloads_dir is not None:
        workloads = Path(proxy.workloads_dir)
    declared: dict[Path, WorkloadConfig] = {}
    directory = workloads or DEFAULT_WORKLOADS
    if directory.is_dir():
        for file in sorted(directory.glob("*.toml")):
            declared[file] = _with_owner(file, read_section(file, WorkloadConfig))
            _check_address(file, "address", declared[file].address)
            _check_preserve_source(file, declared[file], proxy)
            if not (path_text := declared[file].health.path).startswith("/"):
                raise wrong(file, "health.path", f"{path_text!r} is no path; write /{path_text}")
    elif workloads is not None:
        raise ConfigError(f"{directory}: no such directory; correct workloads_dir or --workloads")
    _check_together(path, proxy, declared)
    return NodeConfig(proxy=proxy, workloads=tuple(declared.values()))


def load_proxy(path: Path) -> ProxyConfig:
    """Read proxy.toml alone.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    proxy = read_section(path, ProxyConfig)
    proxy = msgspec.structs.replace(proxy, capture=checked_capture(path, proxy.capture))
    _check_address(path, "address", proxy.address)
    if ipaddress.ip_address(proxy.address).is_unspecified:
        raise wrong(path, "address", f"{proxy.address} is no address to dial; write the host's own")
    if not re.match(r"https://[^/\s]+/?\Z", proxy.registry):
        raise wrong(
            path, "registry", f"{proxy.registry!r} is not a URL; write https://registry.example:15010"
        )
    if (proxy.etcd.cert is None) != (proxy.etcd.key is None):
        raise wrong(path, "etcd", "cert and key belong together; write both or neither")
    if (proxy.etcd.user is None) != (proxy.etcd.password_file is None):
        raise wrong(path, "etcd", "user and password_file belong together; write both or neither")
    if not proxy.etcd.prefix.startswith("/") or not proxy.etcd.prefix.endswith("/"):
        raise wrong(path, "etcd.prefix", f"{proxy.etcd.prefix!r} must begin and end with /")
    check_dns(path, proxy.dns)
    listeners = (checked_listener(path, index, each) for index, each in enumerate(proxy.listener))
    proxy = msgspec.structs.replace(proxy, listener=tuple(listeners))
    paths = [listener.address.path for listener in proxy.listener if listener.address.path is not None]
    for index, each in enumerate(paths):
        if each in paths[:index]:
            raise wrong(path, "listener", f"unix:{each} stands twice; choose another path")
    bound: list[tuple[str, SocketAddress]] = []
    for field, address in _bound_addresses(proxy):
        for other_field, other in bound:
            if address.overlaps(other):
                raise wrong(path, field, f"{address} overlaps {other} of {other_field}; choose another port")
        bound.append((field, address))
    return proxy


def _bound_addresses(proxy: ProxyConfig) -> Iterator[tuple[str, SocketAddress]]:
    for index, address in enumerate(proxy.tunnel.listen):
        yield f"tunnel.listen[{index}]", address
    yield "admin.listen", proxy.admin.listen
    for index, address in enumerate(proxy.dns.listen if proxy.dns.enabled else ()):
        yield f"dns.listen[{index}]", address
    if proxy.capture.enabled:
        yield "capture.port", SocketAddress(f"127.0.0.1:{proxy.capture.port}")
        yield "capture.port", SocketAddress(f"[::1]:{proxy.capture.port}")
    if proxy.capture.enabled and proxy.capture.inbound:
        yield "capture.inbound_port", SocketAddress(f"0.0.0.0:{proxy.capture.inbound_port}")
        yield "capture.inbound_port", SocketAddress(f"[::]:{proxy.capture.inbound_port}")
    for index, listener in enumerate(proxy.listener):
        if listener.address.tcp is not None:
            yield f"listener[{index}].address", listener.address.tcp


def _check_together(path: Path, proxy: ProxyConfig, declared: dict[Path, WorkloadConfig]) -> None:
    names: dict[str, Path] = {}
    ports: dict[int, Path] = {}
    reserved = list(_bound_addresses(proxy))
    for file, workload in declared.items():
        if (other := names.setdefault(workload.qualified, file)) is not file:
            raise wrong(file, "name", f"{workload.qualified} is declared in {other} too; rename one of them")
        for port in workload.ports:
            if (other := ports.setdefault(port, file)) is not file:
                raise wrong(file, "ports", f"port {port} is taken by {other}; ports are unique on a node")
            for field, address in reserved:
                if address.overlaps(SocketAddress(join_address(workload.address, port))):
                    raise wrong(file, "ports", f"port {port} is the proxy's own ({field}); choose another")
    owners = {file: workload.owner for file, workload in declared.items() if workload.owner}
    if clash := first_clash(owners):
        other, file = clash
        raise wrong(
            file,
            "unit, user, cgroup",
            f"{other} declares the same processes; declare them in one of the two, or tell them apart by "
            "unit, user or cgroup",
        )
    speakers = [("default_workload", proxy.default_workload)]
    speakers += [(f"listener[{i}].workload", listener.workload) for i, listener in enumerate(proxy.listener)]
    for field, name in speakers:
        if name is not None and name not in names:
            known = ", ".join(sorted(names)) or "none is declared"
            raise wrong(
                path, field, f"{name} is no workload of this node ({known}); declare it in workloads.d"
            )


def _with_owner(file: Path, workload: WorkloadConfig) -> WorkloadConfig:
    """Check which processes are declared, and look up the user's number."""
    if workload.unit is not None and (fault := unit_fault(workload.unit)):
        raise wrong(file, "unit", fault)
    if workload.cgroup is not None:
        if fault := cgroup_fault(workload.cgroup):
            raise wrong(file, "cgroup", fault)
        if workload.unit is not None:
            raise wrong(file, "cgroup", "a unit's cgroup is known; write unit, or cgroup, and not both")
    if not isinstance(workload.user, str):
        return workload
    try:
        return msgspec.structs.replace(workload, user=pwd.getpwnam(workload.user).pw_uid)
    except KeyError:
        mend = "create it, or write its number"
        if workload.user.isdecimal():
            mend = f"to name a user by number, write user = {int(workload.user)}"
        elif workload.unit is None:
            mend += "; the user of DynamicUser= exists only while its unit runs: write unit instead"
        raise wrong(file, "user", f"this host has no user {workload.user!r}; {mend}") from None


def _check_preserve_source(file: Path, workload: WorkloadConfig, proxy: ProxyConfig) -> None:
    if not workload.preserve_source:
        return
    if workload.proxy_protocol is not None:
        raise wrong(
            file, "preserve_source", "proxy_protocol tells the caller's address too; write one of the two"
        )
    if not proxy.capture.enabled:
        raise wrong(
            file,
            "preserve_source",
            "the answers come back by capture's rules; write [capture] enabled = true in proxy.toml, or "
            'proxy_protocol = "v2" here',
        )
    address = ipaddress.ip_address(workload.address)
    if address.is_loopback or address.is_unspecified:
        raise wrong(
            file,
            "preserve_source",
            "from loopback nothing answers a caller elsewhere; let the workload listen on this host's own "
            f'address and write address = "{proxy.address}", or proxy_protocol = "v2" instead',
        )


def _check_address(path: Path, field: str, text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise wrong(path, field, f"{text!r} is not an IP address; write 10.0.0.7 or fd00::7") from error
