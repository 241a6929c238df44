"""What routes and policies say of connections that are passed on as they are."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.outbound_connection import Caller, OutboundConnection
from node_proxy.dataplane.tables import Route
from node_proxy.snapshot import ServiceView, Snapshot
from node_proxy.tunnel.http2 import CANCEL
from node_proxy.tunnel.pool import TunnelKey
from registry.model.authorization import TargetKind, TargetRef
from registry.model.backend_policy import (
    BackendPolicy,
    BackendPolicySpec,
    BackendTimeouts,
    BalancingPolicy,
    CircuitBreaker,
    ConnectionLimits,
    HashKey,
    KeyType,
    LoadBalancing,
    Retries,
    RetryReason,
)
from registry.model.gateway import ParentReference
from registry.model.resource import Metadata
from registry.model.tcp_route import TCPBackendRef, TCPRoute, TCPRouteRule, TCPRouteSpec
from tests.fakes.context import scene, snapshot
from tests.fakes.outbound_pool import IdleSocket, OutboundPool
from tests.fakes.relay_tunnel import RelayTunnel
from tests.fakes.tcp import tcp_pair
from tests.integration.certificates import spiffe
from tests.integration.snapshots import endpoint, service
from tests.node_proxy.dataplane.source import API, WEB, Source, endpoints, settle

V1 = endpoint("v1", "10.77.1.1", 15008, 8080, identity=API)
V2 = endpoint("v2", "10.77.1.2", 15008, 8080, identity=API)
SERVICES = (
    service("default/api", 80, *endpoints(1)),
    service("default/api-v1", 80, V1),
    service("default/api-v2", 80, V2),
)


def policy(name: str, **parts: Any) -> BackendPolicy:
    """Give a policy for a service of namespace default."""
    spec = BackendPolicySpec(target_refs=(TargetRef(kind=TargetKind.SERVICE, name=name),), **parts)
    return BackendPolicy(
        api_version="nodemesh/v1", kind="BackendPolicy", metadata=Metadata(name=name), spec=spec
    )


def tcp_route(namespace: str = "default", **weights: int) -> TCPRoute:
    """Give a route of connections to service api by weight; ``v1`` leads to service api-v1."""
    backends = tuple(
        TCPBackendRef(name=f"api-{name}", port=80, weight=weight) for name, weight in weights.items()
    )
    return TCPRoute(
        api_version="gateway.networking.k8s.io/v1alpha2",
        kind="TCPRoute",
        metadata=Metadata(name="split", namespace=namespace),
        spec=TCPRouteSpec(
            parent_refs=(ParentReference(name="api", namespace="default"),),
            rules=(TCPRouteRule(backend_refs=backends),),
        ),
    )


def state(
    *services: ServiceView, policies: tuple[BackendPolicy, ...] = (), routes: tuple[TCPRoute, ...] = ()
) -> Snapshot:
    """Give a mesh."""
    return msgspec.structs.replace(
        snapshot(services=services),
        backend_policies=policies,
        tcp_routes=tuple((route, number) for number, route in enumerate(routes)),
    )


class Mesh(Source):
    """An outbound side that calls services as its tables have them."""

    @property
    def route(self) -> Route:
        """The port of service api."""
        route = self.stage.context.enforced.tables.by_name("default/api", 80)
        assert route is not None
        return route

    def connect(self, caller: Caller = WEB, peer: object = None) -> IdleSocket:
        """Begin a connection to service api."""
        idle = IdleSocket(peer)
        OutboundConnection(self.outbound.shared, idle.as_socket(), self.route, caller).start()
        return idle

    def end(self, status: int = 403) -> None:
        """Let the peers refuse whatever waits for them."""
        for _, tunnel, stream_id in self.asked:
            tunnel.handlers.pop(stream_id).on_refused(status, "end")


@asynccontextmanager
async def mesh(of: Snapshot, clock: Callable[[], float] = trio.current_time) -> AsyncIterator[Mesh]:
    """Give an outbound side in a mesh, with tunnels open to every endpoint."""
    async with trio.open_nursery() as nursery:
        stage = scene(of, clock=clock)
        at = Mesh(stage, nursery)
        nursery.start_soon(at.outbound.shared.answers.watch)
        for view in of.services:
            at.open_tunnels(*view.ports[0].endpoints)
        yield at
        at.end()
        at.assert_balanced()
        nursery.cancel_scope.cancel()


async def _led(at: Mesh, count: int, caller: Caller = WEB) -> Counter[str]:
    """Count the addresses that so many connections lead to."""
    led: Counter[str] = Counter()
    for _ in range(count):
        at.connect(caller)
        led[at.next_asked()[0]] += 1
        at.end()
    return led


class TestRoutes:
    async def test_weights(self) -> None:
        """Connections go to the route's backends by their weights."""
        async with mesh(state(*SERVICES, routes=(tcp_route(v1=9, v2=1),))) as at:
            led = await _led(at, 1000)
        assert set(led) == {V1.address, V2.address}
        assert led[V2.address] == pytest.approx(100, abs=40)

    async def test_weight_of_zero(self) -> None:
        """A backend of weight 0 gets nothing."""
        async with mesh(state(*SERVICES, routes=(tcp_route(v1=0, v2=1),))) as at:
            assert set(await _led(at, 50)) == {V2.address}

    async def test_without_a_route(self) -> None:
        """A port that no route is attached to leads to itself."""
        async with mesh(state(*SERVICES)) as at:
            assert set(await _led(at, 5)) == {endpoints(1)[0].address}

    async def test_callers_of_the_routes_namespace(self) -> None:
        """A route of another namespace than the service's concerns callers from there alone."""
        there = msgspec.structs.replace(SERVICES[2], name="other/api-v2")
        route = tcp_route(namespace="other", v2=1)
        async with mesh(state(*SERVICES, there, routes=(route,))) as at:
            assert set(await _led(at, 5)) == {endpoints(1)[0].address}
            assert set(await _led(at, 5, Caller.of(spiffe("web", namespace="other")))) == {V2.address}

    async def test_unknown_backend(self) -> None:
        """A share that leads to a service the mesh does not know is refused with that reason."""
        async with mesh(state(*SERVICES, routes=(tcp_route(v7=1),))) as at:
            assert at.connect().state == "aborted"
            assert [reason for reason, _ in at.refusals] == ["invalid_backend"]

    async def test_endpoint_by_its_address(self) -> None:
        """Who calls an endpoint by its own address goes there, whatever the routes say."""
        async with mesh(state(*SERVICES, routes=(tcp_route(v2=1),))) as at:
            (api,) = endpoints(1)
            alone = at.stage.context.enforced.tables.by_endpoint(api.address, api.port)
            assert alone is not None
            OutboundConnection(at.outbound.shared, IdleSocket().as_socket(), alone, WEB).start()
            assert at.next_asked()[0] == api.address


