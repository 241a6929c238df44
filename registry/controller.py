"""The controller: one replica, elected in etcd, writes what is judged of the operators' resources.

What to write is `registry.statuses`' business; here is when. A replica stands for election with a leased key,
follows the store, and makes each write on condition that it still leads, so that one that lost its lease
without noticing changes nothing.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import structlog
import trio

from registry.ca.signed_store import SignedStore
from registry.clock import Clock, utc_now
from registry.errors import NotFound, StoreUnavailable
from registry.statuses import concerns, next_release, plan
from registry.store import keys
from registry.store.base import (
    Changed,
    Delete,
    KeyIs,
    KeyValue,
    Lease,
    Listing,
    Progress,
    Put,
    Relisted,
    Removed,
    Store,
    WatchEvent,
    Write,
)

# As long as a node's lease: after a replica's death its successor is there within this time.
LEASE_SECONDS = 10
# Edits arrive in bursts (`meshctl apply -f` of a folder); one judgement is enough for all of a burst.
BURST_SECONDS = 0.02
RETRY_SECONDS = 1.0
# The wall clock may be set while the controller waits for a time.
LONGEST_WAIT = 60.0

_LEADER = keys.render(keys.LeaderKey("controller"))

_log = structlog.get_logger()


class Controller:
    """Stands for election and, while elected, keeps the statuses true."""

    def __init__(
        self,
        *,
        store: Store,
        trust_domain: str,
        replica: str,
        signed: SignedStore | None = None,
        upkeep: Callable[[], Awaitable[None]] = trio.sleep_forever,
        clock: Clock = utc_now,
    ) -> None:
        """`upkeep` runs while this replica leads. Without `signed` no status is signed, and none believed."""
        self._clock = clock
        self._signed = signed
        self._store = store
        self._trust_domain = trust_domain
        self._replica = replica
        self._upkeep = upkeep

    async def run(self) -> None:
        """Lead or wait to lead, until cancelled.

        Raises:
            StoreForbidden: the credentials do not suffice.
        """
        while True:
            try:
                await self._stand()
            except* StoreUnavailable as group:
                _log.warning("controller waits for the store", reason=str(group.exceptions[0]))
                await trio.sleep(RETRY_SECONDS)

    async def _stand(self) -> None:
        """Wait until nobody leads, then lead if no other replica was faster; return when that has ended."""
        if (leader := await self._store.get(_LEADER)) is not None:
            await self._wait_vacant(leader.revision)
        async with self._store.hold_lease(LEASE_SECONDS) as lease:
            claim = Put(_LEADER, self._replica.encode(), lease=lease.id)
            try:
                revision = await self._store.commit([KeyIs(_LEADER, 0)], [claim])
            except NotFound:
                # The host slept for longer than the lease; there is another after this.
                return
            if revision is None:
                return
            _log.info("controller leads", replica=self._replica)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with_lease, lease, nursery.cancel_scope)
                nursery.start_soon(self._upkeep)
                leading = KeyIs(_LEADER, revision)
                await _Term(self._store, self._trust_domain, leading, self._signed, self._clock).serve()
                nursery.cancel_scope.cancel()
        _log.warning("controller leads no more", replica=self._replica)

    async def _wait_vacant(self, revision: int) -> None:
        async with aclosing(self._store.watch(_LEADER, after=revision)) as events:
            async for event in events:
                match event:
                    case Removed(key) if key == _LEADER:
                        return
                    case Relisted(listing) if all(item.key != _LEADER for item in listing.items):
                        return
                    case _:
                        pass

    @staticmethod
    async def _end_with_lease(lease: Lease, scope: trio.CancelScope) -> None:
        await lease.wait_lost()
        scope.cancel()


class _Term:
    """One time of leading: follows the store and writes what `plan` calls for, on condition of `leading`."""

    def __init__(
        self, store: Store, trust_domain: str, leading: KeyIs, signed: SignedStore | None, clock: Clock
    ) -> None:
        self._clock = clock
        self._store = store
        self._signed = signed
        self._trust_domain = trust_domain
        self._leading = leading
        self._state: dict[str, KeyValue] = {}
        # The revisions of our own writes: the next plan must not give away once more what the last one gave.
        self._written: dict[str, int] = {}
        self._changed = trio.Event()

    async def serve(self) -> None:
        """Return when another replica leads."""
        listing = await self._store.list("")
        self._relist(listing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, listing.revision)
            await self._write()
            nursery.cancel_scope.cancel()

    async def _follow(self, revision: int) -> None:
        async with aclosing(self._store.watch("", after=revision)) as events:
            async for event in events:
                self._apply(event)

    def _apply(self, event: WatchEvent) -> None:
        match event:
            case Changed(item) if concerns(item.key):
                if self._is_news(item.key, item.revision):
                    self._state[item.key] = item
            case Removed(key, revision) if concerns(key):
                if self._is_news(key, revision):
                    self._state.pop(key, None)
            case Relisted(listing):
                self._relist(listing)
            case Changed() | Removed() | Progress():
                return
        self._changed.set()

    def _is_news(self, key: str, revision: int) -> bool:
        """Whether an event is newer than what is known: of our own writes we know before the watch tells."""
        return revision >= self._written.get(key, 0)

    def _relist(self, listing: Listing) -> None:
        listed = {item.key: item for item in listing.items if concerns(item.key)}
        for key, revision in self._written.items():
            if revision > listing.revision:
                listed.pop(key, None)
                if key in self._state:
                    listed[key] = self._state[key]
        self._state = listed
        self._changed.set()

    async def _write(self) -> None:
        while True:
            with trio.move_on_after(self._until_release()):
                await self._changed.wait()
            await trio.sleep(BURST_SECONDS)
            self._changed = trio.Event()
            for write in await self._plan():
                known = self._state.get(write.key)
                condition = KeyIs(write.key, known.revision if known else 0)
                revision = await self._store.commit([self._leading, condition], [write])
                if revision is not None:
                    self._wrote(write, revision)
                    _log.info("status written", key=write.key, removed=isinstance(write, Delete))
                elif not await self._still_leads():
                    return
                # Else somebody else wrote that status: the watch brings it, and the next plan sees it.

    def _wrote(self, write: Write, revision: int) -> None:
        """Take a write of our own into the state at once."""
        self._written[write.key] = revision
        match write:
            case Put(key, value):
                known = self._state.get(key)
                self._state[key] = KeyValue(key, value, known.created if known else revision, revision)
            case Delete(key):
                self._state.pop(key, None)

    def _until_release(self) -> float:
        """Give the seconds until virtual IPs that are held back may be free."""
        now = self._clock()
        moment = next_release(self._state, trust_domain=self._trust_domain, now=now)
        if moment is None:
            return math.inf
        return min(LONGEST_WAIT, max(RETRY_SECONDS, (moment - now).total_seconds()))

    async def _plan(self) -> list[Write]:
        now = self._clock()
        if self._signed is None:
            return plan(self._state, trust_domain=self._trust_domain, now=now)
        await self._signed.refresh()
        writes = plan(self._state, trust_domain=self._trust_domain, now=now, objection=self._signed.objection)
        return [
            Put(write.key, self._signed.sign(write.key, write.value)) if isinstance(write, Put) else write
            for write in writes
        ]

    async def _still_leads(self) -> bool:
        leader = await self._store.get(_LEADER)
        return leader is not None and leader.revision == self._leading.revision
