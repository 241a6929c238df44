"""A lease that is held, and how it is kept alive, whatever the store."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from registry.errors import RegistryError, StoreError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

# A renewal every third of the TTL leaves room for one that fails and one that is slow (etcd's clients do so).
RENEWALS_PER_TTL = 3
LATE = "not renewed in time"


class HeldLease:
    """The `Lease` that `Store.hold_lease` gives."""

    def __init__(self, id_: int) -> None:
        self._id = id_
        self._lost = trio.Event()

    @property
    def id(self) -> int:
        """The lease's number, to give to `Put`."""
        return self._id

    @property
    def lost(self) -> bool:
        """Whether the store let it expire, so that its keys are gone."""
        return self._lost.is_set()

    async def wait_lost(self) -> None:
        """Return when the lease has expired; cancelling leaves nothing behind."""
        await self._lost.wait()

    def mark_lost(self) -> None:
        """Say that the lease is gone."""
        self._lost.set()


async def keep_alive(
    lease: HeldLease, *, granted: float, ttl: int, renew: Callable[[], Awaitable[int]]
) -> None:
    """Renew `lease` until it is lost: the store no longer knows it, or its TTL went by without an answer.

    Args:
        lease: what to mark as lost.
        granted: trio's time at which the lease was asked for.
        ttl: seconds the store promised.
        renew: asks once; gives the seconds promised from when it was asked, 0 for an unknown lease.
    """
    expires = granted + ttl
    pause = ttl / RENEWALS_PER_TTL
    reason = LATE
    while True:
        await trio.sleep_until(min(expires, trio.current_time() + pause))
        asked = trio.current_time()
        if asked >= expires:
            break
        with trio.move_on_at(expires):
            try:
                promised = await renew()
            except StoreError as error:
                reason, pause = str(error), min(0.5, ttl / 10)
            else:
                if promised <= 0:
                    reason = "the store does not know it"
                    break
                expires, pause, reason = asked + promised, promised / RENEWALS_PER_TTL, LATE
    log.warning("lease lost", lease=lease.id, reason=reason)
    lease.mark_lost()


@asynccontextmanager
async def in_background(task: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `task` beside the block and cancel it at its end; what the block raises comes out as it is."""
    alone: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            yield
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        alone = group.exceptions[0]
    # The nursery wraps what the block raised; callers catch the errors that the store documents.
    if alone is not None:
        raise alone


async def revoke_quietly(lease: HeldLease, *, seconds: float, revoke: Callable[[], Awaitable[None]]) -> None:
    """Try to revoke within `seconds`, even when cancelled; a lease that is not revoked expires by itself."""
    with trio.move_on_after(seconds, shield=True):
        try:
            await revoke()
        except RegistryError as error:
            log.info("lease not revoked, it will expire", lease=lease.id, reason=str(error))
