"""What holds at each node: policies, settings and workloads as that node sees them. Pure.

A node keeps the last good version of what it rejects, and closes the namespace of a policy that was never
good. Which it is, the node says in its status; so two nodes may hold different rules, and a question about a
workload is answered with the rules of its node.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from registry.api.fleet import NodeState
from registry.errors import InvalidResource
from registry.judgement import OperatorKey, check, operator_key, read_resource
from registry.model.authorization import AuthorizationPolicy
from registry.model.decision import DecisionRecord, NodeDecisions
from registry.model.enrolment import TrustBundle
from registry.model.identity import Identity, InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.mesh import DefaultAuthorization, Mesh, MeshSpec
from registry.model.parse import parse_as
from registry.model.peer_authentication import PeerAuthentication
from registry.model.resource import Resource
from registry.model.service import PortProtocol, Service
from registry.model.workload import Workload
from registry.rules import AuthRequest, HttpRequest, MeshPolicies, WorkloadPolicies
from registry.rules.layer7 import protocols_of
from registry.store import keys
from registry.store.base import KeyValue
from registry.store.codec import EVERY_NAMESPACE, closed_namespaces

R = TypeVar("R", bound=Resource)

# A key and the revision of an earlier version of it.
Former = tuple[str, int]
# Reading one is a call of etcd, and a node may claim what it likes.
MAX_FORMER = 200


@dataclass(frozen=True, slots=True)
class Target:
    """A workload's port as it may be called on one node."""

    node: NodeState
    workload: Workload
    port: int

    def request(self, source: Identity | None, *, source_ip: str | None = None) -> AuthRequest:
        """Give the question that the node's proxy would ask of a plain connection."""
        record = self.node.record
        return AuthRequest(
            source,
            self.port,
            source_ip=source_ip,
            destination_ip=record.address if record else None,
            sni=_server_name(self.workload.spec.identity),
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision and the node that took it."""

    node: str
    record: DecisionRecord


@dataclass(frozen=True, slots=True)
class _InForce:
    """The operators' resources as a node has them, and what is not known of them."""

    policies: MeshPolicies
    services: tuple[Service, ...]
    closed: dict[str, str]
    remarks: tuple[str, ...]


@dataclass(slots=True)
class MeshView:
    """The mesh as its nodes see it.

    Args:
        items: what stands in the store.
        fleet: what of it the nodes say of themselves.
        trust_domain: the certificate authority's.
        former: earlier versions of what nodes reject, as far as the store still has them; `wanted_former`
            says which are needed.
        candidates: resources that take the place of those stored at their keys.
    """

    items: Sequence[KeyValue]
    fleet: Mapping[str, NodeState]
    trust_domain: str
    former: Mapping[Former, bytes] = field(default_factory=dict)
    candidates: Sequence[Resource] = ()
    _readable: dict[OperatorKey, Resource] = field(init=False, default_factory=dict)
    _unreadable: set[str] = field(init=False, default_factory=set)
    _revisions: dict[str, int] = field(init=False, default_factory=dict)
    _by_former: dict[tuple[tuple[str, int | None], ...], _InForce] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        replaced = {keys.key_of(candidate): candidate for candidate in self.candidates}
        for item in self.items:
            key = operator_key(item.key)
            if key is None or key in replaced:
                continue
            self._revisions[item.key] = item.revision
            if (resource := self._read(key, item.value)) is None:
                self._unreadable.add(item.key)
            else:
                self._readable[key] = resource
        self._readable.update(replaced)

    def changed_by(self, candidates: Sequence[Resource]) -> "MeshView":
        """Give the mesh as it would be with these resources."""
        return MeshView(self.items, self.fleet, self.trust_domain, self.former, candidates)

    def wanted_former(self) -> set[Former]:
        """Give the earlier versions that nodes say they hold, at most MAX_FORMER."""
        wanted = sorted(
            {
                (text, revision)
                for node in self.fleet.values()
                for text, revision in self._versions(node)
                if revision is not None
            }
        )
        return set(wanted[:MAX_FORMER])

    def service(self, namespace: str, name: str) -> Service | None:
        """Find a service."""
        found = self._readable.get(keys.ResourceKey(Service.PLURAL, namespace, name))
        return found if isinstance(found, Service) else None

    def stored(self, kind: type[R]) -> tuple[R, ...]:
        """Give every resource of a kind that parses, candidates included."""
        return tuple(each for each in self._readable.values() if isinstance(each, kind))

    def federated(self) -> tuple[str, ...]:
        """Give the other trust domains whose callers are let in."""
        for item in self.items:
            if isinstance(keys.parse(item.key), keys.BundleKey):
                try:
                    bundle = parse_as(TrustBundle, item.value, where=item.key)
                except InvalidResource:
                    return ()
                return tuple(each.trust_domain for each in bundle.spec.federated)
        return ()

    def targets(self, chosen: Callable[[Workload], bool], port: int) -> Iterator[Target]:
        """Give every workload of the choice, by node and name."""
        for node in self.fleet.values():
            for workload in sorted(node.workloads, key=lambda each: each.name):
                if chosen(workload):
                    yield Target(node, workload, port)

    def target(self, node: str, workload: str, port: int) -> Target | None:
        """Find a workload of a node; None when it is not registered, or not for this port."""
        state = self.fleet.get(node)
        for each in state.workloads if state is not None else ():
            if state is not None and each.name == workload and port in each.spec.ports:
                return Target(state, each, port)
        return None

    def policies(self, target: Target) -> tuple[WorkloadPolicies, tuple[str, ...]]:
        """Give what guards a workload at its node, and remarks on what cannot be known of it."""
        in_force = self._in_force(target.node)
        namespace, labels = target.workload.metadata.namespace, target.workload.metadata.labels
        policies = in_force.policies.of(
            namespace=namespace,
            labels=labels,
            services=[each.name for each in in_force.services if each.selects(namespace, labels)],
            closed_by=in_force.closed.get(EVERY_NAMESPACE) or in_force.closed.get(namespace),
        )
        return policies, in_force.remarks

    def protocol(self, target: Target) -> PortProtocol:
        """Give what the workload's port speaks, as its node has it from the services."""
        metadata, services = target.workload.metadata, self._in_force(target.node).services
        ports = (target.port,)
        found = protocols_of(services, namespace=metadata.namespace, labels=metadata.labels, ports=ports)
        return found[target.port]

    def decisions(self) -> Iterator[Recorded]:
        """Give what the nodes recorded; a value that does not parse is passed over."""
        for item in self.items:
            key = keys.parse(item.key)
            if isinstance(key, keys.NodeDecisionsKey):
                try:
                    spec = parse_as(NodeDecisions, item.value, where=item.key).spec
                except InvalidResource:
                    continue
                yield from (Recorded(key.node, record) for record in spec.decisions)

    def _read(self, key: OperatorKey, value: bytes) -> Resource | None:
        try:
            resource = read_resource(key, value, where="")
            check(resource, trust_domain=self.trust_domain, where="")
        except InvalidResource:
            return None
        return resource

    def _in_force(self, node: NodeState) -> _InForce:
        """Give what a node has: what is stored, and of what it rejects its last good versions."""
        versions = self._versions(node)
        if versions not in self._by_former:
            self._by_former[versions] = self._assemble(versions)
        return self._by_former[versions]

    def _versions(self, node: NodeState) -> tuple[tuple[str, int | None], ...]:
        """Give each key of which a node has another version than the stored one; None: it has none."""
        held: dict[str, int | None] = dict.fromkeys(self._unreadable)
        replaced = {keys.key_of(candidate) for candidate in self.candidates}
        for rejection in node.status.rejected if node.status is not None else ():
            key = operator_key(rejection.key)
            # Some are rejected and yet in force: conditions on HTTP where none is read.
            if key is not None and key not in replaced:
                held[rejection.key] = rejection.last_good_revision
        return tuple(
            (text, revision) for text, revision in sorted(held.items()) if self._differs(text, revision)
        )

    def _differs(self, text: str, revision: int | None) -> bool:
        """Whether a node that rejects a key, and holds this version of it, has another than the store."""
        if text in self._revisions:
            return revision != self._revisions[text]
        # Of what was deleted nodes hold nothing, whatever they said before; but for the mesh's settings,
        # which stay in force while they require signatures.
        return revision is not None and isinstance(operator_key(text), keys.MeshKey)

    def _assemble(self, versions: Iterable[tuple[str, int | None]]) -> _InForce:
        resources = dict(self._readable)
        never: list[str] = []
        remarks: list[str] = []
        for text, revision in versions:
            key = operator_key(text)
            if key is None:
                continue
            resources.pop(key, None)
            if revision is None:
                never.append(text)
                continue
            value = self.former.get((text, revision))
            resource = None if value is None else self._read(key, value)
            if resource is None:
                remarks.append(
                    f"{text}: its revision {revision} is in force here, which is not known any more"
                )
            else:
                resources[key] = resource
        mesh = self._mesh(resources, never)
        policies = MeshPolicies(
            (each for each in resources.values() if isinstance(each, AuthorizationPolicy)),
            trust_domain=self.trust_domain,
            peers=(each for each in resources.values() if isinstance(each, PeerAuthentication)),
            mode=mesh.mtls_mode,
            default=mesh.default_authorization,
        )
        services = tuple(each for each in resources.values() if isinstance(each, Service))
        return _InForce(policies, services, closed_namespaces(never), tuple(remarks))

    def _mesh(self, resources: Mapping[OperatorKey, Resource], never: Sequence[str]) -> MeshSpec:
        mesh = resources.get(keys.MeshKey())
        if isinstance(mesh, Mesh):
            return mesh.spec
        if keys.render(keys.MeshKey()) in never:
            return MeshSpec(trust_domain=self.trust_domain, default_authorization=DefaultAuthorization.DENY)
        return MeshSpec()


def recorded_request(record: DecisionRecord) -> AuthRequest:
    """Give the question that a recorded decision answered; the header of a request is not recorded.

    Raises:
        InvalidResource: its source is no identity.
    """
    try:
        source = parse_identity(record.source) if record.source else None
    except InvalidIdentity as error:
        raise InvalidResource(where="recorded decision", path="source", reason=str(error)) from error
    asked = record.request
    return AuthRequest(
        source,
        record.port,
        source_ip=record.source_ip or None,
        remote_ip=record.remote_ip or None,
        destination_ip=record.destination_ip or None,
        sni=record.sni or None,
        http=HttpRequest(asked.method, asked.path, asked.host) if asked else None,
        opening=record.opening,
    )


def _server_name(identity: str) -> str | None:
    try:
        parsed = parse_identity(identity)
    except InvalidIdentity:
        return None
    return parsed.server_name if isinstance(parsed, WorkloadIdentity) else None
