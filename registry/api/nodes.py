"""The nodes: who is enrolled, who is alive, what runs there, what each proxy has applied."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, answer
from registry.api.fleet import FleetReader, NodeState
from registry.store import keys
from registry.store.accounts import Accounts
from registry.store.base import Store
from registry.store.codec import ENFORCED_PREFIXES, is_enforced


class WorkloadAnswer(Answer, frozen=True, kw_only=True):
    """A workload as its node registered it."""

    name: str
    identity: str
    ports: tuple[int, ...]
    health: str


class NodeAnswer(Answer, frozen=True, kw_only=True):
    """A node; null is what is known only while it lives. `remarks` tell of values that do not count.

    `pending` while an administrator has yet to approve it.
    """

    node: str
    live: bool
    pending: bool
    address: str | None
    tunnel_port: int | None
    region: str | None
    zone: str | None
    version: str | None
    enrolled_at: str | None
    identities: tuple[str, ...]
    workloads: tuple[WorkloadAnswer, ...]
    remarks: tuple[str, ...]


class RejectedAnswer(Answer, frozen=True, kw_only=True):
    """A key that a node could not take, and the older version still in force there, if any."""

    key: str
    reason: str
    last_good_revision: int | None


class ProxyAnswer(Answer, frozen=True, kw_only=True):
    """What a node's proxy enforces; null until it has reported. `faults` are errors it makes on purpose."""

    node: str
    live: bool
    applied_revision: int | None
    workers: int | None
    certificate_expires: str | None
    rejected: tuple[RejectedAnswer, ...]
    faults: tuple[str, ...]


class NodesAnswer(Answer, frozen=True, kw_only=True):
    """Every node, by name. `etcd_users`: whether etcd asks nodes who they are; null if it does not say."""

    items: tuple[NodeAnswer, ...]
    etcd_users: bool | None


class ProxiesAnswer(Answer, frozen=True, kw_only=True):
    """Every proxy beside `revision`, the newest of what proxies enforce."""

    revision: int
    items: tuple[ProxyAnswer, ...]


class NodeHandlers:
    """``/v1/nodes`` and ``/v1/proxy/status``."""

    def __init__(
        self, *, store: Store, administrators: Administrators, fleet: FleetReader, accounts: Accounts
    ) -> None:
        self._store = store
        self._administrators = administrators
        self._fleet = fleet
        self._accounts = accounts

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        return [
            Route("/v1/nodes", self._administrators.only(self.list_nodes)),
            Route("/v1/proxy/status", self._administrators.only(self.proxy_status)),
        ]

    async def list_nodes(self, _request: Request, _administrator: str) -> Response:
        """Give every node that is enrolled or alive."""
        fleet = await self._fleet.read()
        items = tuple(_describe(node) for node in fleet.values())
        return answer(NodesAnswer(items=items, etcd_users=await self._accounts.enabled()))

    async def proxy_status(self, _request: Request, _administrator: str) -> Response:
        """Give what each node has applied and refused."""
        fleet = await self._fleet.read()
        items = tuple(_describe_proxy(node) for node in fleet.values())
        return answer(ProxiesAnswer(revision=await self._newest_enforced(), items=items))

    async def _newest_enforced(self) -> int:
        """Find the newest revision that a proxy must have taken notice of to be up to date."""
        newest = 0
        for prefix in ENFORCED_PREFIXES:
            for item in (await self._store.list(prefix)).items:
                key = keys.parse(item.key)
                if key is not None and is_enforced(key):
                    newest = max(newest, item.revision)
        return newest


def _describe(node: NodeState) -> NodeAnswer:
    record = node.record
    return NodeAnswer(
        node=node.name,
        live=node.live,
        pending=node.enrolment is not None and node.enrolment.pending,
        address=record.address if record else None,
        tunnel_port=record.tunnel_port if record else None,
        region=record.region if record else None,
        zone=record.zone if record else None,
        version=record.version if record else None,
        enrolled_at=node.enrolment.enrolled_at if node.enrolment else None,
        identities=node.enrolment.identities if node.enrolment else (),
        workloads=tuple(
            WorkloadAnswer(
                name=workload.name,
                identity=workload.spec.identity,
                ports=workload.spec.ports,
                health=workload.spec.health.value,
            )
            for workload in node.workloads
        ),
        remarks=tuple(node.remarks),
    )


def _describe_proxy(node: NodeState) -> ProxyAnswer:
    status = node.status
    return ProxyAnswer(
        node=node.name,
        live=node.live,
        applied_revision=status.applied_revision if status else None,
        workers=status.workers if status else None,
        certificate_expires=status.certificate_expires or None if status else None,
        rejected=tuple(
            RejectedAnswer(key=each.key, reason=each.reason, last_good_revision=each.last_good_revision)
            for each in (status.rejected if status else ())
        ),
        faults=status.faults if status else (),
    )
