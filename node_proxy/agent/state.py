"""MeshState: what the store says, key by key, with the last good version of each in force.

No I/O: events in, values out. An edit that does not parse never replaces what is in force; it is a
rejection, and a policy that never parsed closes its namespace.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeGuard, TypeVar

import msgspec

from registry.errors import InvalidResource
from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import InvalidIdentity
from registry.model.mesh import DefaultAuthorization, Mesh, MeshSpec
from registry.model.resource import ROOT_NAMESPACE, Resource
from registry.model.service import Service
from registry.model.workload import Rejection
from registry.store import keys
from registry.store.base import Changed, KeyValue, Progress, Relisted, Removed, WatchEvent
from registry.store.codec import ENFORCED_PLURALS, is_enforced, parse_at

# Stands for every namespace in `MeshState.closed_namespaces`.
ALL_NAMESPACES = "*"

R = TypeVar("R", bound=Resource)


class Version(msgspec.Struct, frozen=True):
    """One value of a key as it was read."""

    raw: bytes
    revision: int


class Record(msgspec.Struct, frozen=True):
    """A key as the cache keeps it: the version in force and the later one that was refused, if any."""

    key: str
    good: Version | None
    bad: Version | None


@dataclass(frozen=True, slots=True)
class _Entry:
    resource: Resource | None = None
    good: Version | None = None
    bad: Version | None = None
    reason: str = ""


class MeshState:
    """The mesh as this node sees it. `revision` is that of the last event that could matter to it.

    Events that cannot (another node's status, unknown kinds) leave the revision alone: nodes write what
    they have applied into the store, and must not wake each other by it.
    """

    def __init__(self, *, trust_domain: str) -> None:
        self.revision = 0
        self._trust_domain = trust_domain
        self._entries: dict[str, _Entry] = {}
        self._refused: set[str] = set()

    def apply(self, event: WatchEvent) -> bool:
        """Take one event of the watch; whether it mattered."""
        match event:
            case Changed(item):
                return self._change(item)
            case Removed(key, revision):
                if not self._forget(key):
                    return False
                self.revision = revision
                return True
            case Relisted(listing):
                present = {item.key for item in listing.items}
                for key in self._entries.keys() - present:
                    self._forget(key)
                for item in listing.items:
                    self._change(item)
                self.revision = listing.revision
                return True
            case Progress():
                return False

    def restore(self, revision: int, records: Iterable[Record]) -> None:
        """Begin with what the cache kept."""
        for record in records:
            for version in (record.good, record.bad):
                if version is not None:
                    self._change(KeyValue(record.key, version.raw, 0, version.revision))
        self.revision = revision

    def records(self) -> tuple[Record, ...]:
        """Give what the cache should keep."""
        return tuple(Record(key, entry.good, entry.bad) for key, entry in self._entries.items())

    def of(self, kind: type[R]) -> Iterator[tuple[str, R]]:
        """Give every resource of `kind` in force, with its key."""
        for key, entry in self._entries.items():
            if isinstance(entry.resource, kind):
                yield key, entry.resource

    def get(self, key: str, kind: type[R]) -> R | None:
        """Give the resource in force at `key`."""
        entry = self._entries.get(key)
        return entry.resource if entry is not None and isinstance(entry.resource, kind) else None

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def mesh(self) -> MeshSpec:
        """Give the mesh's settings; if what was written never parsed, the ones that open no door."""
        entry = self._entries.get(keys.render(keys.MeshKey()))
        if entry is None:
            return MeshSpec()
        if isinstance(entry.resource, Mesh):
            return entry.resource.spec
        return MeshSpec(trust_domain=self._trust_domain, default_authorization=DefaultAuthorization.DENY)

    def rejections(self) -> tuple[Rejection, ...]:
        """Give every key whose newest value is refused."""
        return tuple(
            Rejection(
                key=key,
                reason=entry.reason,
                last_good_revision=entry.good.revision if entry.good else None,
            )
            for key, entry in self._refusals()
        )

    def closed_namespaces(self) -> dict[str, str]:
        """Give the namespaces that admit nobody, each with the key to blame."""
        closed: dict[str, str] = {}
        for key, entry in self._refusals():
            parsed = keys.parse(key)
            if entry.good is None and _is_policy(parsed):
                everywhere = parsed.namespace == ROOT_NAMESPACE
                closed.setdefault(ALL_NAMESPACES if everywhere else parsed.namespace, key)
        return closed

    def _refusals(self) -> list[tuple[str, _Entry]]:
        return [(key, self._entries[key]) for key in sorted(self._refused)]

    def _forget(self, key: str) -> bool:
        self._refused.discard(key)
        return self._entries.pop(key, None) is not None

    def _change(self, item: KeyValue) -> bool:
        entry = self._entries.get(item.key, _Entry())
        version = Version(item.value, item.revision)
        if version == (entry.bad or entry.good):
            return False
        try:
            resource = self._read(item)
        except InvalidResource as error:
            if entry.good is not None and item.created > entry.good.revision:
                # It was deleted in between, so nothing older is in force any more.
                entry = _Entry()
            self._entries[item.key] = replace(entry, bad=version, reason=error.describe())
            self._refused.add(item.key)
        else:
            if resource is None:
                return False
            self._entries[item.key] = _Entry(resource=resource, good=version)
            self._refused.discard(item.key)
        self.revision = max(self.revision, item.revision)
        return True

    def _read(self, item: KeyValue) -> Resource | None:
        """Parse a value by what its key says it is; None when the key is not our business.

        Raises:
            InvalidResource: the value is not what belongs there.
        """
        key = keys.parse(item.key)
        if key is None:
            _refuse_misplaced(item.key)
        if key is None or not is_enforced(key):
            return None
        resource = parse_at(item.key, item.value)
        match resource:
            case Mesh() if resource.spec.trust_domain != self._trust_domain:
                raise InvalidResource(
                    where=item.key,
                    path="spec.trustDomain",
                    reason=f"is {resource.spec.trust_domain!r}, this node has joined {self._trust_domain!r}",
                    mend="write that back, or let the nodes join again",
                )
            case Service():
                try:
                    resource.identities(self._trust_domain)
                except InvalidIdentity as error:
                    raise InvalidResource(
                        where=item.key, path="spec.identities", reason=str(error)
                    ) from error
            case _:
                pass
        return resource


def _refuse_misplaced(key: str) -> None:
    """Complain of a key in a folder of ours that can hold nothing, such as one without a namespace."""
    folder = key.partition("/")[0]
    if folder in ENFORCED_PLURALS:
        mend = f"write to {folder}/<namespace>/<name>"
        raise InvalidResource(where=key, path="", reason="is no place for a resource", mend=mend)


def _is_policy(key: keys.Key | None) -> TypeGuard[keys.ResourceKey]:
    return isinstance(key, keys.ResourceKey) and key.plural == AuthorizationPolicy.PLURAL
