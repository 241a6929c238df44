"""Judges what operators wrote, beyond what a value can say about itself.

Pure. `registry.model.parse` knows whether a value is a resource; here is whether it stands where it belongs
and agrees with the mesh. The API asks before it writes, the controller after somebody wrote with etcdctl.
"""

from collections.abc import Iterable, Iterator

from registry.errors import InvalidResource
from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import LABEL, InvalidIdentity
from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS, parse
from registry.model.resource import ROOT_NAMESPACE, Resource
from registry.model.service import Service
from registry.rules.layer7 import find_unenforceable
from registry.store import keys

KINDS_BY_PLURAL: dict[str, type[Resource]] = {kind.PLURAL: kind for kind in OPERATOR_KINDS}

OperatorKey = keys.ResourceKey | keys.MeshKey


def operator_key(text: str) -> OperatorKey | None:
    """Read a key that operators write; None for every other."""
    match keys.parse(text):
        case keys.MeshKey() as key:
            return key
        case keys.ResourceKey(plural, namespace, name) as key if (
            plural in KINDS_BY_PLURAL and LABEL.match(namespace) and LABEL.match(name)
        ):
            return key
        case _:
            return None


def status_key(key: OperatorKey) -> keys.StatusKey:
    """Give the key under which the controller writes of an operator's resource."""
    match key:
        case keys.MeshKey():
            return keys.StatusKey(Mesh.PLURAL, ROOT_NAMESPACE, Mesh.PLURAL)
        case keys.ResourceKey(plural, namespace, name):
            return keys.StatusKey(plural, namespace, name)


def read_resource(key: OperatorKey, value: bytes, *, where: str) -> Resource:
    """Read an operator's resource that is, or shall be, stored at `key`.

    Raises:
        InvalidResource: it does not parse, or belongs to another key.
    """
    resource = parse(value, where=where, kinds=OPERATOR_KINDS)
    belongs = keys.key_of(resource)
    if belongs != key:
        raise InvalidResource(
            where=where,
            path="metadata",
            reason=f"is that of {keys.render(belongs)}, which cannot be at {keys.render(key)}",
            mend="let kind, metadata.namespace and metadata.name agree with the place",
        )
    return resource


def check(resource: Resource, *, trust_domain: str, where: str) -> None:
    """Check a resource against the mesh it is to be part of.

    Raises:
        InvalidResource: it speaks of another trust domain than the certificate authority's.
    """
    match resource:
        case Mesh() if resource.spec.trust_domain != trust_domain:
            raise InvalidResource(
                where=where,
                path="spec.trustDomain",
                reason=f"{resource.spec.trust_domain!r} is not the trust domain of the mesh's root",
                mend=f"write {trust_domain}: it is decided by `nodemesh-registry init`, once",
            )
        case Service():
            try:
                resource.identities(trust_domain)
            except InvalidIdentity as error:
                raise InvalidResource(where=where, path="spec.identities", reason=str(error)) from error
        case _:
            pass


def unenforceable(policy: AuthorizationPolicy, services: Iterable[Service]) -> Iterator[str]:
    """Say which rules have conditions on HTTP and surely concern a port whose HTTP no proxy reads.

    Whether a selector meets a service's workloads by labels that the service does not name is known to the
    nodes alone, and they report it themselves.
    """
    for service in services:
        if _surely_selects(policy, service):
            ports = {port.target: port.protocol for port in service.spec.ports}
            for each in find_unenforceable(policy, ports, of=f"the service {service.name}"):
                yield each.describe()


def _surely_selects(policy: AuthorizationPolicy, service: Service) -> bool:
    if policy.spec.target_refs:
        return service.name in policy.targets
    if policy.metadata.namespace not in (service.metadata.namespace, ROOT_NAMESPACE):
        return False
    selector = policy.spec.selector
    return selector is None or selector.match_labels.items() <= service.spec.selector.items()
