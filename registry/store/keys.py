"""Where things live in etcd: builds and reads the keys under ``/nodemesh/v1/``.

Pure. Every key is made and taken apart here, so that the layout is written down once.
"""

from dataclasses import dataclass
from typing import assert_never

from registry.model.resource import Resource

DEFAULT_PREFIX = "/nodemesh/v1/"


@dataclass(frozen=True, slots=True)
class MeshKey:
    """``mesh``."""


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """``<plural>/<namespace>/<name>``: what operators write."""

    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class StatusKey:
    """``status/<plural>/<namespace>/<name>``."""

    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class NodeRecordKey:
    """``nodes/<node>/record``."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeStatusKey:
    """``nodes/<node>/status``."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeDecisionsKey:
    """``nodes/<node>/decisions``."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeQuotasKey:
    """``nodes/<node>/quotas``."""

    node: str


@dataclass(frozen=True, slots=True)
class WorkloadKey:
    """``nodes/<node>/workloads/<namespace>/<name>``."""

    node: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class EnrolmentKey:
    """``enrolments/<node>``."""

    node: str


@dataclass(frozen=True, slots=True)
class TokenKey:
    """``tokens/<id>``."""

    id: str


@dataclass(frozen=True, slots=True)
class BundleKey:
    """``ca/bundle``."""


@dataclass(frozen=True, slots=True)
class SigningKeyKey:
    """``ca/keys/<id>``."""

    id: str


@dataclass(frozen=True, slots=True)
class RotationKey:
    """``ca/rotation``: there while a signing certificate is being changed."""


@dataclass(frozen=True, slots=True)
class AdministratorKey:
    """``administrators/<name>``: the hash of an administrator's bearer token."""

    name: str


@dataclass(frozen=True, slots=True)
class LeaderKey:
    """``leader/<role>``: leased to the replica that leads."""

    role: str


Key = (
    MeshKey
    | ResourceKey
    | StatusKey
    | NodeRecordKey
    | NodeStatusKey
    | NodeDecisionsKey
    | NodeQuotasKey
    | WorkloadKey
    | EnrolmentKey
    | TokenKey
    | BundleKey
    | SigningKeyKey
    | RotationKey
    | AdministratorKey
    | LeaderKey
)

# Folders with meanings of their own; no resource kind may be called so.
RESERVED = frozenset({"mesh", "status", "nodes", "enrolments", "tokens", "ca", "administrators", "leader"})


def render(key: Key) -> str:
    """Give the key's text below the prefix."""
    match key:
        case MeshKey():
            return "mesh"
        case ResourceKey(plural, namespace, name):
            return f"{plural}/{namespace}/{name}"
        case StatusKey(plural, namespace, name):
            return f"status/{plural}/{namespace}/{name}"
        case NodeRecordKey(node):
            return f"nodes/{node}/record"
        case NodeStatusKey(node):
            return f"nodes/{node}/status"
        case NodeDecisionsKey(node):
            return f"nodes/{node}/decisions"
        case NodeQuotasKey(node):
            return f"nodes/{node}/quotas"
        case WorkloadKey(node, namespace, name):
            return f"nodes/{node}/workloads/{namespace}/{name}"
        case EnrolmentKey(node):
            return f"enrolments/{node}"
        case TokenKey(id_):
            return f"tokens/{id_}"
        case BundleKey():
            return "ca/bundle"
        case SigningKeyKey(id_):
            return f"ca/keys/{id_}"
        case RotationKey():
            return "ca/rotation"
        case AdministratorKey(name):
            return f"administrators/{name}"
        case LeaderKey(role):
            return f"leader/{role}"
        case _:
            assert_never(key)


def parse(text: str) -> Key | None:
    """Read a key's text below the prefix; None when it is none of ours."""
    match text.split("/"):
        case parts if "" in parts:
            return None
        case ["mesh"]:
            return MeshKey()
        case ["status", plural, namespace, name]:
            return StatusKey(plural, namespace, name)
        case ["nodes", node, "record"]:
            return NodeRecordKey(node)
        case ["nodes", node, "status"]:
            return NodeStatusKey(node)
        case ["nodes", node, "decisions"]:
            return NodeDecisionsKey(node)
        case ["nodes", node, "quotas"]:
            return NodeQuotasKey(node)
        case ["nodes", node, "workloads", namespace, name]:
            return WorkloadKey(node, namespace, name)
        case ["enrolments", node]:
            return EnrolmentKey(node)
        case ["tokens", id_]:
            return TokenKey(id_)
        case ["ca", "bundle"]:
            return BundleKey()
        case ["ca", "keys", id_]:
            return SigningKeyKey(id_)
        case ["ca", "rotation"]:
            return RotationKey()
        case ["administrators", name]:
            return AdministratorKey(name)
        case ["leader", role]:
            return LeaderKey(role)
        case [plural, namespace, name] if plural not in RESERVED:
            return ResourceKey(plural, namespace, name)
        case _:
            return None


def key_of(resource: Resource) -> ResourceKey | MeshKey:
    """Give the key at which an operator's resource lives."""
    if resource.PLURAL == "mesh":
        return MeshKey()
    return ResourceKey(resource.PLURAL, resource.metadata.namespace, resource.metadata.name)
