"""Client connections to workloads, reused: each is a stream of a tunnel, or memory to this host's own side.

A connection is for one endpoint, one version of HTTP, one caller's identity and one caller's address, since
all of these are settled once for each CONNECT. What it costs to open one, two ways through the mesh and a
dial, is paid once for many requests.
"""

from dataclasses import dataclass
from typing import Final

import trio

from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.exchange import ClientConnection
from node_proxy.dataplane.http.h1_client import H1ClientConnection
from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import Version
from node_proxy.dataplane.http.openings import Opened, Openings
from node_proxy.dataplane.http.sniff import Sniffed
from node_proxy.dataplane.http.upstream_key import UpstreamKey
from node_proxy.dataplane.tables import Route
from node_proxy.errors import NodeProxyError

# How long a connection waits for its next request: servers close idle ones after 60 to 120 s, as a rule.
IDLE_TIMEOUT: Final = 60.0
SWEEP_INTERVAL: Final = 5.0
_SPOKEN: Final = {Version.HTTP_11: Sniffed.HTTP_1, Version.HTTP_2: Sniffed.HTTP_2}


class Overflow(NodeProxyError):
    """A service has as many connections, and as many requests that wait for one, as it may have."""


@dataclass(eq=False, slots=True)
class Upstream:
    """A connection in the pool; `waiting` while it is among those that take a request."""

    key: UpstreamKey
    route: Route
    connection: ClientConnection
    opened: Opened
    last_used: float
    served: int = 0
    waiting: bool = False
    retired: bool = False

    @property
    def lasts(self) -> bool:
        """Whether it is good for more requests than those in flight."""
        return (
            not self.retired
            and self.opened.lasts()
            and bool(self.connection.room or self.connection.in_flight)
        )

    @property
    def room(self) -> int:
        """How many more requests it takes now."""
        return self.connection.room if not self.retired and self.opened.lasts() else 0


