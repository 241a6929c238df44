from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.agent.in_use import Standing
from node_proxy.agent.records import own_resources, own_status
from node_proxy.agent.registration import (
    LEASE_TTL,
    MAX_WRITES,
    STATUS_INTERVAL,
    Registration,
    batched,
    changes,
)
from node_proxy.config import WorkloadConfig
from registry.model.parse import render
from registry.model.workload import Health, Node, NodeStatus, Rejection, Workload
from registry.store.base import Delete, Put
from registry.store.codec import parse_at
from registry.store.memory import MemoryStore
from tests.node_proxy.agent.documents import TRUST_DOMAIN, node_config, spiffe

RECORD = "nodes/web-1/record"
STATUS = "nodes/web-1/status"
WEB = WorkloadConfig(name="web", ports=(8080,), labels={"app": "web"}, weight=50)


def own(health: Health = Health.HEALTHY) -> dict[str, Node | Workload]:
    """Give what node web-1 with workload web says of itself."""
    return own_resources(
        node_config(WEB),
        trust_domain=TRUST_DOMAIN,
        tunnel_port=16008,
        boot_id="boot",
        version="1.2",
        health={"default/web": health},
    )


def records(health: Health = Health.HEALTHY) -> dict[str, bytes]:
    """Give the same as it is written."""
    return {key: render(resource) for key, resource in own(health).items()}


def test_records_are_what_readers_parse() -> None:
    """The node's record and its workloads are valid at their keys and say what was configured."""
    found = {key: parse_at(key, value) for key, value in records(Health.UNHEALTHY).items()}
    node = found[RECORD]
    assert isinstance(node, Node)
    assert (node.spec.address, node.spec.tunnel_port, node.spec.boot_id) == ("10.77.0.1", 16008, "boot")
    web = found["nodes/web-1/workloads/default/web"]
    assert isinstance(web, Workload)
    assert web.spec.identity == spiffe("web")
    assert web.spec.health is Health.UNHEALTHY
    assert web.spec.weight == 50
    assert web.metadata.labels == {"app": "web"}
    assert len(found) == 2


def test_status_is_what_readers_parse() -> None:
    """The status carries the applied revision, the rejections and when the certificate ends."""
    rejection = Rejection(key="services/a/b", reason="why", last_good_revision=3)
    (key, resource), *rest = own_status(
        "web-1",
        applied_revision=9,
        rejected=[rejection],
        certificate_expires=datetime(2030, 1, 1, tzinfo=UTC),
        in_use=Standing(frozenset({"r2", "r1"}), frozenset({"i"})),
        revoked=("the certificate is revoked",),
        workers=2,
    ).items()
    assert rest == []
    status = parse_at(key, render(resource))
    assert isinstance(status, NodeStatus)
    assert status.spec.applied_revision == 9
    assert status.spec.rejected == (rejection,)
    assert status.spec.certificate_expires == "2030-01-01T00:00:00Z"
    assert status.spec.workers == 2
    assert status.spec.trusted_roots == ("r1", "r2")
    assert status.spec.issuers == ("i",)
    assert status.spec.revoked == ("the certificate is revoked",)


def test_rejections_are_bounded() -> None:
    """However much of other nodes' is refused, the status stays small, and says how much it leaves out."""
    rejected = [Rejection(key=f"nodes/evil-1/workloads/default/w{n}", reason="no") for n in range(5000)]
    (status,) = own_status(
        "web-1",
        applied_revision=1,
        rejected=rejected,
        certificate_expires=None,
        in_use=Standing(),
        revoked=(),
        workers=1,
    ).values()
    assert (len(status.spec.rejected), status.spec.rejected[0]) == (256, rejected[0])
    assert "4745 more" in status.spec.rejected[-1].reason


def test_changes_are_the_difference() -> None:
    """What is the same is not written again, what is gone is deleted."""
    assert changes({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"1", "c": b"1"}, lease=7) == [
        Put("b", b"2", 7),
        Delete("c"),
    ]


def test_batches_are_complete_and_small() -> None:
    """However many workloads a node has, each transaction is one that etcd takes."""
    writes = [Put(str(i), b"") for i in range(2 * MAX_WRITES + 1)]
    some = list(batched(writes))
    assert [write for batch in some for write in batch] == writes
    assert max(len(batch) for batch in some) <= MAX_WRITES


