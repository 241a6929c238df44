"""Judges what operators wrote, beyond what a value can say about itself.

Pure. `registry.model.parse` knows whether a value is a resource; here is whether it stands where it belongs
and agrees with the mesh. The API asks before it writes, the controller after somebody wrote with etcdctl.
"""

from registry.errors import InvalidResource
from registry.model.identity import LABEL, InvalidIdentity
from registry.model.mesh import Mesh
from registry.model.parse import OPERATOR_KINDS, parse
from registry.model.resource import ROOT_NAMESPACE, Resource
from registry.model.service import Service
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
