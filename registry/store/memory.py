"""etcd's honest twin, in memory and on trio alone: for tests and tools, under a virtual clock too.

It keeps etcd's rules (one contract suite runs over both): revisions count from 1 and only grow with an
effective write, all writes of a transaction share one, history is kept until compacted. Its faults are
methods: `compact`, `expire`, `outage`.
"""

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio

from registry.errors import Conflict, NotFound, StoreError, StoreUnavailable
from registry.store.base import (
    Changed,
    Delete,
    KeyIs,
    KeyValue,
    Listing,
    Progress,
    Put,
    Relisted,
    Removed,
    WatchEvent,
    Write,
)
from registry.store.lease import HeldLease
from registry.store.resume import revision_of

# etcd's own limit (--max-txn-ops).
_MAX_WRITES = 128


@dataclass(slots=True)
class _Lease:
    """A lease: when it ends (never, while held) and who is told."""

    expires: float
    held: HeldLease | None = None
    keys: set[str] = field(default_factory=set)


class MemoryStore:
    """`registry.store.base.Store` in memory. Give the same object to everyone who is to share it."""

    def __init__(self) -> None:
        self._items: dict[str, KeyValue] = {}
        self._revision = 1
        self._leases: dict[int, _Lease] = {}
        self._last_lease = 0
        # Everything up to `_compacted` is in `_base`, everything after it in `_history`, oldest first.
        self._base: dict[str, KeyValue] = {}
        self._compacted = 0
        self._history: list[Changed | Removed] = []
        self._lot = trio.lowlevel.ParkingLot()
        self._out = False

    # -- faults -----------------------------------------------------------------------------------

    def compact(self, revision: int) -> None:
        """Forget the history up to `revision`, as etcd does from time to time.

        Raises:
            Conflict: `revision` is compacted already, or in the future.
        """
        if not self._compacted < revision <= self._revision:
            raise Conflict(f"cannot compact to {revision}: at {self._revision}, compacted {self._compacted}")
        _apply(self._base, (event for event in self._history if revision_of(event) <= revision))
        self._history = [event for event in self._history if revision_of(event) > revision]
        self._compacted = revision
        self._lot.unpark_all()

    def expire(self, lease: int) -> None:
        """Let a lease run out, held or not: its keys vanish in one revision."""
        ended = self._leases.pop(lease)
        if ended.held is not None:
            ended.held.mark_lost()
        self._write([Delete(key) for key in sorted(ended.keys)])

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be unreachable for the length of the block: calls fail, watches wait, held leases last."""
        self._out = True
        try:
            yield
        finally:
            self._out = False
            self._lot.unpark_all()

    # -- the store --------------------------------------------------------------------------------

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        await self._enter()
        return self._items.get(key)

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        """Read every key that begins with `prefix`, as of `revision` (0: now), at one revision.

        Raises:
            Conflict: `revision` is compacted or in the future.
        """
        await self._enter()
        if not revision:
            return _listing(self._items, prefix, self._revision)
        if not self._compacted <= revision <= self._revision:
            raise Conflict(f"revision {revision} is compacted or in the future")
        items = dict(self._base)
        _apply(items, (event for event in self._history if revision_of(event) <= revision))
        return _listing(items, prefix, revision)

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key; gives the revision.

        Raises:
            NotFound: there is no such lease.
        """
        await self._enter()
        return self._write([Put(key, value, lease)])

    async def delete(self, key: str) -> bool:
        """Remove one key; whether it was there."""
        await self._enter()
        there = key in self._items
        self._write([Delete(key)])
        return there

    async def commit(self, conditions: Sequence[KeyIs], writes: Sequence[Write]) -> int | None:
        """Do all `writes` if all `conditions` hold, atomically; gives the revision, or None if not.

        Raises:
            NotFound: there is no such lease.
            StoreError: one key is written twice, or there are more writes than etcd allows.
        """
        await self._enter()
        if max(len(conditions), len(writes)) > _MAX_WRITES:
            raise StoreError(f"more than {_MAX_WRITES} conditions or writes in one commit")
        put = [write.key for write in writes if isinstance(write, Put)]
        if any([write.key for write in writes].count(key) > 1 for key in put):
            raise StoreError("a key is written twice in one commit")
        for condition in conditions:
            item = self._items.get(condition.key)
            if (item.revision if item else 0) != condition.revision:
                return None
        return self._write(writes)

    @asynccontextmanager
    async def hold_lease(self, ttl: int) -> AsyncIterator[HeldLease]:
        """Grant a lease that lasts while the context is open; revoke it on exit."""
        id_ = await self.grant_lease(ttl)
        held = HeldLease(id_)
        self._leases[id_].held = held
        self._leases[id_].expires = math.inf
        try:
            yield held
        finally:
            revoked = self._leases.pop(id_, None)
            if revoked is not None:
                self._write([Delete(key) for key in sorted(revoked.keys)])

    async def grant_lease(self, ttl: int) -> int:
        """Grant a lease that nobody keeps alive: its keys vanish after `ttl` seconds."""
        await self._enter()
        self._last_lease += 1
        self._leases[self._last_lease] = _Lease(expires=trio.current_time() + ttl)
        # A watch that waits must now wait no longer than this.
        self._lot.unpark_all()
        return self._last_lease

    async def watch(self, *prefixes: str, after: int) -> AsyncGenerator[WatchEvent, None]:
        """Give every change under `prefixes` after the revision `after`, in order, once each, for ever."""
        await trio.lowlevel.checkpoint()
        greeted = False
        while True:
            self._expire_due()
            if self._out:
                await self._lot.park()
            elif max(after, 1) < self._compacted or after > self._revision:
                listing = _listing(self._items, prefixes, self._revision)
                after, greeted = listing.revision, False
                yield Relisted(listing)
            elif not greeted:
                greeted = True
                yield Progress(after)
            elif events := self._next_events(prefixes, after):
                after = revision_of(events[-1])
                for event in events:
                    yield event
                yield Progress(after)
            else:
                after = self._revision
                with trio.move_on_at(
                    min((lease.expires for lease in self._leases.values()), default=math.inf)
                ):
                    await self._lot.park()

    # -- inside -----------------------------------------------------------------------------------

    async def _enter(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._out:
            raise StoreUnavailable("the store is out of reach")
        self._expire_due()

    def _expire_due(self) -> None:
        now = trio.current_time()
        for lease in [id_ for id_, lease in self._leases.items() if lease.expires <= now]:
            self.expire(lease)

    def _next_events(self, prefixes: tuple[str, ...], after: int) -> Sequence[Changed | Removed]:
        """Give the events of the next revision that has any for `prefixes`."""
        found: list[Changed | Removed] = []
        for event in self._history:
            if revision_of(event) <= after or not _key_of(event).startswith(prefixes):
                continue
            if found and revision_of(event) > revision_of(found[0]):
                break
            found.append(event)
        return found

    def _write(self, writes: Sequence[Write]) -> int:
        """Do the writes in one revision; a revision without effect is not spent."""
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise NotFound(f"there is no lease {write.lease}")
        revision = self._revision + 1
        events: list[Changed | Removed] = []
        for write in writes:
            before = self._items.get(write.key)
            if before is not None and before.lease in self._leases:
                self._leases[before.lease].keys.discard(write.key)
            match write:
                case Put(key, value, lease):
                    created = before.created if before else revision
                    events.append(Changed(KeyValue(key, value, created, revision, lease)))
                    if lease:
                        self._leases[lease].keys.add(key)
                case Delete(key):
                    if before is not None:
                        events.append(Removed(key, revision))
        if events:
            _apply(self._items, events)
            self._history += events
            self._revision = revision
            self._lot.unpark_all()
        return self._revision


def _key_of(event: Changed | Removed) -> str:
    return event.item.key if isinstance(event, Changed) else event.key


def _apply(
    items: dict[str, KeyValue], events: Iterator[Changed | Removed] | Sequence[Changed | Removed]
) -> None:
    for event in events:
        if isinstance(event, Changed):
            items[event.item.key] = event.item
        else:
            items.pop(event.key, None)


def _listing(items: dict[str, KeyValue], prefix: str | tuple[str, ...], revision: int) -> Listing:
    found = (items[key] for key in sorted(items) if key.startswith(prefix))
    return Listing(tuple(found), revision)
