"""The Snapshot: all that a worker needs to know, as one immutable value at one revision.

Pure. The agent compiles it (`node_proxy.agent.compile`), the workers enforce it; neither imports the other.
Identities are SPIFFE IDs as text, workload and service names are ``namespace/name``.
"""

import msgspec

from node_proxy.address import join_address
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.mesh import DefaultAuthorization
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.model.service import PortProtocol
from registry.model.tcp_route import TCPRoute


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable value that crosses the socketpair as MessagePack."""


class Endpoint(Value, frozen=True, kw_only=True):
    """address:port of a workload, and the tunnel and identity by which it is reached."""

    node: str
    workload: str
    address: str
    port: int
    tunnel_port: int
    identity: str
    server_name: str
    weight: int
    healthy: bool
    region: str = ""
    zone: str = ""

    @property
    def at(self) -> str:
        """``address:port``, as CONNECT names it and logs show it."""
        return join_address(self.address, self.port)


class ServicePortView(Value, frozen=True, kw_only=True):
    """A service port with the endpoints behind it."""

    port: int
    protocol: PortProtocol
    endpoints: tuple[Endpoint, ...]


class ServiceView(Value, frozen=True, kw_only=True):
    """A service as callers see it; `vips` are the addresses captured for it."""

    name: str
    vips: tuple[str, ...]
    ports: tuple[ServicePortView, ...]


class ExternalPortView(Value, frozen=True, kw_only=True):
    """A port of an external service, and the one that is dialled for it."""

    port: int
    target: int
    protocol: PortProtocol


class ExternalServiceView(Value, frozen=True, kw_only=True):
    """A name outside the mesh: `hosts` and `vips` lead to it, `addresses` are dialled.

    `server_name`: what the proxy's TLS verifies; None where it speaks none. `allowed` are patterns of
    principals; None lets in all who have an identity.
    """

    name: str
    hosts: tuple[str, ...]
    vips: tuple[str, ...]
    ports: tuple[ExternalPortView, ...]
    addresses: tuple[str, ...]
    server_name: str | None = None
    roots_pem: str = ""
    allowed: tuple[str, ...] | None = None


class OwnerRule(Value, frozen=True, kw_only=True):
    """Which processes belong to a workload: all that is given must be so.

    `unit` is a service, a scope, or a template (``web@.service``), `cgroup` the path of one that holds them.
    """

    unit: str | None = None
    uid: int | None = None
    cgroup: str | None = None

    def __str__(self) -> str:
        parts = {"unit": self.unit, "uid": self.uid, "cgroup": self.cgroup}
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)


class LocalWorkload(Value, frozen=True, kw_only=True):
    """A workload of this host: `dial` is the address at which it listens here.

    `owner` says whose calls carry its identity; None when that is not declared. `services` are those it is
    behind, by its labels. `preserve_source`: it is dialled from the caller's own address. `proxy_protocol`:
    it is told of the caller by a header (`node_proxy.proxy_header`). `protocols` say what its ports speak, as
    the services before it declare; what none declares, or two declare otherwise, is tcp.
    """

    name: str
    namespace: str
    labels: dict[str, str]
    identity: str
    server_name: str
    ports: tuple[int, ...]
    dial: str
    owner: OwnerRule | None = None
    services: tuple[str, ...] = ()
    preserve_source: bool = False
    proxy_protocol: bool = False
    protocols: dict[int, PortProtocol] = {}


class Snapshot(Value, frozen=True, kw_only=True):
    """Everything at `revision`.

    `closed_namespaces`: namespaces with a policy that never parsed; they refuse every new connection,
    and the value says which key is to blame. `enforcement_grace`: seconds before an open connection is cut
    that policies deny now. `nodes` gives the address that each node's record names, as that node says it.
    Routes come with the revision of the store at which they were made: the older goes first. `region` and
    `zone` are this node's.
    """

    revision: int
    node: str
    addresses: tuple[str, ...]
    trust_domain: str
    default_authorization: DefaultAuthorization
    services: tuple[ServiceView, ...] = ()
    local: tuple[LocalWorkload, ...] = ()
    policies: tuple[AuthorizationPolicy, ...] = ()
    peer_authentications: tuple[PeerAuthentication, ...] = ()
    mtls_mode: MtlsMode = MtlsMode.STRICT
    closed_namespaces: dict[str, str] = {}
    enforcement_grace: int = 0
    externals: tuple[ExternalServiceView, ...] = ()
    vip_ranges: tuple[str, ...] = ()
    nodes: dict[str, str] = {}
    http_routes: tuple[tuple[HTTPRoute, int], ...] = ()
    grpc_routes: tuple[tuple[GRPCRoute, int], ...] = ()
    tcp_routes: tuple[tuple[TCPRoute, int], ...] = ()
    backend_policies: tuple[BackendPolicy, ...] = ()
    region: str = ""
    zone: str = ""
