"""This node's part of the limits that all nodes share.

Each node says in the store how much it is asked for, and computes its own share from what all have said: no
call per request, and no node that decides for others. `QuotaBook` knows and reckons and does no I/O;
`QuotaPublisher` writes under the node's lease. While the store is away the share is an even one.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from node_proxy.agent.registration import LEASE_TTL
from node_proxy.agent.vouching import Vouching
from node_proxy.control import Quotas
from node_proxy.snapshot import Snapshot
from registry.errors import InvalidResource, NotFound, StoreError
from registry.model.quota import MAX_DEMANDS, NodeQuotas, NodeQuotasSpec
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata, Resource
from registry.rules.limits.compiled import mesh_limits
from registry.rules.limits.keys import limit_of, mesh_name
from registry.rules.limits.shares import even_share, water_fill
from registry.store import keys
from registry.store.base import Changed, KeyValue, Lease, Relisted, Removed, Store, WatchEvent
from registry.store.codec import parse_at

# Between two looks at what was asked for, in seconds.
INTERVAL = 1.0
# How much of a rate the last interval makes: after three of them four fifths of a change are known.
WEIGHT = 0.4
# Requests a second that are as good as none.
NOTHING = 0.01
# A demand that has changed by less is not written again: shares hold to a tenth all the same.
NOTABLE = 0.1
# Writes a second of all nodes together, each of which goes to every node.
WRITES = 10.0

log = structlog.get_logger("node_proxy.agent.quotas")


@dataclass(frozen=True, slots=True)
class _Limit:
    """A shared limit: requests a second, and the nodes that have a workload to count for."""

    rate: float
    nodes: frozenset[str]


class QuotaBook:
    """What all nodes are asked for, as far as this one knows.

    Args:
        node: this node's name.
        vouching: verifies what others have said; None where nothing is verified.
    """

    def __init__(self, node: str, vouching: Vouching | None = None) -> None:
        self._node = node
        self._vouching = vouching
        self._limits: dict[str, _Limit] = {}
        self._others: dict[str, Mapping[str, float]] = {}
        self._counts: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._said: dict[str, float] = {}

    @property
    def interval(self) -> float:
        """Seconds between two writes, so that all nodes together stay below `WRITES` a second."""
        nodes = max((len(limit.nodes) for limit in self._limits.values()), default=1)
        return max(INTERVAL, nodes / WRITES)

    def follow(self, snapshot: Snapshot) -> None:
        """Learn which limits there are, and who counts for them."""
        rates: dict[str, Mapping[str, float]] = {}
        for policy in snapshot.backend_policies:
            for target in policy.targets:
                rates[target] = mesh_limits(target, policy.spec)
        own = {name for workload in snapshot.local for name in workload.services}
        self._limits = {}
        for service in snapshot.services:
            if not rates.get(service.name):
                continue
            nodes = {each.node for view in service.ports for each in view.endpoints}
            if service.name in own:
                nodes.add(self._node)
            for name, rate in rates[service.name].items():
                self._limits[name] = _Limit(rate, frozenset(nodes))
        # What was asked for under a limit that is gone is nobody's to share.
        self._rates = {name: rate for name, rate in self._rates.items() if limit_of(name) in self._limits}

    def take(self, counts: Mapping[str, int]) -> None:
        """Add what a worker was asked for."""
        for name, count in counts.items():
            if limit_of(name) in self._limits:
                self._counts[name] += count

    def settle(self, elapsed: float) -> None:
        """Close an interval of so many seconds: what was taken in it becomes a rate."""
        counts, self._counts = self._counts, Counter()
        rates = {}
        for name in self._rates.keys() | counts.keys():
            rate = WEIGHT * counts[name] / elapsed + (1 - WEIGHT) * self._rates.get(name, 0.0)
            if rate >= NOTHING and limit_of(name) in self._limits:
                rates[name] = rate
        self._rates = rates

    def observe(self, event: WatchEvent) -> None:
        """Take one event of the store's watch; most are none of its business."""
        match event:
            case Changed(item):
                self._hear(item)
            case Removed(key=key):
                match keys.parse(key):
                    case keys.NodeQuotasKey(node):
                        self._others.pop(node, None)
                    case _:
                        pass
            case Relisted(listing):
                self._others.clear()
                for item in listing.items:
                    self._hear(item)
            case _:
                pass

    def wanted(self) -> dict[str, float]:
        """Give what this node should say: what it has said already, while that is true enough."""
        most = sorted(self._rates, key=lambda name: (-self._rates[name], name))[:MAX_DEMANDS]
        current = {name: round(self._rates[name], 3) for name in sorted(most)}
        if current.keys() == self._said.keys() and all(
            abs(rate - self._said[name]) <= NOTABLE * self._said[name] for name, rate in current.items()
        ):
            return self._said
        return current

    def said(self, demands: dict[str, float]) -> None:
        """Note what the others have been told; shares go by this, since theirs do."""
        self._said = demands

    def shares(self, *, alone: bool) -> Quotas:
        """Give this node's shares; `alone`: what others have said is not to be had, or too old."""
        shares: dict[str, float] = {}
        for name, limit in self._limits.items():
            shares[name] = even_share(len(limit.nodes | {self._node}))
            if not alone:
                whole = mesh_name(name, "")
                shares[whole] = self._share(whole, limit)
        if not alone:
            for name in self._rates:
                shares[name] = self._share(name, self._limits[limit_of(name)])
        return Quotas(shares=shares)

    def _share(self, name: str, limit: _Limit) -> float:
        demands = {
            node: self._others.get(node, {}).get(name, 0.0) for node in limit.nodes if node != self._node
        }
        demands[self._node] = self._said.get(name, 0.0)
        return water_fill(demands, limit.rate)[self._node] / limit.rate

    def _hear(self, item: KeyValue) -> None:
        key = keys.parse(item.key)
        if not isinstance(key, keys.NodeQuotasKey) or key.node == self._node:
            return
        try:
            if self._vouching is not None:
                self._vouching.check(item, fresh=True, operators_sign=False)
            resource = parse_at(item.key, item.value)
        except InvalidResource as error:
            log.warning("what a node says of its quotas does not count", key=item.key, reason=error.reason)
            resource = None
        if isinstance(resource, NodeQuotas):
            self._others[key.node] = resource.spec.demands
        else:
            self._others.pop(key.node, None)


