"""Keeps what this node says of itself in the store, under one lease that ends with it."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import structlog
import trio

from registry.errors import NotFound, StoreError
from registry.model.parse import render
from registry.model.resource import Resource
from registry.store.base import Delete, Lease, Put, Store, Write

# Design: a host that loses power is forgotten after this many seconds.
LEASE_TTL = 10
# Every node's status goes to every reader of the store: not more often than this, in seconds.
STATUS_INTERVAL = 1.0
RETRY = 1.0
# etcd takes 128 operations in a transaction (its --max-txn-ops).
MAX_WRITES = 100

log = structlog.get_logger("node_proxy.agent.registration")

Resources = Mapping[str, Resource]


def changes(wanted: Mapping[str, bytes], written: Mapping[str, bytes], *, lease: int) -> list[Write]:
    """Give the writes that turn `written` into `wanted`."""
    puts = [Put(key, value, lease) for key, value in wanted.items() if written.get(key) != value]
    return [*puts, *(Delete(key) for key in written if key not in wanted)]


def batched(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    """Give the writes in transactions that etcd accepts."""
    for begin in range(0, len(writes), MAX_WRITES):
        yield writes[begin : begin + MAX_WRITES]


class Registration:
    """Keeps the records in the store for as long as it is served.

    Args:
        store: where they go.
        records: gives the node's record and workloads as they should be now.
        status: gives the status as it should be now.
        beside: runs for as long as a lease is held, and may hang keys of its own on it.
        rendered: gives the bytes to write at a key; as long as nothing changes they are the same.
    """

    def __init__(
        self,
        store: Store,
        records: Callable[[], Resources],
        status: Callable[[], Resources],
        beside: Sequence[Callable[[Lease], Awaitable[None]]] = (),
        rendered: Callable[[str, Resource], bytes] = lambda _, resource: render(resource),
    ) -> None:
        self._store = store
        self._records = records
        self._status = status
        self._beside = beside
        self._rendered = rendered
        self._wake = trio.Event()
        self.registered = False

    def refresh(self) -> None:
        """Look again at what should be written."""
        self._wake.set()

    async def serve(self) -> None:
        """Stay registered for ever; cancelling withdraws everything, if the store answers."""
        while True:
            try:
                async with self._store.hold_lease(LEASE_TTL) as lease:
                    await self._keep_written(lease)
                log.warning("lease lost, registering anew")
            except StoreError as error:
                log.warning("cannot register", error=str(error))
            finally:
                self.registered = False
            await trio.sleep(RETRY)

    async def _keep_written(self, lease: Lease) -> None:
        """Write every change until the lease is lost."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_changes, lease)
            for each in self._beside:
                nursery.start_soon(each, lease)
            await lease.wait_lost()
            nursery.cancel_scope.cancel()

    async def _write_changes(self, lease: Lease) -> None:
        written: dict[str, bytes] = {}
        status: dict[str, bytes] = {}
        status_due = trio.current_time()
        while True:
            self._wake = trio.Event()
            wanted, wanted_status = self._render(self._records()), self._render(self._status())
            late = wanted_status != status and trio.current_time() < status_due
            if late:
                wanted_status = status
            writes = changes(wanted | wanted_status, written | status, lease=lease.id)
            if writes and not await self._commit(writes):
                await trio.sleep(RETRY)
                continue
            if wanted_status != status:
                status_due = trio.current_time() + STATUS_INTERVAL
            written, status = wanted, wanted_status
            if not self.registered:
                log.info("registered", keys=len(written))
                self.registered = True
            with trio.move_on_at(status_due if late else float("inf")):
                await self._wake.wait()

    async def _commit(self, writes: Sequence[Write]) -> bool:
        try:
            for some in batched(writes):
                await self._store.commit((), some)
        except (StoreError, NotFound) as error:
            log.warning("cannot write this node's state", error=str(error))
            return False
        return True

    def _render(self, resources: Resources) -> dict[str, bytes]:
        return {key: self._rendered(key, resource) for key, resource in resources.items()}
