"""Workload and Node: what a node's agent writes about itself, under its lease."""

import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from registry.model.resource import Name, Port, Resource, Strict

DEFAULT_TUNNEL_PORT = 15008


class Health(enum.Enum):
    """What the node's active health check last said."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class WorkloadSpec(Strict, frozen=True, kw_only=True):
    """`identity` is the full SPIFFE ID; `ports` are reachable through the node's tunnel port."""

    node: Name
    identity: str
    ports: tuple[Port, ...]
    health: Health = Health.HEALTHY
    weight: Annotated[int, Meta(ge=0, le=65535)] = 100


class Workload(Resource, frozen=True, kw_only=True):
    """One running thing with an identity. Its labels are in the metadata."""

    KIND: ClassVar[str] = "Workload"
    PLURAL: ClassVar[str] = "workloads"

    spec: WorkloadSpec


class NodeSpec(Strict, frozen=True, kw_only=True):
    """`address` is the IP other nodes dial; `boot_id` changes with each boot of the host."""

    address: str
    tunnel_port: Port = DEFAULT_TUNNEL_PORT
    region: str = ""
    zone: str = ""
    version: str = ""
    boot_id: str = ""


class Node(Resource, frozen=True, kw_only=True):
    """A host with a proxy. Its namespace is always the root namespace."""

    KIND: ClassVar[str] = "Node"
    PLURAL: ClassVar[str] = "nodes"

    spec: NodeSpec


class Rejection(Strict, frozen=True, kw_only=True):
    """A key the node could not take, why, and whether an older version of it is still in force."""

    key: str
    reason: str
    last_good_revision: int | None = None


class NodeStatusSpec(Strict, frozen=True, kw_only=True):
    """`applied_revision`: the etcd revision the workers enforce. Times are RFC 3339 in UTC.

    `trusted_roots` are the fingerprints (hex SHA-256 of the DER) of the roots the workers check peers
    against; `issuers` those of the intermediates that issued the certificates they present. A rotation waits
    for them. `revoked` says of each certificate the node holds that is revoked by what. `faults` are the
    errors that the node makes on purpose, each in a line.
    """

    applied_revision: int
    rejected: tuple[Rejection, ...] = ()
    certificate_expires: str = ""
    trusted_roots: tuple[str, ...] = ()
    issuers: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    workers: int = 0
    faults: tuple[str, ...] = ()


class NodeStatus(Resource, frozen=True, kw_only=True):
    """What a node has applied and what it refused."""

    KIND: ClassVar[str] = "NodeStatus"
    PLURAL: ClassVar[str] = "nodestatuses"

    spec: NodeStatusSpec
