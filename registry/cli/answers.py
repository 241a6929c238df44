"""The registry's answers as typed values. Fields we do not know are ignored: the registry may be newer."""

from typing import Any, Generic, TypeVar

import msgspec

Item = TypeVar("Item")


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of the answers."""


class JoinTokenMade(Answer, frozen=True, kw_only=True):
    """A join token, shown this once; `expires_at` is RFC 3339 in UTC."""

    id: str
    token: str
    expires_at: str


class AdministratorMade(Answer, frozen=True, kw_only=True):
    """A new administrator and its token, shown this once."""

    name: str
    role: str
    token: str


class AdministratorView(Answer, frozen=True, kw_only=True):
    """An administrator; `created_at` is RFC 3339 in UTC, None where it was not noted."""

    name: str
    role: str
    created_at: str | None = None


class AdministratorRemoved(Answer, frozen=True, kw_only=True):
    """An administrator that is no more."""

    name: str


class Administrators(Answer, frozen=True, kw_only=True):
    """The administrators; `remarks`: which entries count for nothing, and why."""

    items: tuple[AdministratorView, ...]
    remarks: tuple[str, ...] = ()


class NodeWorkload(Answer, frozen=True, kw_only=True):
    """A workload as its node registered it; `name` is ``namespace/name``."""

    name: str
    identity: str
    ports: tuple[int, ...] = ()
    health: str = ""


class NodeView(Answer, frozen=True, kw_only=True):
    """A node: its enrolment, and while it lives its record and workloads; `remarks`: what does not count.

    `pending` while it waits for an administrator's approval.
    """

    node: str
    live: bool
    pending: bool = False
    address: str | None = None
    tunnel_port: int | None = None
    region: str | None = None
    zone: str | None = None
    version: str | None = None
    enrolled_at: str | None = None
    identities: tuple[str, ...] = ()
    workloads: tuple[NodeWorkload, ...] = ()
    remarks: tuple[str, ...] = ()


class Nodes(Answer, frozen=True, kw_only=True):
    """The nodes, and whether etcd asks them who they are (None: it does not say)."""

    items: tuple[NodeView, ...]
    etcd_users: bool | None = None


class EnrolmentView(Answer, frozen=True, kw_only=True):
    """A node's enrolment as it stands now, and whether that is another than before."""

    node: str
    identities: tuple[str, ...]
    changed: bool


class NodeRevoked(Answer, frozen=True, kw_only=True):
    """A node whose certificates are revoked; whether it was enrolled."""

    node: str
    enrolled: bool


class RejectedView(Answer, frozen=True, kw_only=True):
    """A resource a node could not take; `last_good_revision` is the version that stays in force, if any."""

    key: str
    reason: str
    last_good_revision: int | None = None


class NodeProxyView(Answer, frozen=True, kw_only=True):
    """What a node's proxy has applied; `applied_revision` is None or 0 until it reported.

    `faults` are the errors that it makes on purpose.
    """

    node: str
    live: bool
    applied_revision: int | None = None
    workers: int | None = None
    certificate_expires: str | None = None
    rejected: tuple[RejectedView, ...] = ()
    faults: tuple[str, ...] = ()


class ProxyStatus(Answer, frozen=True, kw_only=True):
    """Every node's state beside `revision`, the store's head."""

    revision: int
    items: tuple[NodeProxyView, ...] = ()


class ServicePortView(Answer, frozen=True, kw_only=True):
    """A port of a service."""

    port: int
    name: str | None = None
    target_port: int | None = None
    protocol: str = "tcp"

    def describe(self) -> str:
        """Write it as ``80→8080/http``."""
        target = f"→{self.target_port}" if self.target_port and self.target_port != self.port else ""
        return f"{self.port}{target}/{self.protocol}"


class EndpointView(Answer, frozen=True, kw_only=True):
    """A place that may serve a service; `why` says why it is not usable."""

    node: str
    workload: str
    address: str
    port: int
    identity: str
    health: str
    usable: bool
    why: str | None = None


class ServiceView(Answer, frozen=True, kw_only=True):
    """A service with what the controller says of it and what is behind it; `hosts` outside the mesh."""

    namespace: str
    name: str
    accepted: bool
    ports: tuple[ServicePortView, ...] = ()
    identities: tuple[str, ...] = ()
    vips: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()
    kind: str = "Service"
    hosts: tuple[str, ...] = ()

    @property
    def external(self) -> bool:
        """Whether it is outside the mesh."""
        return self.kind == "ExternalService"

    @property
    def usable(self) -> int:
        """How many endpoints can take traffic."""
        return sum(endpoint.usable for endpoint in self.endpoints)


class StoredResource(Answer, frozen=True, kw_only=True):
    """A resource as the store has it: either `resource` or the `error` of a value that does not parse.

    `accepted` is None until the controller has judged this revision.
    """

    revision: int
    key: str = ""
    resource: dict[str, Any] | None = None
    error: str | None = None
    created: bool = False
    accepted: bool | None = None
    reasons: tuple[str, ...] = ()


class Items(Answer, Generic[Item], frozen=True, kw_only=True):
    """A list."""

    items: tuple[Item, ...]


class Problem(Answer, frozen=True, kw_only=True):
    """An RFC 9457 problem document; the last four come with an invalid resource."""

    status: int
    title: str = ""
    detail: str = ""
    where: str = ""
    path: str = ""
    reason: str = ""
    mend: str = ""
