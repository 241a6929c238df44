"""How much a workload is asked to bear: rates of requests and of connections, as its services' policies say.

The counts are in memory that all workers of a node share (`node_proxy.buckets`), so that a limit is one limit
however many they are. What a service does not limit costs one look-up.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from node_proxy.control import Quotas
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.message import Field
from node_proxy.dataplane.pacer import Pacer
from node_proxy.dataplane.shaping import Lane, Meter, Shaper
from registry.model.backend_policy import BackendPolicySpec
from registry.rules.limits.bucket import Bucket, Taken
from registry.rules.limits.compiled import FlowLimit, RequestLimit, ServiceLimits, compile_limits
from registry.rules.limits.keys import key_of, mesh_name
from registry.rules.request import HttpRequest
from registry.rules.routing import HttpCall

# Names of counts, by caller or by a header's value, whose demand is told to the agent every second. Beyond
# these, requests are counted all the same, and the node's share of their limit is an even one.
MAX_DEMANDS = 1024
# Keys that are not hashed again, of texts up to this length: a MiB or so.
REMEMBERED = 2048
REMEMBERED_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may go on; `headers` are for its answer, none where nothing is limited."""

    headers: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Limited:
    """The request is one too many, by the limit ``namespace/service/limit``.

    `headers` are for the answer 429, ``retry-after`` among them; `retry_after` is in seconds.
    """

    name: str
    retry_after: float
    headers: tuple[Field, ...] = ()


UNLIMITED = Allowed()


class _Count(NamedTuple):
    """Tokens that were taken for a request, to be given back if another limit refuses it."""

    limit: RequestLimit
    bucket: Bucket
    key: int
    named: bool
    taken: Taken


