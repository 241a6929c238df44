from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.agent.decisions import COUNTS_INTERVAL, PUBLISH_INTERVAL, DecisionBook, DecisionPublisher
from node_proxy.control import Decided
from registry.model.decision import MAX_DECISIONS, MAX_IDS, DecisionRecord, NodeDecisions, Outcome
from registry.model.parse import render
from registry.store.codec import parse_at
from registry.store.memory import MemoryStore
from tests.node_proxy.agent.documents import spiffe

KEY = "nodes/web-1/decisions"
START = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


class Wall:
    """A wall clock in the test's hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        """Give the time."""
        return self.now


def decided(
    *ids: str,
    outcome: Outcome = Outcome.DENIED,
    port: int = 8080,
    destination: str = "default/api",
    count: int = 1,
    ago: float = 0.0,
) -> Decided:
    """Give what a worker tells of calls by web."""
    return Decided(
        outcome=outcome,
        reason="denied" if outcome is Outcome.DENIED else "permitted",
        policy="default/p",
        source=spiffe("web"),
        source_ip="10.77.0.2",
        remote_ip="",
        destination_ip="10.77.0.1",
        sni="",
        destination=destination,
        port=port,
        count=count,
        first_ago=ago,
        last_ago=ago,
        ids=ids,
    )


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def book(wall: Wall) -> DecisionBook:
    return DecisionBook("web-1", wall)


def records(book: DecisionBook) -> tuple[DecisionRecord, ...]:
    """Give what the book would write, as a reader of the store parses it."""
    resource = parse_at(KEY, render(book.resource()))
    assert isinstance(resource, NodeDecisions)
    return resource.spec.decisions


class TestBook:
    def test_workers_are_merged(self, book: DecisionBook, wall: Wall) -> None:
        """What several workers decided alike is one entry: summed, from the first to the last time."""
        book.take([decided("a-0", count=3, ago=10.0)])
        wall.now += timedelta(seconds=30)
        book.take([decided("b-0", count=2, ago=1.0)])
        (record,) = records(book)
        assert (record.count, record.ids) == (5, ("a-0", "b-0"))
        assert (record.first_seen, record.last_seen) == ("2030-01-01T11:59:50Z", "2030-01-01T12:00:29Z")

    def test_newest_first(self, book: DecisionBook) -> None:
        """What was decided last stands first."""
        book.take([decided("a", port=1), decided("b", port=2)])
        book.take([decided("c", port=1)])
        assert [record.port for record in records(book)] == [1, 2]

    def test_bounded(self, book: DecisionBook) -> None:
        """No more sorts are kept than a reader takes, and of each no more ids."""
        book.take([decided("x", port=port) for port in range(1, MAX_DECISIONS + 10)])
        for number in range(2 * MAX_IDS):
            book.take([decided(f"id-{number}", port=5000)])
        found = records(book)
        assert len(found) == len(book) == MAX_DECISIONS
        assert found[0].ids == tuple(f"id-{number}" for number in range(MAX_IDS, 2 * MAX_IDS))

    def test_last_id_of_permits(self, book: DecisionBook) -> None:
        """Of permits the last id is kept."""
        book.take([decided("a", outcome=Outcome.PERMITTED)])
        book.take([decided("b", outcome=Outcome.PERMITTED)])
        assert records(book)[0].ids == ("b",)

    def test_ports_of_nobody_are_one(self, book: DecisionBook) -> None:
        """Refusals of ports that no workload has are one entry, with the port asked last."""
        book.take([decided("a", port=1, destination="")])
        book.take([decided("b", port=2, destination="")])
        (record,) = records(book)
        assert (record.port, record.count) == (2, 2)


@pytest.fixture
async def store(memory_store: MemoryStore) -> MemoryStore:
    return memory_store


class Publishing:
    """Decisions being published, seen through the store."""

    def __init__(self, store: MemoryStore, book: DecisionBook) -> None:
        self.store = store
        self.book = book

    async def count(self) -> int:
        """Give the count of the newest entry in the store, 0 while nothing is written."""
        await wait_all_tasks_blocked()
        item = await self.store.get(KEY)
        if item is None:
            return 0
        resource = parse_at(KEY, item.value)
        assert isinstance(resource, NodeDecisions)
        return resource.spec.decisions[0].count


@pytest.fixture
async def publishing(store: MemoryStore, book: DecisionBook, nursery: trio.Nursery) -> Publishing:
    publisher = DecisionPublisher(store, "web-1", book)

    async def hold() -> None:
        async with store.hold_lease(10) as lease:
            await publisher.keep_written(lease)

    nursery.start_soon(hold)
    await wait_all_tasks_blocked()
    return Publishing(store, book)


class TestPublisher:
    async def test_first_decision_is_written_at_once(self, publishing: Publishing) -> None:
        """A node that has decided nothing writes nothing; its first decision is there at once, leased."""
        assert await publishing.count() == 0
        publishing.book.take([decided("a")])
        assert await publishing.count() == 1
        item = await publishing.store.get(KEY)
        assert item is not None
        assert item.lease

    async def test_denials_wait_for_the_interval(
        self, publishing: Publishing, autojump_clock: MockClock
    ) -> None:
        """More denials come with the next write, which is not before its time."""
        publishing.book.take([decided("a")])
        assert await publishing.count() == 1
        publishing.book.take([decided("b")])
        await trio.sleep(PUBLISH_INTERVAL - 0.1)
        assert await publishing.count() == 1
        await trio.sleep(0.2)
        assert await publishing.count() == 2

    async def test_counts_of_permits_come_seldom(
        self, publishing: Publishing, autojump_clock: MockClock
    ) -> None:
        """A node at work, whose calls are all as before, does not write every few seconds."""
        publishing.book.take([decided("a", outcome=Outcome.PERMITTED)])
        assert await publishing.count() == 1
        publishing.book.take([decided("b", outcome=Outcome.PERMITTED)])
        await trio.sleep(COUNTS_INTERVAL - 0.1)
        assert await publishing.count() == 1
        await trio.sleep(0.2)
        assert await publishing.count() == 2

    async def test_a_denial_brings_the_counts_along(
        self, publishing: Publishing, autojump_clock: MockClock
    ) -> None:
        """A denial among permits is written within the short interval."""
        publishing.book.take([decided("a", outcome=Outcome.PERMITTED)])
        await publishing.count()
        await trio.sleep(2 * PUBLISH_INTERVAL)
        publishing.book.take([decided("c")])
        assert await publishing.count() == 1
        item = await publishing.store.get(KEY)
        assert item is not None
        assert b'"denied"' in item.value

    async def test_store_away(
        self, publishing: Publishing, store: MemoryStore, autojump_clock: MockClock
    ) -> None:
        """While the store is away the decisions wait."""
        with store.outage():
            publishing.book.take([decided("a")])
            await trio.sleep(30)
        await trio.sleep(2)
        assert await publishing.count() == 1
