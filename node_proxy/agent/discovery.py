"""Follows the store: feeds every event to MeshState, and knows since when there was no answer.

Reads only the folders that matter to a node; etcd's roles let it read no others.
"""

from collections.abc import Callable
from contextlib import aclosing

import structlog
import trio

from node_proxy.agent.state import MeshState
from registry.errors import StoreError
from registry.store.base import Relisted, Store, WatchEvent, list_all
from registry.store.codec import ENFORCED_PREFIXES

# While the store is away the watch tries by itself; this is between attempts to list.
RETRY = 1.0
# How often the store is asked whether it is there, in seconds.
PROBE = 2.0

log = structlog.get_logger("node_proxy.agent.discovery")


def _overlook(_event: WatchEvent) -> None:
    """Stand for nobody else who listens."""


class Discovery:
    """Keeps a MeshState up to date.

    Args:
        store: where the mesh's state is.
        state: what is kept up to date; it stays as it is while the store is away.
        changed: called after every event that mattered.
        observe: hears every event, also those that do not matter to the state.
    """

    def __init__(
        self,
        store: Store,
        state: MeshState,
        changed: Callable[[], None],
        observe: Callable[[WatchEvent], None] = _overlook,
    ) -> None:
        self._store = store
        self._state = state
        self._changed = changed
        self._observe = observe
        self._answered = 0.0
        self._stale_since: float | None = None
        self._complained = False
        self._listed = trio.Event()

    @property
    def stale_since(self) -> float | None:
        """The moment (trio clock) of the last answer before the store went away; None while it answers."""
        return self._stale_since

    async def wait_listed(self) -> None:
        """Return when the whole state has been read from the store once."""
        await self._listed.wait()

    async def follow(self) -> None:
        """Follow for ever; cancellation leaves the state as it is."""
        self._answered = self._stale_since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe)
            while True:
                try:
                    await self._list_and_watch()
                except StoreError as error:
                    self._absent(error)
                await trio.sleep(RETRY)

    async def _list_and_watch(self) -> None:
        listing = await list_all(self._store, ENFORCED_PREFIXES)
        self._present()
        await self._take(Relisted(listing))
        self._listed.set()
        async with aclosing(self._store.watch(*ENFORCED_PREFIXES, after=listing.revision)) as events:
            async for event in events:
                await self._take(event)

    async def _take(self, event: WatchEvent) -> None:
        if isinstance(event, Relisted) and self._state.verifies:
            # Of a large mesh that is more than a second's work, in which the lease must be kept alive.
            await trio.to_thread.run_sync(self._state.examine, event.listing.items)
        before = self._state.rejections()
        mattered = self._state.apply(event)
        # After the state, which says whose signatures count.
        self._observe(event)
        if not mattered:
            return
        for rejection in self._state.rejections():
            if rejection not in before:
                log.error(
                    "resource rejected",
                    key=rejection.key,
                    reason=rejection.reason,
                    last_good_revision=rejection.last_good_revision,
                )
        self._changed()

    async def _probe(self) -> None:
        while True:
            try:
                await self._store.get("mesh")
            except StoreError as error:
                self._absent(error)
            else:
                self._present()
            await trio.sleep(PROBE)

    def _present(self) -> None:
        if self._stale_since is not None and self._complained:
            log.info("store answers again", seconds_away=round(trio.current_time() - self._stale_since, 1))
        self._answered = trio.current_time()
        self._stale_since = None
        self._complained = False

    def _absent(self, error: StoreError) -> None:
        if not self._complained:
            log.warning("store does not answer; the last known state stays in force", error=str(error))
        self._complained = True
        if self._stale_since is None:
            self._stale_since = self._answered
