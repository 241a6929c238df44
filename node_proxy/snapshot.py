"""The Snapshot: all that a worker needs to know, as one immutable value at one revision.

Pure. The agent compiles it (`node_proxy.agent.compile`), the workers enforce it; neither imports the other.
Identities are SPIFFE IDs as text, workload and service names are ``namespace/name``.
"""

import msgspec

from node_proxy.address import join_address
from registry.model.authorization import AuthorizationPolicy
from registry.model.mesh import DefaultAuthorization
from registry.model.service import PortProtocol


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


class LocalWorkload(Value, frozen=True, kw_only=True):
    """A workload of this host: `dial` is the address at which it listens here."""

    name: str
    namespace: str
    labels: dict[str, str]
    identity: str
    server_name: str
    ports: tuple[int, ...]
    dial: str


class Snapshot(Value, frozen=True, kw_only=True):
    """Everything at `revision`.

    `closed_namespaces`: namespaces with a policy that never parsed; they refuse every new connection,
    and the value says which key is to blame.
    """

    revision: int
    node: str
    addresses: tuple[str, ...]
    trust_domain: str
    default_authorization: DefaultAuthorization
    services: tuple[ServiceView, ...] = ()
    local: tuple[LocalWorkload, ...] = ()
    policies: tuple[AuthorizationPolicy, ...] = ()
    closed_namespaces: dict[str, str] = {}
