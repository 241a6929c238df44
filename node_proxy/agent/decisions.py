"""The node's decision log: what its workers decided, merged, and kept in the store for all to ask about.

`DecisionBook` holds it and does no I/O; `DecisionPublisher` writes it under the node's lease.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
import trio

from node_proxy.control import Decided
from registry.errors import NotFound, StoreError
from registry.model.decision import (
    MAX_DECISIONS,
    MAX_IDS,
    DecisionRecord,
    NodeDecisions,
    NodeDecisionsSpec,
    Outcome,
)
from registry.model.parse import render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
from registry.store.base import Lease, Store

# Every watcher of the store is sent what is written: between two writes, in seconds.
PUBLISH_INTERVAL = 5.0
# The same when permits of sorts that are known already are all the news, as on any node at work.
COUNTS_INTERVAL = 60.0
RETRY = 1.0

log = structlog.get_logger("node_proxy.agent.decisions")

Sort = tuple[object, ...]


class DecisionBook:
    """The decisions of all workers by sort, the latest `MAX_DECISIONS` sorts.

    Args:
        node: this node's name.
        now: the wall clock, in UTC.
    """

    def __init__(self, node: str, now: Callable[[], datetime]) -> None:
        self._node = node
        self._now = now
        self._records: OrderedDict[Sort, DecisionRecord] = OrderedDict()
        self._changed = trio.Event()
        self._urgent = trio.Event()

    def __len__(self) -> int:
        return len(self._records)

    def take(self, decided: Iterable[Decided]) -> None:
        """Add what a worker decided since it last told; the latest is last."""
        now = self._now()
        for each in decided:
            sort = _sort(each)
            known = self._records.pop(sort, None)
            self._records[sort] = _add(known, each, now)
            if known is None or each.outcome is Outcome.DENIED:
                self._urgent.set()
            self._changed.set()
        while len(self._records) > MAX_DECISIONS:
            self._records.popitem(last=False)

    def resource(self) -> NodeDecisions:
        """Give everything as a resource; what is added from now on is news."""
        self._changed, self._urgent = trio.Event(), trio.Event()
        return NodeDecisions(
            api_version=NODEMESH,
            kind=NodeDecisions.KIND,
            metadata=Metadata(name=self._node, namespace=ROOT_NAMESPACE),
            spec=NodeDecisionsSpec(decisions=tuple(reversed(self._records.values()))),
        )

    async def wait_changed(self) -> None:
        """Wait until anything was added since `resource`."""
        await self._changed.wait()

    async def wait_urgent(self) -> None:
        """Wait until a denial or a new sort was added since `resource`."""
        await self._urgent.wait()


class DecisionPublisher:
    """Writes the book into the store.

    Args:
        store: where it goes.
        node: this node's name.
        book: what is written.
    """

    def __init__(self, store: Store, node: str, book: DecisionBook) -> None:
        self._store = store
        self._key = keys.render(keys.NodeDecisionsKey(node))
        self._book = book

    async def keep_written(self, lease: Lease) -> None:
        """Write what there is and every change under `lease`, until cancelled."""
        if not self._book:
            await self._book.wait_changed()
        while True:
            try:
                await self._store.put(self._key, render(self._book.resource()), lease=lease.id)
            except (StoreError, NotFound) as error:
                log.warning("cannot write this node's decisions", error=str(error))
                await trio.sleep(RETRY)
                continue
            await trio.sleep(PUBLISH_INTERVAL)
            with trio.move_on_after(COUNTS_INTERVAL - PUBLISH_INTERVAL):
                await self._book.wait_urgent()
            await self._book.wait_changed()


def _sort(decided: Decided) -> Sort:
    return (
        decided.outcome,
        decided.reason,
        decided.policy,
        decided.source,
        decided.source_ip,
        decided.remote_ip,
        decided.destination_ip,
        decided.sni,
        decided.destination,
        # Without a workload, workers count all ports together.
        decided.port if decided.destination else 0,
        decided.request is not None,
        decided.opening,
    )


def _add(known: DecisionRecord | None, decided: Decided, now: datetime) -> DecisionRecord:
    seen = _time(now - timedelta(seconds=decided.last_ago))
    if known is not None:
        keep = MAX_IDS if decided.outcome is Outcome.DENIED else 1
        return msgspec.structs.replace(
            known,
            port=decided.port,
            count=known.count + decided.count,
            last_seen=max(seen, known.last_seen),
            ids=(*known.ids, *decided.ids)[-keep:],
            request=decided.request,
        )
    return DecisionRecord(
        outcome=decided.outcome,
        reason=decided.reason,
        policy=decided.policy,
        source=decided.source,
        source_ip=decided.source_ip,
        remote_ip=decided.remote_ip,
        destination_ip=decided.destination_ip,
        sni=decided.sni,
        destination=decided.destination,
        port=decided.port,
        count=decided.count,
        first_seen=_time(now - timedelta(seconds=decided.first_ago)),
        last_seen=seen,
        ids=decided.ids,
        request=decided.request,
        opening=decided.opening,
    )


def _time(moment: datetime) -> str:
    # RFC 3339 in UTC and of fixed width, so that texts compare as times do.
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