class Upstreams:
    """The pool.

    Args:
        context: the worker's.
        nursery: owns the tasks of connections that need one.
        openings: opens what they run over.
        balancer: counts them.
        limits: of what workloads may answer.
    """

    def __init__(
        self,
        context: WorkerContext,
        nursery: trio.Nursery,
        *,
        openings: Openings,
        balancer: Balancer,
        limits: HttpLimits,
    ) -> None:
        self._context = context
        self._nursery = nursery
        self._openings = openings
        self._balancer = balancer
        self._limits = limits
        self._waiting: dict[UpstreamKey, list[Upstream]] = {}
        self._open_now: set[Upstream] = set()
        # Where requests wait for a connection of a service that may have no more.
        self._lots: dict[str, trio.lowlevel.ParkingLot] = {}
        # Of HTTP/2, where those who come together share one.
        self._opening: dict[UpstreamKey, trio.Event] = {}

    def __len__(self) -> int:
        return len(self._open_now)

    def take_nowait(self, key: UpstreamKey) -> Upstream | None:
        """Give a connection that takes a request now; the one used last, so that others may grow idle."""
        waiting = self._waiting.get(key)
        while waiting:
            upstream = waiting[-1]
            if room := upstream.room:
                if room == 1:
                    waiting.pop()
                    upstream.waiting = False
                return upstream
            # Full, which `give_back` will find out to be over; or no longer to be used.
            waiting.pop()
            upstream.waiting = False
            if not upstream.lasts:
                self._close(upstream)
        return None

    async def take(self, key: UpstreamKey, caller: Caller, route: Route) -> Upstream:
        """Give a connection that takes a request, opening one if need be.

        Args:
            key: what it is for.
            caller: whose key it is.
            route: the service port that it counts for.

        Raises:
            Overflow: the service may have no more of them, and too many wait already.
            NodeProxyError: it could not be opened; `TunnelRefused` when the other side would not.
        Cancellation leaves nothing half open.
        """
        while True:
            if upstream := self.take_nowait(key):
                return upstream
            if (opening := self._opening.get(key)) is not None:
                await opening.wait()
            elif self._may_open(route):
                return await self._open(key, caller, route)
            else:
                await self._wait_freed(route)

    def give_back(self, upstream: Upstream, *, requests: int | None = None) -> None:
        """Note that a request on it has ended; after so many `requests` it is closed."""
        upstream.last_used = self._context.clock()
        upstream.served += 1
        if requests is not None and upstream.served >= requests:
            upstream.retired = True
        room = upstream.room
        if not room and not upstream.lasts:
            self._close(upstream)
        elif room and not upstream.waiting:
            upstream.waiting = True
            self._waiting.setdefault(upstream.key, []).append(upstream)
            self._let_go_on(upstream.route)

    def retire_all(self) -> None:
        """Use none of the present connections for new requests: the credentials have changed."""
        for upstream in list(self._open_now):
            self._close(upstream)

    async def sweep(self) -> None:
        """Close what is idle or no longer to be used; runs until cancelled."""
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            now = self._context.clock()
            for upstream in list(self._open_now):
                if upstream.connection.in_flight:
                    continue
                if now - upstream.last_used >= IDLE_TIMEOUT or not upstream.room:
                    self._close(upstream)

    def _may_open(self, route: Route) -> bool:
        """Count one more connection, in the place of one that is idle if need be."""
        if self._balancer.connect(route):
            return True
        for waiting in self._waiting.values():
            for upstream in waiting:
                if upstream.route.service == route.service and not upstream.connection.in_flight:
                    self._close(upstream)
                    return self._balancer.connect(route)
        return False

    async def _wait_freed(self, route: Route) -> None:
        if not self._balancer.wait(route):
            raise Overflow(f"{route.service} has as many connections as it may have")
        lot = self._lots.setdefault(route.service, trio.lowlevel.ParkingLot())
        try:
            await lot.park()
        finally:
            self._balancer.waited(route)
            if not lot:
                self._lots.pop(route.service, None)

    async def _open(self, key: UpstreamKey, caller: Caller, route: Route) -> Upstream:
        """Open one that is counted already; those who want the same of HTTP/2 wait for it."""
        if key.version is Version.HTTP_2:
            self._opening[key] = trio.Event()
        try:
            opened = await self._openings.open(key.endpoint, caller, key.address, _SPOKEN[key.version])
        except BaseException:
            self._uncount(route)
            raise
        finally:
            if (opening := self._opening.pop(key, None)) is not None:
                opening.set()
        return self._opened(key, route, opened)

    def _opened(self, key: UpstreamKey, route: Route, opened: Opened) -> Upstream:
        now = self._context.clock()
        if key.version is Version.HTTP_2:
            shared = H2ClientConnection(opened.channel, limits=self._limits, backlog=self._context.backlog)
            upstream = Upstream(key, route, shared, opened, now)
            self._nursery.start_soon(self._run, shared, upstream)
            upstream.waiting = True
            self._waiting.setdefault(key, []).append(upstream)
        else:
            single = H1ClientConnection(opened.channel, limits=self._limits)
            upstream = Upstream(key, route, single, opened, now)
        self._open_now.add(upstream)
        return upstream

    async def _run(self, connection: H2ClientConnection, upstream: Upstream) -> None:
        try:
            await self._context.contain(connection.run)
        finally:
            self._close(upstream)

    def _close(self, upstream: Upstream) -> None:
        """Use it for nothing more; it is open, and counted, until what is in flight has ended."""
        upstream.retired = True
        upstream.connection.close()
        if upstream in self._open_now and not upstream.connection.in_flight:
            self._open_now.remove(upstream)
            self._uncount(upstream.route)
        if upstream.waiting:
            upstream.waiting = False
            waiting = self._waiting[upstream.key]
            waiting.remove(upstream)
            if not waiting:
                del self._waiting[upstream.key]

    def _uncount(self, route: Route) -> None:
        self._balancer.disconnected(route)
        self._let_go_on(route)

    def _let_go_on(self, route: Route) -> None:
        if lot := self._lots.get(route.service):
            lot.unpark()