class QuotaKeeper:
    """Lets the workers have the shares that the book reckons.

    Args:
        book: what they come of.
        stale_since: the moment (trio clock) since which the store is away; None while it answers.
        give: takes them.
    """

    def __init__(
        self, book: QuotaBook, *, stale_since: Callable[[], float | None], give: Callable[[Quotas], None]
    ) -> None:
        self._book = book
        self._stale_since = stale_since
        self._give = give

    def follow(self, snapshot: Snapshot) -> None:
        """Give the shares of the limits in a snapshot that is about to be in force."""
        self._book.follow(snapshot)
        self._renew()

    async def keep(self) -> None:
        """Reckon and give them every second, until cancelled."""
        began = trio.current_time()
        while True:
            await trio.sleep(INTERVAL)
            now = trio.current_time()
            self._book.settle(now - began)
            began = now
            self._renew()

    def _renew(self) -> None:
        since = self._stale_since()
        # Until its lease has ended, the others count this node as it was.
        alone = since is not None and trio.current_time() - since > LEASE_TTL
        self._give(self._book.shares(alone=alone))


class QuotaPublisher:
    """Writes what the book wants to say.

    Args:
        store: where it goes.
        node: this node's name.
        book: what is written.
        rendered: gives the bytes to write at a key.
    """

    def __init__(
        self, store: Store, node: str, book: QuotaBook, rendered: Callable[[str, Resource], bytes]
    ) -> None:
        self._store = store
        self._node = node
        self._key = keys.render(keys.NodeQuotasKey(node))
        self._book = book
        self._rendered = rendered

    async def keep_written(self, lease: Lease) -> None:
        """Write every notable change under `lease`, until cancelled; nothing while there never was any."""
        written = b""
        while True:
            demands = self._book.wanted()
            value = self._render(demands)
            if value != written and (demands or written):
                try:
                    await self._store.put(self._key, value, lease=lease.id)
                except (StoreError, NotFound) as error:
                    log.warning("cannot write this node's quotas", error=str(error))
                else:
                    written = value
                    self._book.said(demands)
            await trio.sleep(self._book.interval)

    def _render(self, demands: dict[str, float]) -> bytes:
        resource = NodeQuotas(
            api_version=NODEMESH,
            kind=NodeQuotas.KIND,
            metadata=Metadata(name=self._node, namespace=ROOT_NAMESPACE),
            spec=NodeQuotasSpec(demands=demands),
        )
        return self._rendered(self._key, resource)