class Limiter:
    """Counts what comes to the workloads of this host, for all of a worker."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._buckets = context.buckets
        self.pacer = Pacer(context.clock, context.crashed)
        self._tables = context.enforced.tables
        self._known: dict[tuple[str, ...], tuple[ServiceLimits, ...]] = {}
        self._compiled: dict[str, tuple[BackendPolicySpec, ServiceLimits]] = {}
        self._keys: dict[tuple[str, str], int] = {}
        self._shares: dict[str, float] = {}
        self._demand: Counter[str] = Counter()

    def check(
        self, services: tuple[str, ...], http: HttpRequest, *, caller: str, route: str = ""
    ) -> Allowed | Limited:
        """Count a request to a workload behind `services`.

        Args:
            services: as `LocalWorkload.services`, ``namespace/name``.
            http: the request, names of headers in lower case, the path as it came or normalised.
            caller: the proven identity as text; empty for who has none, all of whom count as one.
            route: ``namespace/name`` of the route that led here, as the caller's proxy said; empty if none.
        """
        limits = self._limits(services)
        if not limits:
            return UNLIMITED
        counts: list[_Count] = []
        call: HttpCall | None = None
        for each in limits:
            for limit in each.requests:
                if limit.route and limit.route != route:
                    continue
                if limit.matches is not None:
                    if call is None:
                        call = HttpCall(
                            method=http.method, host=http.host, path=http.path, headers=http.headers
                        )
                    if not limit.matches(call):
                        continue
                count = self._count(limit, key_of(limit.key, caller, http.headers))
                if count.taken.wait > 0.0:
                    for done in counts:
                        self._buckets.give_back(done.key, done.bucket, named=done.named)
                    return self._limited(count)
                counts.append(count)
        return Allowed(self._headers(min(counts, key=_remaining))) if counts else UNLIMITED

    def concerns(self, services: tuple[str, ...]) -> bool:
        """Whether anything is limited for a workload behind `services`."""
        return bool(self._limits(services))

    def refuses_connection(self, services: tuple[str, ...], caller: str) -> str:
        """Count a new connection; gives the name of the service whose rate it exceeds, empty if none."""
        counted: list[tuple[int, Bucket, bool]] = []
        for limits in self._limits(services):
            for limit in limits.connections:
                key, named = self._key(limit.stem, caller if limit.by_caller else "")
                taken, key, named = self._take(limit.bucket, limit.stem, key, named=named)
                if taken.wait > 0.0:
                    for done, bucket, was_named in counted:
                        self._buckets.give_back(done, bucket, named=was_named)
                    self._context.telemetry.add(
                        telemetry.RATE_LIMITED, kind="connections", service=limit.service, limit=""
                    )
                    return limit.service
                counted.append((key, limit.bucket, named))
        return ""

    def shaper(self, services: tuple[str, ...], caller: str) -> Shaper | None:
        """Give what paces a connection of `caller` to a workload behind `services`; None if nothing does.

        It holds as long as the connection: an edit is for later ones.
        """
        limits = self._limits(services)
        if not limits:
            return None
        upload = self._lane([lane for each in limits for lane in each.upload], caller)
        download = self._lane([lane for each in limits for lane in each.download], caller)
        return Shaper(upload=upload, download=download) if upload or download else None

    # Limits that all nodes share.

    def learn(self, quotas: Quotas) -> None:
        """Count by these shares of the limits from now on."""
        self._shares = quotas.shares

    def take_demand(self) -> dict[str, int]:
        """Give how many requests were asked for under each shared count since the last call."""
        demand, self._demand = self._demand, Counter()
        return dict(demand)

    # The work.

    def _limits(self, services: tuple[str, ...]) -> tuple[ServiceLimits, ...]:
        tables = self._context.enforced.tables
        if tables is not self._tables:
            self._tables = tables
            self._known = {}
            self._compiled = {
                name: each for name, each in self._compiled.items() if name in tables.backend_policies
            }
        known = self._known.get(services)
        if known is None:
            found = (self._compile(name) for name in services if name in tables.backend_policies)
            known = self._known[services] = tuple(each for each in found if each.any)
        return known

    def _compile(self, service: str) -> ServiceLimits:
        # Tables are replaced whenever an endpoint comes or goes; what a policy says seldom changes.
        policy, former = self._tables.backend_policies[service], self._compiled.get(service)
        if former is None or former[0] != policy:
            former = self._compiled[service] = policy, compile_limits(service, policy)
        return former[1]

    def _count(self, limit: RequestLimit, text: str) -> _Count:
        bucket = limit.bucket
        if limit.mesh:
            name = mesh_name(limit.name, text)
            if name in self._demand or len(self._demand) < MAX_DEMANDS:
                self._demand[name] += 1
            # Until the agent has said anything the whole limit is this node's: it may be the only one.
            share = self._shares.get(name) or self._shares.get(limit.name, 1.0)
            bucket = bucket.scaled(share)
        key, named = self._key(limit.stem, text)
        taken, key, named = self._take(bucket, limit.stem, key, named=named)
        return _Count(limit, bucket, key, named, taken)

    def _key(self, stem: str, text: str) -> tuple[int, bool]:
        key = self._keys.get((stem, text))
        if key is None:
            key = self._buckets.key(stem, text)
            if len(text) <= REMEMBERED_LENGTH:
                if len(self._keys) >= REMEMBERED:
                    self._keys.clear()
                self._keys[stem, text] = key
        return key, not text

    def _take(self, bucket: Bucket, stem: str, key: int, *, named: bool) -> tuple[Taken, int, bool]:
        """Take one token; those that there is no room to count by themselves share one bucket."""
        now = self._context.clock()
        taken = self._buckets.take(key, bucket, now, named=named)
        if taken is None and not named:
            self._context.telemetry.add(telemetry.LIMIT_REACHED, limit="rate_keys")
            key, named = self._buckets.key(f"{stem}\nothers"), True
            taken = self._buckets.take(key, bucket, now, named=True)
        if taken is None:
            self._context.telemetry.add(telemetry.LIMIT_REACHED, limit="rate_names")
            taken = Taken(now + bucket.interval, 0, bucket.interval)
        return taken, key, named

    def _lane(self, limits: list[FlowLimit], caller: str) -> Lane | None:
        if not limits:
            return None
        keys = [self._key(limit.stem, caller if limit.by_caller else "") for limit in limits]
        return Lane(
            self._buckets,
            [Meter(limit.bucket, key, named) for limit, (key, named) in zip(limits, keys, strict=True)],
            self._context.clock,
            self.pacer,
        )

    def _limited(self, count: _Count) -> Limited:
        limit = count.limit
        service, _, name = limit.name.rpartition("/")
        self._context.telemetry.add(telemetry.RATE_LIMITED, kind="requests", service=service, limit=name)
        # Whole seconds (RFC 9110 section 10.2.3), never too few.
        wait = (b"retry-after", b"%d" % max(1, math.ceil(count.taken.wait)))
        return Limited(limit.name, count.taken.wait, (wait, *self._headers(count)))

    def _headers(self, count: _Count) -> tuple[Field, ...]:
        """Give the header of draft-ietf-httpapi-ratelimit-headers-02; `reset` is when all is there."""
        left = max(0, math.ceil(count.taken.full_at - self._context.clock()))
        return (
            (b"ratelimit-limit", b"%d" % count.limit.amount),
            (b"ratelimit-remaining", b"%d" % count.taken.remaining),
            (b"ratelimit-reset", b"%d" % left),
        )


def _remaining(count: _Count) -> int:
    return count.taken.remaining
