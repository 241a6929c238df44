"""What stands at a key: picks the kind from the key, and holds the value to its place.

Pure. A resource must say the same name, namespace and kind as the key it lies at; otherwise an edit
under one key would change what another seems to hold.
"""

from collections.abc import Iterable
from typing import Final, assert_never

from registry.errors import InvalidResource
from registry.model.administrator import Administrator
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.decision import NodeDecisions
from registry.model.enrolment import Enrolment, JoinToken, SealedKey, TrustBundle
from registry.model.external_service import ExternalService
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS, parse_as
from registry.model.peer_authentication import PeerAuthentication
from registry.model.quota import NodeQuotas
from registry.model.resource import ROOT_NAMESPACE, Resource
from registry.model.rotation import Rotation
from registry.model.service import Service
from registry.model.status import Status
from registry.model.tcp_route import TCPRoute
from registry.model.workload import Node, NodeStatus, Workload
from registry.store import keys

# The folders of operators' resources that node proxies enforce.
ENFORCED_PLURALS: Final = frozenset(
    kind.PLURAL
    for kind in (
        Service,
        ExternalService,
        AuthorizationPolicy,
        PeerAuthentication,
        HTTPRoute,
        GRPCRoute,
        TCPRoute,
        BackendPolicy,
    )
)
# Those that get virtual IPs, which their statuses hold.
ADDRESSED_PLURALS: Final = (ExternalService.PLURAL, Service.PLURAL)
# What closes its namespace while it has never parsed: without it, callers would be let in unasked. Routes and
# backend policies guard nothing: without one, requests go where the Service alone says.
_GUARDING: Final = frozenset({AuthorizationPolicy.PLURAL, PeerAuthentication.PLURAL})
# Stands for all of them in `closed_namespaces`.
EVERY_NAMESPACE: Final = "*"
_BY_PLURAL: Final = {kind.PLURAL: kind for kind in OPERATOR_KINDS if kind is not Mesh}


def kind_at(key: keys.Key) -> type[Resource] | None:
    """Give the kind that lies at `key`; None for what is no resource or of a kind unknown here."""
    match key:
        case keys.MeshKey():
            return Mesh
        case keys.ResourceKey(plural=plural):
            return _BY_PLURAL.get(plural)
        case keys.StatusKey():
            return Status
        case keys.NodeRecordKey():
            return Node
        case keys.NodeStatusKey():
            return NodeStatus
        case keys.NodeDecisionsKey():
            return NodeDecisions
        case keys.NodeQuotasKey():
            return NodeQuotas
        case keys.WorkloadKey():
            return Workload
        case keys.EnrolmentKey():
            return Enrolment
        case keys.TokenKey():
            return JoinToken
        case keys.BundleKey():
            return TrustBundle
        case keys.SigningKeyKey():
            return SealedKey
        case keys.RotationKey():
            return Rotation
        case keys.AdministratorKey():
            return Administrator
        case keys.LeaderKey():
            return None
        case _:
            assert_never(key)


def is_enforced(key: keys.Key) -> bool:
    """Whether node proxies act on what lies at `key`; all else may change without their taking notice."""
    match key:
        case keys.MeshKey() | keys.BundleKey() | keys.NodeRecordKey() | keys.WorkloadKey():
            return True
        case keys.EnrolmentKey():
            # For what they say of whose records count.
            return True
        case keys.ResourceKey(plural=plural):
            return plural in ENFORCED_PLURALS
        case keys.StatusKey(plural=plural):
            # For the virtual IPs.
            return plural in ADDRESSED_PLURALS
        case _:
            return False


# Where `is_enforced` may find anything, as prefixes: what a node proxy reads, and may read.
ENFORCED_PREFIXES: Final = (
    *(f"{plural}/" for plural in sorted(ENFORCED_PLURALS)),
    keys.render(keys.BundleKey()),
    "enrolments/",
    keys.render(keys.MeshKey()),
    "nodes/",
    *(f"status/{plural}/" for plural in ADDRESSED_PLURALS),
)


def closed_namespaces(unread: Iterable[str]) -> dict[str, str]:
    """Give the namespaces that admit nobody, each with the key to blame.

    `unread` are the keys that hold something, no version of which has ever parsed.
    """
    closed: dict[str, str] = {}
    for text in sorted(unread):
        key = keys.parse(text)
        if isinstance(key, keys.ResourceKey) and key.plural in _GUARDING:
            everywhere = key.namespace == ROOT_NAMESPACE
            closed.setdefault(EVERY_NAMESPACE if everywhere else key.namespace, text)
    return closed


def parse_at(key: str, value: bytes) -> Resource:
    """Read the resource at `key`, the key's text below the prefix.

    Raises:
        InvalidResource: no resource lies there, the value is none, or it says another place than its key.
    """
    place = keys.parse(key)
    kind = None if place is None else kind_at(place)
    if place is None or kind is None:
        raise InvalidResource(where=key, path="", reason="no resource is kept at this key")
    resource = parse_as(kind, value, where=key)
    for path, stated, expected in _claims(place, resource):
        if stated != expected:
            raise InvalidResource(
                where=key,
                path=path,
                reason=f"says {stated!r}, but the key says {expected!r}",
                mend=f"write {expected}, or move the value to the key it names",
            )
    return resource


def _claims(key: keys.Key, resource: Resource) -> list[tuple[str, str, str]]:
    """Give what the value and the key both say: (field, as the value has it, as the key has it)."""
    metadata = resource.metadata
    name, namespace = "metadata.name", "metadata.namespace"
    match key, resource:
        case keys.MeshKey(), _:
            return [(name, metadata.name, "mesh"), (namespace, metadata.namespace, ROOT_NAMESPACE)]
        case ((keys.ResourceKey() | keys.StatusKey()), _):
            return [(name, metadata.name, key.name), (namespace, metadata.namespace, key.namespace)]
        case keys.WorkloadKey(), Workload():
            return [
                (name, metadata.name, key.name),
                (namespace, metadata.namespace, key.namespace),
                ("spec.node", resource.spec.node, key.node),
            ]
        case keys.EnrolmentKey(), Enrolment():
            return [(name, metadata.name, key.node), ("spec.node", resource.spec.node, key.node)]
        case (
            (keys.NodeRecordKey() | keys.NodeStatusKey() | keys.NodeDecisionsKey() | keys.NodeQuotasKey()),
            _,
        ):
            return [(name, metadata.name, key.node)]
        case keys.AdministratorKey(), _:
            return [(name, metadata.name, key.name)]
        case ((keys.TokenKey() | keys.SigningKeyKey()), _):
            return [(name, metadata.name, key.id)]
        case _:
            return []
