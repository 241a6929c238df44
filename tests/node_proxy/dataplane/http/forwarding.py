"""A forwarder whose endpoints are scripted: what was asked of whom, and what the caller got."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import trio

from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.http.errand import Means
from node_proxy.dataplane.http.forwarder import Forwarder, Forwarding
from node_proxy.dataplane.http.kept_body import KeptBytes
from node_proxy.dataplane.http.mirroring import Mirroring
from node_proxy.dataplane.http.refusals import Refusals, RequestNumbers
from node_proxy.dataplane.http.targets import Targets
from node_proxy.dataplane.http.timers import Timers
from node_proxy.snapshot import Endpoint, ServicePortView, ServiceView, Snapshot
from registry.model.backend_policy import BackendPolicy
from registry.model.http_route import HTTPRoute
from registry.model.service import PortProtocol
from tests.fakes.context import Scene, scene, snapshot
from tests.fakes.exchanges import AskedExchange, Endpoints
from tests.integration.certificates import spiffe
from tests.integration.snapshots import endpoint
from tests.node_proxy.dataplane.source import WEB

SERVICE = "default/api"


def nodes(*names: str) -> tuple[Endpoint, ...]:
    """Give endpoints of one service, each on a node of its own."""
    return tuple(
        endpoint(name, f"10.77.0.{i}", 15008, 8080, identity=spiffe("api")) for i, name in enumerate(names, 2)
    )


def service(name: str, *endpoints: Endpoint, protocol: PortProtocol = PortProtocol.HTTP) -> ServiceView:
    """Give a service on port 80."""
    port = ServicePortView(port=80, protocol=protocol, endpoints=endpoints)
    return ServiceView(name=f"default/{name}", vips=(), ports=(port,))


def state(
    *services: ServiceView,
    policies: Sequence[BackendPolicy] = (),
    routes: Sequence[HTTPRoute] = (),
) -> Snapshot:
    """Give what is in force."""
    return msgspec.structs.replace(
        snapshot(services=services),
        backend_policies=tuple(policies),
        http_routes=tuple((each, 1) for each in routes),
    )


class Stage:
    """A forwarder of web's requests to api."""

    def __init__(self, at: Scene, nursery: trio.Nursery, endpoints: Endpoints) -> None:
        self.at = at
        self.endpoints = endpoints
        self.balancer = Balancer(at.context)
        self.timers = Timers(at.context.clock, at.context.crashed)
        self.kept = KeptBytes()
        means = Means(at.context, self.balancer, endpoints.as_pool(), self.timers)
        self._shared = Forwarding(
            means,
            Targets(),
            Mirroring(means, nursery),
            self.kept,
            RequestNumbers(at.context.telemetry, "source"),
            Refusals(at.context),
        )
        nursery.start_soon(self.timers.run)

    async def ask(self, exchange: AskedExchange) -> AskedExchange:
        """Let a request be answered, whatever it takes."""
        called = self.at.context.enforced.tables.by_name(SERVICE, 80)
        assert called is not None
        await Forwarder(self._shared, called, WEB, "10.77.0.1").handle(exchange)
        return exchange

    async def get(self, target: str = "/") -> AskedExchange:
        """Ask for a target."""
        return await self.ask(AskedExchange("GET", target))

    def assert_balanced(self) -> None:
        """Check that nothing is left of any request."""
        assert self.balancer.loaded == 0
        assert self.kept.total == 0
        assert len(self.timers) == 0
        assert not any(self.endpoints.taken.values())


@asynccontextmanager
async def forwarding(what: Snapshot, endpoints: Endpoints) -> AsyncIterator[Stage]:
    """Give a stage; what it left behind is checked at the end."""
    at = scene(what, clock=trio.current_time)
    async with trio.open_nursery() as nursery:
        stage = Stage(at, nursery, endpoints)
        yield stage
        nursery.cancel_scope.cancel()
    stage.assert_balanced()
    assert not cast("list[object]", at.logged("connection crashed"))
