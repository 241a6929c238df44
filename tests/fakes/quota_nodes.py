"""Nodes that share one limit of requests, each with a bucket that lets through by its share."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import msgspec
import trio

from node_proxy.agent.discovery import Discovery
from node_proxy.agent.quotas import QuotaBook, QuotaKeeper, QuotaPublisher
from node_proxy.agent.registration import LEASE_TTL
from node_proxy.agent.state import MeshState
from node_proxy.control import Quotas
from node_proxy.snapshot import Endpoint, LocalWorkload, ServicePortView, ServiceView, Snapshot
from registry.model.backend_policy import BackendPolicy
from registry.model.mesh import DefaultAuthorization
from registry.model.parse import render
from registry.model.resource import NODEMESH
from registry.model.service import PortProtocol
from registry.rules.limits.bucket import Bucket
from registry.rules.limits.keys import mesh_name
from registry.store.base import Store

LIMIT = "default/api/all"
ALL = mesh_name(LIMIT, "")
RATE = 100


def endpoint(node: str) -> Endpoint:
    """Give the endpoint of a node."""
    return Endpoint(
        node=node,
        workload="default/api",
        address="10.0.0.1",
        port=80,
        tunnel_port=15008,
        identity="spiffe://nodemesh.local/ns/default/sa/api",
        server_name="api",
        weight=1,
        healthy=True,
    )


def snapshot(
    nodes: Sequence[str], *, requests: int = RATE, scope: str = "Mesh", local: bool = True
) -> Snapshot:
    """Give a mesh in which `nodes` serve one service under one limit."""
    policy = {
        "apiVersion": NODEMESH,
        "kind": "BackendPolicy",
        "metadata": {"name": "api"},
        "spec": {
            "targetRefs": [{"kind": "Service", "name": "api"}],
            "rateLimits": [{"name": "all", "requests": requests, "scope": scope}],
        },
    }
    workload = LocalWorkload(
        name="default/api",
        namespace="default",
        labels={},
        identity="spiffe://nodemesh.local/ns/default/sa/api",
        server_name="api",
        ports=(80,),
        dial="127.0.0.1",
        services=("default/api",),
    )
    ports = (ServicePortView(port=80, protocol=PortProtocol.HTTP, endpoints=tuple(map(endpoint, nodes))),)
    return Snapshot(
        revision=1,
        node="a",
        addresses=(),
        trust_domain="nodemesh.local",
        default_authorization=DefaultAuthorization.ALLOW,
        services=(ServiceView(name="default/api", vips=(), ports=ports),),
        local=(workload,) if local else (),
        backend_policies=(msgspec.convert(policy, BackendPolicy),),
    )


@dataclass
class Node:
    """The quotas of one node over a store, and a bucket that lets requests through by its share."""

    name: str
    store: Store
    quotas: Quotas = field(default_factory=lambda: Quotas(shares={}))
    passed: int = 0
    full_at: float = 0.0

    def __post_init__(self) -> None:
        self.book = QuotaBook(self.name)
        self.discovery = Discovery(
            self.store, MeshState(trust_domain="nodemesh.local"), lambda: None, self.book.observe
        )
        self.keeper = QuotaKeeper(self.book, stale_since=lambda: self.discovery.stale_since, give=self._give)
        self.publisher = QuotaPublisher(
            self.store, self.name, self.book, lambda _, resource: render(resource)
        )

    def _give(self, quotas: Quotas) -> None:
        self.quotas = quotas

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow, reckon and publish until cancelled."""
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self.store.hold_lease(LEASE_TTL))
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(self.discovery.follow)
            nursery.start_soon(self.keeper.keep)
            nursery.start_soon(self.publisher.keep_written, lease)
            task_status.started()

    async def be_asked(self, rate: float) -> None:
        """Let so many requests come in a second, until cancelled."""
        bucket = Bucket.of(RATE, per=1.0)
        owed, last = 0.0, trio.current_time()
        while True:
            await trio.sleep(0.05)
            now = trio.current_time()
            owed += rate * (now - last)
            count, owed, last = int(owed), owed % 1.0, now
            self.book.take({ALL: count})
            share = self.quotas.shares.get(ALL) or self.quotas.shares[LIMIT]
            for _ in range(count):
                taken = bucket.scaled(share).take(self.full_at, now)
                self.full_at = taken.full_at
                self.passed += taken.wait == 0.0


@dataclass
class Fleet:
    """Three nodes under one limit."""

    nodes: list[Node]
    nursery: trio.Nursery

    async def begin(self) -> None:
        """Let all run, and know the limit."""
        for node in self.nodes:
            node.keeper.follow(snapshot("abc"))
            await self.nursery.start(node.run)

    async def passed(self, rates: Sequence[float], *, warm: float, seconds: float) -> list[float]:
        """Let requests come at these rates; gives how many a second pass once `warm` is over."""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for node, rate in zip(self.nodes, rates, strict=True):
                    nursery.start_soon(node.be_asked, rate)
                await trio.sleep(warm)
                before = [node.passed for node in self.nodes]
                await trio.sleep(seconds)
                found = [
                    (node.passed - so_far) / seconds for node, so_far in zip(self.nodes, before, strict=True)
                ]
                scope.cancel()
        return found
