"""What is most likely not meant in the policies of a mesh, though each of them is well-formed.

Pure: the resources as they are in, findings out. Nothing here decides anything.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.peer_authentication import PeerAuthentication
from registry.model.resource import ROOT_NAMESPACE
from registry.model.service import Service
from registry.model.workload import Workload
from registry.rules.findings import Check, Finding, Severity
from registry.rules.layer7 import find_unenforceable, has_layer7, protocols_of
from registry.rules.peers import level_of
from registry.rules.references import Known, find_unknown_references
from registry.rules.selection import selects
from registry.rules.shadows import find_shadows
from registry.rules.width import find_too_wide

_ORDER = list(Severity)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A workload, without what makes no difference to policies."""

    namespace: str
    labels: dict[str, str]
    services: frozenset[str]
    ports: tuple[int, ...]
    name: str


def lint(
    policies: Sequence[AuthorizationPolicy],
    *,
    services: Sequence[Service],
    workloads: Iterable[Workload],
    trust_domain: str,
    peers: Sequence[PeerAuthentication] = (),
    accounts: Collection[WorkloadIdentity] = (),
    federated: Collection[str] = (),
) -> tuple[Finding, ...]:
    """Look for what is shadowed, unreachable, unenforceable, too wide or about nobody; the gravest first.

    Args:
        policies: of all namespaces.
        services: of all namespaces.
        workloads: that are registered.
        trust_domain: the mesh's.
        peers: of all namespaces.
        accounts: identities that nodes may hold besides those that services and workloads name.
        federated: other trust domains whose callers are let in.
    """
    registered = tuple(workloads)
    placed = _placed(registered, services)
    known = Known.of(
        {
            *accounts,
            *_workload_accounts(registered),
            *(identity for service in services for identity in _service_accounts(service, trust_domain)),
        },
        services=[service.name for service in services],
        trust_domain=trust_domain,
        federated=federated,
    )
    found: list[Finding] = []
    for policy in policies:
        selected = [each for each in placed if _reaches(policy, each)]
        ports = {port for each in selected for port in each.ports}
        found.extend(find_unknown_references(policy, known, selects_any=bool(selected), ports=ports))
        found.extend(find_too_wide(policy))
        if has_layer7(policy):
            found.extend(_unenforceable(policy, selected, services))
    found.extend(find_shadows(policies, trust_domain=trust_domain))
    found.extend(_peer_findings(peers, placed))
    return tuple(
        sorted(found, key=lambda each: (_ORDER.index(each.severity), each.kind, each.policy, each.path))
    )


def _placed(workloads: Iterable[Workload], services: Sequence[Service]) -> list[_Placed]:
    found: dict[tuple[object, ...], _Placed] = {}
    for workload in workloads:
        namespace, labels = workload.metadata.namespace, workload.metadata.labels
        key = (namespace, tuple(sorted(labels.items())), workload.spec.ports)
        if key not in found:
            behind = frozenset(each.name for each in services if each.selects(namespace, labels))
            found[key] = _Placed(namespace, labels, behind, workload.spec.ports, workload.name)
    return list(found.values())


def _workload_accounts(workloads: Iterable[Workload]) -> Iterator[WorkloadIdentity]:
    for workload in workloads:
        try:
            identity = parse_identity(workload.spec.identity)
        except InvalidIdentity:
            continue
        if isinstance(identity, WorkloadIdentity):
            yield identity


def _service_accounts(service: Service, trust_domain: str) -> frozenset[WorkloadIdentity]:
    try:
        return service.identities(trust_domain)
    except InvalidIdentity:
        # The service is rejected for it.
        return frozenset()


def _reaches(policy: AuthorizationPolicy, workload: _Placed) -> bool:
    return policy.metadata.namespace in (workload.namespace, ROOT_NAMESPACE) and selects(
        policy, workload.labels, workload.services
    )


def _unenforceable(
    policy: AuthorizationPolicy,
    selected: Sequence[_Placed],
    services: Sequence[Service],
) -> Iterator[Finding]:
    seen: set[str] = set()
    for workload in selected:
        spoken = protocols_of(
            services, namespace=workload.namespace, labels=workload.labels, ports=workload.ports
        )
        for each in find_unenforceable(policy, spoken, of=workload.name):
            if each.path not in seen:
                seen.add(each.path)
                yield Finding(
                    Severity.ERROR,
                    Check.UNENFORCEABLE,
                    policy.KIND,
                    policy.name,
                    each.path,
                    each.reason,
                    each.mend,
                )


def _peer_findings(peers: Sequence[PeerAuthentication], placed: Sequence[_Placed]) -> Iterator[Finding]:
    for each in peers:
        if each.spec.labels and not any(_level(each, workload) is not None for workload in placed):
            yield Finding(
                Severity.WARNING,
                Check.UNKNOWN_REFERENCE,
                each.KIND,
                each.name,
                "spec.selector.matchLabels",
                "selects no workload that is registered",
                "correct the labels, or remove it if its workloads are gone",
            )
    first: dict[tuple[object, ...], PeerAuthentication] = {}
    for each in sorted(peers, key=lambda each: each.name):
        place = (each.metadata.namespace, tuple(sorted(each.spec.labels.items())))
        earlier = first.setdefault(place, each)
        if earlier is not each:
            yield Finding(
                Severity.WARNING,
                Check.SHADOWED,
                each.KIND,
                each.name,
                "spec.selector" if each.spec.labels else "spec",
                f"is for the same workloads as {earlier.name}, which counts since it is the first by name",
                "remove one of them",
            )


def _level(peers: PeerAuthentication, workload: _Placed) -> int | None:
    return level_of(
        peers, namespace=workload.namespace, labels=workload.labels, root_namespace=ROOT_NAMESPACE
    )
