"""What a store is: the seam that etcd and its in-memory twin both fill.

Keys are texts below the store's prefix (see `registry.store.keys`); values are bytes.
Revisions are etcd's: one counter for the whole store, raised by every write.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from registry.errors import Conflict


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it stands: `created` and `revision` are the revisions of its first and last write."""

    key: str
    value: bytes
    created: int
    revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key under a prefix at one `revision`, ordered by key."""

    items: tuple[KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """A write; `lease` 0 means none. As an event `revision` is set, as a request it is ignored."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """A removal; removing what is not there is no error."""

    key: str


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class KeyIs:
    """A transaction's condition: the key's last revision is `revision`; 0 means it does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A key was written."""

    item: KeyValue


@dataclass(frozen=True, slots=True)
class Removed:
    """A key was deleted, by hand or with its lease."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Relisted:
    """The history asked for is compacted away: here is all that stands there now, forget the rest."""

    listing: Listing


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing older than `revision` will come: every event up to it has been given.

    Follows each batch of events, and is the first word after a watch has connected, or connected again.
    """

    revision: int


WatchEvent = Changed | Removed | Relisted | Progress


class Lease(Protocol):
    """A lease that is kept alive for as long as its context is open, and revoked when it ends."""

    @property
    def id(self) -> int:
        """The lease's number, to give to `Put`."""

    @property
    def lost(self) -> bool:
        """Whether the store let it expire, so that its keys are gone."""

    async def wait_lost(self) -> None:
        """Return when the lease has expired; cancelling leaves nothing behind."""


class Store(Protocol):
    """etcd as nodemesh uses it. Every method may be cancelled; a cancelled write may have happened.

    Raises (all methods):
        StoreUnavailable: no answer, or no leader, within the store's timeout.
        StoreForbidden: the credentials are refused.
    """

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""

    async def list(self, prefix: str, *, revision: int = 0) -> Listing:
        """Read every key that begins with `prefix`, as of `revision` (0: now), at one revision.

        Raises:
            Conflict: `revision` is compacted or in the future.
        """

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key; gives the revision.

        Raises:
            NotFound: there is no such lease.
        """

    async def delete(self, key: str) -> bool:
        """Remove one key; whether it was there."""

    async def commit(self, conditions: Sequence[KeyIs], writes: Sequence[Write]) -> int | None:
        """Do all `writes` if all `conditions` hold, atomically; gives the revision, else None.

        Raises:
            StoreUnavailable: as always, and the text says so if the commit may have happened all the same.
            NotFound: there is no such lease.
            StoreError: one key is written twice, or there are more than 128 conditions or writes.
        """

    def hold_lease(self, ttl: int) -> AbstractAsyncContextManager[Lease]:
        """Grant a lease of `ttl` seconds and keep it alive while the context is open; revoke it on exit.

        An outage shorter than the TTL is survived; a longer one ends in `Lease.lost`.
        """

    async def grant_lease(self, ttl: int) -> int:
        """Grant a lease that nobody keeps alive: its keys vanish after `ttl` seconds."""

    def watch(self, *prefixes: str, after: int) -> AsyncGenerator[WatchEvent, None]:
        """Give every change under `prefixes` after the revision `after`, in order, once each, for ever.

        With several prefixes, which must not overlap, the order holds among the events of each; while the
        watch is up to date, among all. So one who may read only some folders watches just these.

        Survives restarts, lost connections and compaction by itself (`Relisted`, of all prefixes). Ends only
        by cancellation or error; cancelling leaves no thread and no call behind. Close it with `aclosing`.

        Raises:
            StoreForbidden: the credentials may not read one of the prefixes.
        """


async def list_all(store: Store, prefixes: Sequence[str]) -> Listing:
    """Read every key under any of `prefixes`, all as of one revision.

    Raises:
        StoreError: as `Store.list`.
    """
    while True:
        first = await store.list(prefixes[0])
        try:
            rest = [await store.list(prefix, revision=first.revision) for prefix in prefixes[1:]]
        except Conflict:
            # Compacted between two calls.
            continue
        items = [*first.items, *(item for listing in rest for item in listing.items)]
        return Listing(tuple(sorted(items, key=lambda item: item.key)), first.revision)
