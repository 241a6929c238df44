"""Resources from bytes and back: the only way in for what people and nodes wrote.

Pure. Strict: what is not understood is an `InvalidResource` that names the field, what is wrong with it
and what to write instead. What passes has the right shape and does not contradict itself
(`registry.model.validate`); whether it agrees with other resources is not judged here.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from registry.errors import InvalidResource
from registry.model.administrator import Administrator
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.complaint import explain_complaint, nearest
from registry.model.decision import NodeDecisions
from registry.model.document import inspect, read_document, read_documents
from registry.model.enrolment import Enrolment, JoinToken, SealedKey, TrustBundle
from registry.model.external_service import ExternalService
from registry.model.fields import show
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.mesh import Mesh
from registry.model.peer_authentication import PeerAuthentication
from registry.model.quota import NodeQuotas
from registry.model.resource import Resource
from registry.model.rotation import Rotation
from registry.model.service import Service
from registry.model.status import Status
from registry.model.tcp_route import TCPRoute
from registry.model.validate import find_problems
from registry.model.workload import Node, NodeStatus, Workload

R = TypeVar("R", bound=Resource)

# What operators write, by `meshctl`, the API or `etcdctl`.
OPERATOR_KINDS: Final[tuple[type[Resource], ...]] = (
    Service,
    ExternalService,
    AuthorizationPolicy,
    PeerAuthentication,
    HTTPRoute,
    GRPCRoute,
    TCPRoute,
    BackendPolicy,
    Mesh,
)
KINDS: Final[tuple[type[Resource], ...]] = (
    *OPERATOR_KINDS,
    Workload,
    Node,
    NodeStatus,
    NodeDecisions,
    NodeQuotas,
    Enrolment,
    JoinToken,
    TrustBundle,
    SealedKey,
    Rotation,
    Administrator,
    Status,
)


def parse(data: bytes, *, where: str, kinds: Sequence[type[Resource]] = KINDS) -> Resource:
    """Read one resource of any of `kinds` from JSON or YAML; `where` is named in the error.

    Raises:
        InvalidResource: the value is no such resource.
    """
    return from_builtins(read_document(data, where=where), where=where, kinds=kinds)


def parse_as(cls: type[R], data: bytes, *, where: str) -> R:
    """Read one resource of the kind `cls` from JSON or YAML.

    Raises:
        InvalidResource: the value is no such resource.
    """
    document = read_document(data, where=where)
    inspect(document, where=where)
    return _build(cls, document, where)


def parse_documents(
    data: bytes, *, where: str, kinds: Sequence[type[Resource]] = OPERATOR_KINDS
) -> list[Resource]:
    """Read a file of any number of resources, as ``meshctl apply -f`` takes.

    Raises:
        InvalidResource: any of them is no such resource; says which document.
    """
    return [
        from_builtins(value, where=place, kinds=kinds) for place, value in read_documents(data, where=where)
    ]


def from_builtins(document: object, *, where: str, kinds: Sequence[type[Resource]] = KINDS) -> Resource:
    """Read one resource of any of `kinds` from plain values, as `to_builtins` gives.

    Raises:
        InvalidResource: the value is no such resource.
    """
    inspect(document, where=where)
    names = [cls.KIND for cls in kinds]
    if not isinstance(document, dict):
        raise InvalidResource(
            where=where,
            path="",
            reason="is not a mapping",
            mend="write apiVersion, kind, metadata and spec",
        )
    kind = document.get("kind")
    if kind is None:
        raise InvalidResource(
            where=where, path="kind", reason="is missing", mend=f"write one of {', '.join(sorted(names))}"
        )
    cls = next((cls for cls in kinds if kind == cls.KIND), None)
    if cls is None:
        raise InvalidResource(
            where=where,
            path="kind",
            reason=f"{show(kind)} is not a kind taken here",
            mend=nearest(show(kind), names),
        )
    return _build(cls, document, where)


def to_builtins(resource: Resource) -> dict[str, Any]:
    """Give the resource as plain values, to be written as YAML or put into a larger answer.

    Defaults are left out, except those that say what the resource is: its namespace, and a mesh's
    trust domain.
    """
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(resource))
    plain["metadata"]["namespace"] = resource.metadata.namespace
    if isinstance(resource, Mesh):
        plain["spec"]["trustDomain"] = resource.spec.trust_domain
    return plain


def render(resource: Resource) -> bytes:
    """Give the canonical JSON: sorted fields, no spaces, defaults as in `to_builtins`."""
    return msgspec.json.encode(to_builtins(resource), order="sorted")


def _build(cls: type[R], document: object, where: str) -> R:
    if isinstance(document, dict):
        _check_envelope(cls, document, where)
    try:
        resource = msgspec.convert(document, cls)
    except msgspec.ValidationError as error:
        raise explain_complaint(error, cls=cls, document=document, where=where) from None
    for problem in find_problems(resource):
        raise InvalidResource(where=where, path=problem.path, reason=problem.reason, mend=problem.mend)
    return resource


def _check_envelope(cls: type[Resource], document: dict[str, Any], where: str) -> None:
    for field, wanted in (("kind", (cls.KIND,)), ("apiVersion", cls.API_VERSIONS)):
        value = document.get(field)
        if value not in wanted:
            raise InvalidResource(
                where=where,
                path=field,
                reason="is missing" if value is None else f"{show(value)} is not known for {cls.KIND}",
                mend=f"write {' or '.join(wanted)}",
            )