class TestLimits:
    async def test_connections(self) -> None:
        """Connections beyond the limit are refused before anyone is asked; ended ones make room."""
        limited = policy("api", connection_limits=ConnectionLimits(connections=2))
        async with mesh(state(SERVICES[0], policies=(limited,))) as at:
            at.connect()
            at.connect()
            assert at.connect().state == "aborted"
            assert at.refusals == [("overflow", "no endpoint of default/api: overflow")]
            assert at.stage.counted(telemetry.SERVICE_LIMITED, service="default/api") == 1
            at.end()
            assert at.connect().state == "open"

    async def test_limits_of_the_backend(self) -> None:
        """Behind a route the limits are those of the service that it leads to."""
        limited = policy("api-v1", connection_limits=ConnectionLimits(connections=1))
        async with mesh(state(*SERVICES, policies=(limited,), routes=(tcp_route(v1=1),))) as at:
            at.connect()
            assert at.connect().state == "aborted"

    async def test_breaker(self) -> None:
        """After connections that failed the next are refused at once, until one is let through."""
        broken = policy("api", circuit_breaker=CircuitBreaker(consecutive_failures=3, open_for="5s"))
        now = 0.0
        async with mesh(state(SERVICES[0], policies=(broken,)), clock=lambda: now) as at:
            for _ in range(3):
                at.connect()
                at.end(503)
            assert at.connect().state == "aborted"
            assert at.refusals[-1][0] == "breaker_open"
            assert at.asked == []
            now = 5.0
            near, far = tcp_pair()
            with near, far:
                OutboundConnection(at.outbound.shared, near, at.route, WEB).start()
                _, tunnel, stream_id = at.next_asked()
                assert at.connect().state == "aborted"
                tunnel.handlers[stream_id].on_accepted()
                assert at.connect().state == "open"
                tunnel.handlers.pop(stream_id).on_reset(CANCEL)


