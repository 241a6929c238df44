"""MeshState: what the store says, key by key, with the last good version of each in force.

No I/O: events in, values out. An edit that does not parse never replaces what is in force; it is a
rejection, and a policy that never parsed closes its namespace.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from node_proxy.agent.trust import Trust, acceptable, trust_of
from node_proxy.agent.vouching import Vouching
from registry.errors import InvalidResource
from registry.model.enrolment import Enrolment, TrustBundle
from registry.model.identity import InvalidIdentity
from registry.model.mesh import DefaultAuthorization, Mesh, MeshSpec, PolicySigning
from registry.model.resource import Resource
from registry.model.service import Service
from registry.model.workload import Rejection
from registry.store import keys
from registry.store.base import Changed, KeyValue, Progress, Relisted, Removed, WatchEvent
from registry.store.codec import ENFORCED_PLURALS, closed_namespaces, is_enforced, parse_at
from registry.store.signed import Signer, unsigned

R = TypeVar("R", bound=Resource)

NOBODY = Trust(roots=())


class Version(msgspec.Struct, frozen=True):
    """One value of a key as it was read; `created` is the revision at which the key was made.

    It is 0 where that is not known: caches of before did not keep it.
    """

    raw: bytes
    revision: int
    created: int = 0

    def is_value_of(self, item: KeyValue) -> bool:
        """Whether it is what stands at a key."""
        return self.raw == item.value and self.revision == item.revision


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
    signer: Signer | None = None


class MeshState:
    """The mesh as this node sees it. `revision` is that of the last event that could matter to it.

    Events that cannot (another node's status, unknown kinds) leave the revision alone: nodes write what
    they have applied into the store, and must not wake each other by it.

    Args:
        trust_domain: that of this node.
        trust: gives whom this node trusts now; a trust bundle must continue from it.
        vouching: whose word counts; None where no roots are held, so that nothing can be verified.
    """

    def __init__(
        self,
        *,
        trust_domain: str,
        trust: Callable[[], Trust] = lambda: NOBODY,
        vouching: Vouching | None = None,
    ) -> None:
        self.revision = 0
        self._trust_domain = trust_domain
        self._trust = trust
        self._vouching = vouching
        self._entries: dict[str, _Entry] = {}
        self._refused: set[str] = set()
        # What parses and is signed, and does not count all the same, each with the reason.
        self._withheld: dict[str, str] = {}
        self._by_node: dict[str, set[str]] = {}

    def apply(self, event: WatchEvent) -> bool:
        """Take one event of the watch; whether it mattered."""
        match event:
            case Changed(item):
                return self._change(item)
            case Removed(key, revision):
                if not self._forget(key):
                    return False
                self.revision = max(self.revision, revision)
                return True
            case Relisted(listing):
                present = {item.key for item in listing.items}
                for key in self._entries.keys() - present:
                    self._forget(key)
                for item in sorted(listing.items, key=_weight):
                    self._change(item)
                self.revision = listing.revision
                return True
            case Progress():
                return False

    def restore(self, revision: int, records: Iterable[Record]) -> None:
        """Begin with what the cache kept; what was good then is, though its signer's certificate expired."""
        for record in sorted(records, key=_weight):
            for version, fresh in ((record.good, False), (record.bad, True)):
                if version is not None:
                    item = KeyValue(record.key, version.raw, version.created, version.revision)
                    self._change(item, fresh=fresh)
        self.revision = revision

    @property
    def verifies(self) -> bool:
        """Whether signatures are verified here."""
        return self._vouching is not None

    def examine(self, items: Iterable[KeyValue]) -> None:
        """Verify the signatures of what is to come: may take seconds, and may be done on another thread."""
        if self._vouching is not None:
            self._vouching.signatures.examine(items)

    def records(self) -> tuple[Record, ...]:
        """Give what the cache should keep."""
        return tuple(Record(key, entry.good, entry.bad) for key, entry in self._entries.items())

    def of(self, kind: type[R]) -> Iterator[tuple[str, R]]:
        """Give every resource of `kind` in force, with its key."""
        for key, entry in self._entries.items():
            if isinstance(entry.resource, kind) and key not in self._withheld:
                yield key, entry.resource

    def get(self, key: str, kind: type[R]) -> R | None:
        """Give the resource in force at `key`."""
        entry = None if key in self._withheld else self._entries.get(key)
        return entry.resource if entry is not None and isinstance(entry.resource, kind) else None

    def good_revision(self, key: str) -> int | None:
        """Give the revision of what is in force at `key`."""
        entry = self._entries.get(key)
        return entry.good.revision if entry is not None and entry.good is not None else None

    def created(self, key: str) -> int:
        """Give the revision at which what is in force at `key` was made; 0 if that is not known."""
        entry = self._entries.get(key)
        return entry.good.created if entry is not None and entry.good is not None else 0

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
        """Give every key whose newest value is refused, or whose writer's word does not count."""
        found = {
            key: Rejection(
                key=key,
                reason=entry.reason,
                last_good_revision=entry.good.revision if entry.good else None,
            )
            for key, entry in self._refusals()
        }
        found |= {key: Rejection(key=key, reason=f"{key}: {why}") for key, why in self._withheld.items()}
        return tuple(found[key] for key in sorted(found))

    def closed_namespaces(self) -> dict[str, str]:
        """Give the namespaces that admit nobody, each with the key to blame."""
        return closed_namespaces(key for key, entry in self._refusals() if entry.good is None)

    def _refusals(self) -> list[tuple[str, _Entry]]:
        return [(key, self._entries[key]) for key in sorted(self._refused)]

    def _forget(self, key: str) -> bool:
        entry = self._entries.get(key)
        if entry is None:
            return False
        if self._vouching is not None and (reason := _why_kept(entry.resource)):
            self._entries[key] = replace(entry, bad=None, reason=f"{key}: {reason}")
            self._refused.add(key)
            return True
        del self._entries[key]
        self._refused.discard(key)
        if self._vouching is not None:
            self._vouching.signatures.forget(key)
        self._settle(key)
        return True

    def _change(self, item: KeyValue, *, fresh: bool = True) -> bool:
        entry = self._entries.get(item.key, _Entry())
        version = Version(item.value, item.revision, item.created)
        if (known := entry.bad or entry.good) is not None and known.is_value_of(item):
            if known.created == item.created:
                return False
            self._entries[item.key] = _dated(entry, item.created)
            return True
        try:
            resource, signer = self._read(item, fresh=fresh)
        except InvalidResource as error:
            kept = self._vouching is not None and _why_kept(entry.resource)
            if entry.good is not None and item.created > entry.good.revision and not kept:
                # It was deleted in between, so nothing older is in force any more.
                entry = _Entry()
            self._entries[item.key] = replace(entry, bad=version, reason=error.describe())
            self._refused.add(item.key)
        else:
            if resource is None:
                return False
            self._entries[item.key] = _Entry(resource=unsigned(resource), good=version, signer=signer)
            self._refused.discard(item.key)
        self._settle(item.key)
        self.revision = max(self.revision, item.revision)
        return True

    def _settle(self, key: str) -> None:
        """Judge anew whose word counts, after what stands at `key` has changed."""
        if self._vouching is None:
            return
        match keys.parse(key):
            case keys.NodeRecordKey(node) | keys.WorkloadKey(node=node):
                self._by_node.setdefault(node, set()).add(key)
                self._weigh(key, node)
            case keys.EnrolmentKey(node):
                self._weigh(key, None)
                for each in sorted(self._by_node.get(node, ())):
                    self._weigh(each, node)
            case keys.BundleKey():
                if (bundle := self.get(key, TrustBundle)) is not None:
                    self._vouching.trust(bundle)
                    self._weigh_all()
            case _:
                pass

    def _weigh_all(self) -> None:
        # Enrolments first: whose word counts depends on them. What operators wrote stays as it was found.
        for key, entry in self._entries.items():
            if isinstance(entry.resource, Enrolment):
                self._weigh(key, None)
        for node, theirs in self._by_node.items():
            for key in sorted(theirs):
                self._weigh(key, node)

    def _weigh(self, key: str, node: str | None) -> None:
        """Withhold what stands at `key`, or no longer."""
        entry = self._entries.get(key)
        if entry is None and node is not None:
            self._by_node[node].discard(key)
        self._withheld.pop(key, None)
        if self._vouching is None or entry is None or entry.resource is None or entry.good is None:
            return
        enrolment = None
        if node is not None:
            enrolment = self.get(keys.render(keys.EnrolmentKey(node)), Enrolment)
        why = self._vouching.objection(key, entry.good.raw, entry.resource, node=node, enrolment=enrolment)
        if why:
            self._withheld[key] = why

    def _held(self) -> Trust:
        """Give whom this node trusts, by what is in force here if that is newer: events come in numbers."""
        held, bundle = self._trust(), self.get(keys.render(keys.BundleKey()), TrustBundle)
        newer = bundle is not None and bundle.spec.generation > held.generation
        return trust_of(bundle.spec) if bundle is not None and newer else held

    def _read(self, item: KeyValue, *, fresh: bool) -> tuple[Resource | None, Signer | None]:
        """Parse a value by what its key says it is; None when the key is not our business.

        Raises:
            InvalidResource: the value is not what belongs there.
        """
        key = keys.parse(item.key)
        if key is None:
            _refuse_misplaced(item.key)
        if key is None or not is_enforced(key):
            return None, None
        resource = parse_at(item.key, item.value)
        signer = None
        if self._vouching is not None:
            needed = PolicySigning.REQUIRED in (self.mesh().policy_signing, _signing_asked(resource))
            signer = self._vouching.check(item, fresh=fresh, operators_sign=needed)
        match resource:
            case Mesh() if resource.spec.trust_domain != self._trust_domain:
                raise InvalidResource(
                    where=item.key,
                    path="spec.trustDomain",
                    reason=f"is {resource.spec.trust_domain!r}, this node has joined {self._trust_domain!r}",
                    mend="write that back, or let the nodes join again",
                )
            case TrustBundle():
                acceptable(resource, self._held(), trust_domain=self._trust_domain)
            case Service():
                try:
                    resource.identities(self._trust_domain)
                except InvalidIdentity as error:
                    raise InvalidResource(
                        where=item.key, path="spec.identities", reason=str(error)
                    ) from error
            case _:
                pass
        return resource, signer


def _dated(entry: _Entry, created: int) -> _Entry:
    """Note when a key was made of which a cache of before kept only what it held."""
    good, bad = (each and msgspec.structs.replace(each, created=created) for each in (entry.good, entry.bad))
    return replace(entry, good=good, bad=bad)


def _refuse_misplaced(key: str) -> None:
    """Complain of a key in a folder of ours that can hold nothing, such as one without a namespace."""
    folder = key.partition("/")[0]
    if folder in ENFORCED_PLURALS:
        mend = f"write to {folder}/<namespace>/<name>"
        raise InvalidResource(where=key, path="", reason="is no place for a resource", mend=mend)


def _weight(item: KeyValue | Record) -> int:
    """Order what is read at once: first what decides how the rest is read."""
    match keys.parse(item.key):
        case keys.BundleKey():
            return 0
        case keys.MeshKey():
            return 1
        case keys.EnrolmentKey():
            return 2
        case _:
            return 3


def _signing_asked(resource: Resource) -> PolicySigning:
    """Say what a mesh's settings ask for: the edit that asks for signatures must carry one itself."""
    return resource.spec.policy_signing if isinstance(resource, Mesh) else PolicySigning.OFF


def _why_kept(resource: Resource | None) -> str:
    """Say why a resource stays in force although its key was deleted, which nobody can sign."""
    match resource:
        case TrustBundle():
            return "was deleted; whom it trusts and what it revokes stays in force"
        case Mesh() if resource.spec.policy_signing is PolicySigning.REQUIRED:
            return "was deleted, and policySigning is required; write other settings with meshctl instead"
        case _:
            return ""
