from collections.abc import AsyncIterator

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.agent.discovery import PROBE, Discovery
from node_proxy.agent.state import MeshState
from registry.model.parse import render
from registry.model.service import Service
from registry.store.memory import MemoryStore
from tests.node_proxy.agent.documents import BAD, TRUST_DOMAIN, service

API = "services/default/api"


class Following:
    """A discovery that follows a store in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self.state = MeshState(trust_domain=TRUST_DOMAIN)
        self.changes = 0
        self.discovery = Discovery(store, self.state, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def stale_since(self) -> float | None:
        """Give since when the store is away."""
        return self.discovery.stale_since

    def services(self) -> dict[str, Service]:
        """Give the services in force."""
        return dict(self.state.of(Service))


@pytest.fixture
async def following(memory_store: MemoryStore) -> AsyncIterator[Following]:
    """Follow the store for the length of the test."""
    found = Following(memory_store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.discovery.follow)
        yield found
        nursery.cancel_scope.cancel()


async def test_lists_then_watches(
    memory_store: MemoryStore, following: Following, autojump_clock: MockClock
) -> None:
    """What was there and what comes later are both in force."""
    await memory_store.put(API, render(service()))
    await following.discovery.wait_listed()
    await wait_all_tasks_blocked()
    assert following.services() == {API: service()}
    await memory_store.put(API, render(service(port=81)))
    await wait_all_tasks_blocked()
    assert following.services() == {API: service(port=81)}
    await memory_store.delete(API)
    await wait_all_tasks_blocked()
    assert following.services() == {}
    assert following.state.revision == 4


async def test_other_writes_wake_nobody(
    memory_store: MemoryStore, following: Following, autojump_clock: MockClock
) -> None:
    """Other nodes' status reports cost no new snapshot."""
    await following.discovery.wait_listed()
    before = following.changes
    await memory_store.put("nodes/api-1/status", b"{}")
    await wait_all_tasks_blocked()
    assert following.changes == before


async def test_rejection_is_logged_once(
    memory_store: MemoryStore, following: Following, autojump_clock: MockClock
) -> None:
    """A bad edit is one line in the log, with key, reason and what stays in force."""
    await following.discovery.wait_listed()
    revision = await memory_store.put(API, render(service()))
    with capture_logs() as logs:
        await memory_store.put(API, BAD)
        await memory_store.put("services/default/web", render(service("web")))
        await wait_all_tasks_blocked()
    (line,) = logs
    assert line["event"] == "resource rejected"
    assert line["key"] == API
    assert line["last_good_revision"] == revision


async def test_outage_leaves_the_state(
    memory_store: MemoryStore, following: Following, autojump_clock: MockClock
) -> None:
    """While the store is away nothing changes but the age; afterwards what was missed is caught up."""
    await memory_store.put(API, render(service()))
    await following.discovery.wait_listed()
    await wait_all_tasks_blocked()
    assert following.stale_since() is None
    with memory_store.outage():
        await trio.sleep(60)
        assert following.services() == {API: service()}
        since = following.stale_since()
        assert since is not None
        assert 60 <= trio.current_time() - since <= 60 + PROBE
    await memory_store.put(API, render(service(port=81)))
    await trio.sleep(2 * PROBE)
    assert following.stale_since() is None
    assert following.services() == {API: service(port=81)}


async def test_compaction_while_away(
    memory_store: MemoryStore, following: Following, autojump_clock: MockClock
) -> None:
    """History that was compacted while the store was away is made good by listing."""
    await memory_store.put(API, render(service()))
    await following.discovery.wait_listed()
    with memory_store.outage():
        await trio.sleep(1)
    for port in range(81, 90):
        revision = await memory_store.put(API, render(service(port=port)))
    memory_store.compact(revision)
    await trio.sleep(1)
    assert following.services() == {API: service(port=89)}


async def test_store_that_is_away_from_the_start(
    memory_store: MemoryStore, autojump_clock: MockClock
) -> None:
    """An agent that starts without the store is stale from its start and lists as soon as it can."""
    following = Following(memory_store)
    await memory_store.put(API, render(service()))
    async with trio.open_nursery() as nursery:
        with memory_store.outage():
            nursery.start_soon(following.discovery.follow)
            await trio.sleep(10)
            assert following.stale_since() == 0
            assert following.changes == 0
        await following.discovery.wait_listed()
        await wait_all_tasks_blocked()
        assert following.stale_since() is None
        assert following.services() == {API: service()}
        nursery.cancel_scope.cancel()