class TestAttempts:
    @pytest.mark.parametrize(
        ("retries", "asked"),
        [
            (Retries(), 3),
            (Retries(attempts=0), 1),
            (Retries(attempts=5), 6),
            (Retries(on=(RetryReason.GATEWAY_ERROR,)), 1),
        ],
    )
    async def test_as_the_policy_says(self, retries: Retries, asked: int) -> None:
        """As many endpoints are tried as the policy allows, each once."""
        many = service("default/api", 80, *endpoints(8))
        async with mesh(state(many, policies=(policy("api", retries=retries),))) as at:
            at.connect()
            tried = []
            while at.asked:
                tried.append(at.refuse(503, "dial_failed"))
            assert len(set(tried)) == len(tried) == asked


class SlowPool(OutboundPool):
    """Tunnels that are never opened."""

    async def get(self, key: TunnelKey) -> Any:
        """Wait for ever."""
        self.asked.append(key)
        await trio.sleep_forever()


class TestConnectTimeout:
    QUICK = policy("api", timeouts=BackendTimeouts(connect="300ms"))

    async def test_answer(self, autojump_clock: trio.testing.MockClock) -> None:
        """A peer has as long to answer as the policy gives it; then another is asked."""
        two = service("default/api", 80, *endpoints(2))
        async with mesh(state(two, policies=(self.QUICK,))) as at:
            at.connect()
            first, tunnel, _ = at.next_asked()
            await trio.sleep(0.25)
            assert at.next_asked()[0] == first
            await trio.sleep(0.2)
            assert at.next_asked()[0] != first
            assert len(tunnel.resets) == 1

    async def test_tunnel(self, autojump_clock: trio.testing.MockClock) -> None:
        """A tunnel that is not open in time is given up, and its endpoint passed over."""
        async with mesh(state(service("default/api", 80, *endpoints(2)), policies=(self.QUICK,))) as at:
            pool = SlowPool()
            at.outbound.shared.pool = pool.as_pool()
            sock = at.connect()
            await trio.sleep(0.29)
            assert len(pool.asked) == 1
            await trio.sleep(0.02)
            assert len(pool.asked) == 2
            await trio.sleep(0.31)
            assert sock.state == "aborted"
            assert all(at.ejected(each) for each in endpoints(2))

    async def test_tunnel_and_answer_share_it(self, autojump_clock: trio.testing.MockClock) -> None:
        """What the tunnel has taken is no longer there for the answer."""

        class LatePool(OutboundPool):
            async def get(self, key: TunnelKey) -> Any:
                await trio.sleep(0.25)
                return self.open.setdefault(key.address, RelayTunnel()).as_tunnel()

        async with mesh(state(service("default/api", 80, *endpoints(1)), policies=(self.QUICK,))) as at:
            at.outbound.shared.pool = LatePool().as_pool()
            sock = at.connect()
            await trio.sleep(0.26)
            assert sock.state == "open"
            await trio.sleep(0.15)
            assert sock.state == "aborted"


class TestSource:
    @staticmethod
    def _by_source() -> LoadBalancing:
        key = HashKey(type=KeyType.SOURCE)
        return LoadBalancing(policy=BalancingPolicy.RING_HASH, hash_on=key)

    async def test_same_caller_same_endpoint(self) -> None:
        """With a hash of the source all connections of one address go to one endpoint."""
        many = service("default/api", 80, *endpoints(8))
        async with mesh(state(many, policies=(policy("api", load_balancing=self._by_source()),))) as at:
            led: dict[str, set[str]] = {}
            for number in range(60):
                address = f"10.77.9.{number % 20}"
                at.connect(peer=(address, 40_000 + number))
                led.setdefault(address, set()).add(at.next_asked()[0])
                at.end()
            assert all(len(each) == 1 for each in led.values())
            assert len(set.union(*led.values())) > 3

    async def test_caller_without_an_address(self) -> None:
        """A caller on loopback has no address of its own: its identity stands for it."""
        many = service("default/api", 80, *endpoints(8))
        async with mesh(state(many, policies=(policy("api", load_balancing=self._by_source()),))) as at:
            led = {await _one(at, Caller.of(spiffe(f"web-{n % 4}"))) for n in range(40)}
            assert 1 < len(led) <= 4


async def _one(at: Mesh, caller: Caller) -> str:
    await settle()
    at.connect(caller, peer=("127.0.0.1", 4711))
    address: str = at.next_asked()[0]
    at.end()
    return address