class Registered:
    """A registration over a store in memory, with what it is to say."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.health = Health.HEALTHY
        self.revision = 1
        self.registration = Registration(store, lambda: own(self.health), self._status)

    def _status(self) -> dict[str, NodeStatus]:
        return own_status(
            "web-1",
            applied_revision=self.revision,
            rejected=(),
            certificate_expires=None,
            in_use=Standing(),
            revoked=(),
            workers=1,
        )

    def is_registered(self) -> bool:
        """Whether it says that it is registered."""
        return self.registration.registered

    async def stored(self) -> dict[str, bytes]:
        """Give what stands in the store."""
        return {item.key: item.value for item in (await self.store.list("nodes/")).items}

    async def applied(self) -> int:
        """Give the revision that the status in the store names."""
        status = parse_at(STATUS, (await self.stored())[STATUS])
        assert isinstance(status, NodeStatus)
        return status.spec.applied_revision

    async def writes(self) -> int:
        """Give the store's revision, which every write raises."""
        return (await self.store.list("")).revision


@pytest.fixture
async def node(memory_store: MemoryStore) -> Registered:
    return Registered(memory_store)


@asynccontextmanager
async def serving(node: Registered) -> AsyncIterator[None]:
    """Serve until the block ends, and be past the first writes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.registration.serve)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_registered_while_served(node: Registered, autojump_clock: MockClock) -> None:
    """Everything stands in the store while it is served, and nothing afterwards."""
    async with serving(node):
        assert node.is_registered()
        assert (await node.stored()).keys() == {*records(), STATUS}
    assert await node.stored() == {}
    assert not node.is_registered()


async def test_only_changes_are_written(node: Registered, autojump_clock: MockClock) -> None:
    """Looking again at unchanged records writes nothing."""
    async with serving(node):
        before = await node.writes()
        for _ in range(5):
            node.registration.refresh()
            await trio.sleep(1)
        assert await node.writes() == before
        node.health = Health.UNHEALTHY
        node.registration.refresh()
        await wait_all_tasks_blocked()
        assert await node.writes() == before + 1
        assert (await node.stored()).items() >= records(Health.UNHEALTHY).items()


async def test_status_is_written_at_most_once_a_second(node: Registered, autojump_clock: MockClock) -> None:
    """However fast revisions come, the store sees a status a second, and the last one in the end."""
    async with serving(node):
        await trio.sleep(STATUS_INTERVAL)
        before = await node.writes()
        for _ in range(100):
            node.revision += 1
            node.registration.refresh()
            await trio.sleep(STATUS_INTERVAL / 50)
        assert await node.writes() <= before + 3
        await trio.sleep(2 * STATUS_INTERVAL)
        assert await node.applied() == 101


async def test_health_does_not_wait_for_the_status(node: Registered, autojump_clock: MockClock) -> None:
    """A change of health is written at once, even when a status is being held back."""
    async with serving(node):
        node.revision += 1
        node.health = Health.UNHEALTHY
        node.registration.refresh()
        await wait_all_tasks_blocked()
        assert (await node.stored()).items() >= records(Health.UNHEALTHY).items()
        assert await node.applied() == 1
        await trio.sleep(2 * STATUS_INTERVAL)
        assert await node.applied() == 2


async def test_lost_lease_is_replaced(node: Registered, autojump_clock: MockClock) -> None:
    """When the store let the lease expire, the node registers anew."""
    async with serving(node):
        before = await node.stored()
        lease = (await node.store.get(RECORD)).lease  # type: ignore[union-attr]
        node.store.expire(lease)
        assert await node.stored() == {}
        await trio.sleep(LEASE_TTL)
        assert await node.stored() == before
        assert node.is_registered()


async def test_outage_delays_writes(node: Registered, autojump_clock: MockClock) -> None:
    """A change made while the store is away is written when it is back."""
    async with serving(node):
        with node.store.outage():
            node.health = Health.UNHEALTHY
            node.registration.refresh()
            await trio.sleep(30)
        await trio.sleep(5)
        assert (await node.stored()).items() >= records(Health.UNHEALTHY).items()


async def test_store_that_is_away_from_the_start(node: Registered, autojump_clock: MockClock) -> None:
    """A node that starts without the store registers as soon as it can."""
    async with trio.open_nursery() as nursery:
        with node.store.outage():
            nursery.start_soon(node.registration.serve)
            await trio.sleep(30)
            assert not node.is_registered()
        await trio.sleep(5)
        assert node.is_registered()
        nursery.cancel_scope.cancel()
