import pytest
import trio
import trio.testing

from node_proxy.agent.quotas import QuotaBook
from node_proxy.agent.registration import LEASE_TTL
from registry.model.parse import render
from registry.model.quota import MAX_DEMANDS, NodeQuotas, NodeQuotasSpec
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.rules.limits.keys import mesh_name
from registry.store.base import Changed, KeyValue, Listing, Relisted, Removed
from registry.store.codec import parse_at
from registry.store.memory import MemoryStore
from tests.fakes.quota_nodes import ALL, LIMIT, RATE, Fleet, Node, snapshot


def said(node: str, demands: dict[str, float], *, at: str | None = None) -> KeyValue:
    """Give what a node has written."""
    resource = NodeQuotas(
        api_version=NODEMESH,
        kind=NodeQuotas.KIND,
        metadata=Metadata(name=node, namespace=ROOT_NAMESPACE),
        spec=NodeQuotasSpec(demands=demands),
    )
    return KeyValue(f"nodes/{at or node}/quotas", render(resource), 1, 1)


@pytest.fixture
def book() -> QuotaBook:
    """Give the book of node a, one of three."""
    made = QuotaBook("a")
    made.follow(snapshot("abc"))
    return made


def settle(book: QuotaBook, counts: dict[str, int], seconds: int = 20) -> None:
    """Let as much be asked for in every second, and say it."""
    for _ in range(seconds):
        book.take(counts)
        book.settle(1.0)
    book.said(book.wanted())


class TestBook:
    def test_even_while_nobody_has_said_anything(self, book: QuotaBook) -> None:
        """Before anything is known, three nodes have a third each."""
        assert book.shares(alone=False).shares == pytest.approx({LIMIT: 1 / 3, ALL: 1 / 3})

    def test_shares_follow_demand(self, book: QuotaBook) -> None:
        """A node gets what the others leave."""
        settle(book, {ALL: 200})
        book.observe(Changed(said("b", {ALL: 10})))
        share = book.shares(alone=False).shares[ALL]
        assert share == pytest.approx((100 - 10 * 1.05 - 100 * 0.05 / 3) / 100)

    def test_alone_the_share_is_even(self, book: QuotaBook) -> None:
        """Without the store every node takes an even share, whatever was said last."""
        settle(book, {ALL: 200})
        assert book.shares(alone=True).shares == pytest.approx({LIMIT: 1 / 3})

    def test_only_those_who_serve_count(self, book: QuotaBook) -> None:
        """A node without a workload of the service takes nothing by saying that it is asked."""
        before = book.shares(alone=False)
        book.observe(Changed(said("z", {ALL: 1e9})))
        assert book.shares(alone=False) == before

    def test_a_liar_gets_no_more_than_its_part(self, book: QuotaBook) -> None:
        """Who claims to be asked for everything leaves the others what is fair."""
        settle(book, {ALL: 200})
        for node in "bc":
            book.observe(Changed(said(node, {ALL: 1e12})))
        assert book.shares(alone=False).shares[ALL] == pytest.approx(1 / 3)

    def test_each_key_has_shares_of_its_own(self, book: QuotaBook) -> None:
        """A caller that comes here alone has all of its limit here, though others are busy elsewhere."""
        mine, theirs = mesh_name(LIMIT, "x"), mesh_name(LIMIT, "y")
        settle(book, {mine: 200})
        book.observe(Changed(said("b", {theirs: 200})))
        assert book.shares(alone=False).shares[mine] > 0.95

    def test_who_is_gone_leaves_its_share(self, book: QuotaBook) -> None:
        """What a node has said counts no more once its record is gone, by itself or from a full listing."""
        settle(book, {ALL: 200})
        book.observe(Changed(said("b", {ALL: 200})))
        busy = book.shares(alone=False).shares[ALL]
        book.observe(Removed("nodes/b/quotas", 2))
        assert book.shares(alone=False).shares[ALL] > 1.5 * busy
        book.observe(Changed(said("b", {ALL: 200})))
        book.observe(Relisted(Listing((said("c", {ALL: 200}),), 3)))
        assert book.shares(alone=False).shares[ALL] == pytest.approx(busy)

    @pytest.mark.parametrize(
        "item",
        [
            KeyValue("nodes/b/quotas", b"{", 1, 2),
            said("b", {ALL: 50}, at="c"),
            KeyValue("nodes/b/record", said("b", {ALL: 50}).value, 1, 2),
        ],
    )
    def test_what_is_no_word_of_a_node_does_not_count(self, book: QuotaBook, item: KeyValue) -> None:
        """A value that does not parse, or says another node than its key, changes nothing."""
        before = book.shares(alone=False)
        book.observe(Changed(item))
        assert book.shares(alone=False) == before

    def test_a_bad_value_takes_back_the_good_one(self, book: QuotaBook) -> None:
        """A node whose newest word cannot be read is asked for nothing, as far as anybody knows."""
        settle(book, {ALL: 200})
        before = book.shares(alone=False)
        book.observe(Changed(said("b", {ALL: 200})))
        book.observe(Changed(KeyValue("nodes/b/quotas", b"{", 1, 2)))
        assert book.shares(alone=False) == before

    def test_small_changes_are_not_written(self, book: QuotaBook) -> None:
        """A demand that sways by some percent is written once."""
        settle(book, {ALL: 200})
        first = book.wanted()
        for count in (195, 205, 199):
            book.take({ALL: count})
            book.settle(1.0)
            assert book.wanted() is first
        settle(book, {ALL: 300})
        assert book.wanted()[ALL] == pytest.approx(300, rel=0.01)

    def test_what_is_over_is_forgotten(self, book: QuotaBook) -> None:
        """A count that nobody asks for any more is said no more."""
        settle(book, {ALL: 200})
        settle(book, {}, seconds=60)
        assert book.wanted() == {}

    def test_a_limit_that_is_gone_is_forgotten(self, book: QuotaBook) -> None:
        """Counts of a limit that is no longer shared are neither said nor shared."""
        settle(book, {ALL: 200})
        book.follow(snapshot("abc", scope="Node"))
        assert book.shares(alone=False).shares == {}, "at once, not when the interval ends"
        book.take({ALL: 200})
        book.settle(1.0)
        assert book.wanted() == {}
        assert book.shares(alone=False).shares == {}

    def test_a_node_says_the_most_asked_for(self, book: QuotaBook) -> None:
        """Of more keys than are written, the busiest are, and the value is one that others accept."""
        counts = {mesh_name(LIMIT, str(number)): number + 1 for number in range(MAX_DEMANDS * 2)}
        settle(book, counts)
        wanted = book.wanted()
        assert set(wanted) == {
            mesh_name(LIMIT, str(number)) for number in range(MAX_DEMANDS, 2 * MAX_DEMANDS)
        }
        item = said("a", wanted)
        assert isinstance(parse_at(item.key, item.value), NodeQuotas)

    def test_many_nodes_write_less_often(self) -> None:
        """All nodes together write ten times a second at most."""
        book = QuotaBook("a")
        book.follow(snapshot([f"n{number}" for number in range(200)]))
        assert book.interval >= 20.0

    def test_a_node_that_serves_counts_itself(self) -> None:
        """A node whose own workload is no endpoint yet is one of those that share."""
        book = QuotaBook("a")
        book.follow(snapshot("bc"))
        assert book.shares(alone=True).shares[LIMIT] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((200.0, 200.0, 200.0), (33, 33, 33)),
        ((300.0, 0.0, 0.0), (100, 0, 0)),
        ((300.0, 20.0, 0.0), (80, 20, 0)),
        ((60.0, 60.0, 5.0), (47, 47, 5)),
        ((30.0, 30.0, 20.0), (30, 30, 20)),
    ],
)
async def test_one_limit_over_three_nodes(
    autojump_clock: trio.testing.MockClock,
    memory_store: MemoryStore,
    rates: tuple[float, ...],
    expected: tuple[int, ...],
) -> None:
    """However requests come to three nodes, together they let through what the limit does, within 10 %."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet([Node(name, memory_store) for name in "abc"], nursery)
        await fleet.begin()
        found = await fleet.passed(rates, warm=6.0, seconds=30.0)
        nursery.cancel_scope.cancel()
    assert sum(found) == pytest.approx(min(RATE, sum(rates)), rel=0.1)
    assert found == pytest.approx(expected, abs=6)


async def test_demand_that_moves(autojump_clock: trio.testing.MockClock, memory_store: MemoryStore) -> None:
    """When all requests move from one node to another, the limit holds meanwhile and moves with them."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet([Node(name, memory_store) for name in "abc"], nursery)
        await fleet.begin()
        assert sum(await fleet.passed((300, 0, 0), warm=6.0, seconds=10.0)) == pytest.approx(RATE, rel=0.1)
        moved = await fleet.passed((0, 300, 0), warm=0.0, seconds=10.0)
        settled = await fleet.passed((0, 300, 0), warm=0.0, seconds=10.0)
        nursery.cancel_scope.cancel()
    # Beside the limit there is the burst that the second node has kept.
    assert sum(moved) <= RATE * 1.2
    assert settled[1] == pytest.approx(RATE, rel=0.1)


async def test_without_the_store(autojump_clock: trio.testing.MockClock, memory_store: MemoryStore) -> None:
    """When the store is away, each node falls back to an even share, and the limit still holds."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet([Node(name, memory_store) for name in "abc"], nursery)
        await fleet.begin()
        await fleet.passed((300, 20, 0), warm=6.0, seconds=10.0)
        with memory_store.outage():
            lost = await fleet.passed((300, 20, 0), warm=LEASE_TTL + 5.0, seconds=10.0)
            full = await fleet.passed((300, 300, 300), warm=5.0, seconds=10.0)
        nursery.cancel_scope.cancel()
    assert lost == pytest.approx([RATE / 3, 20, 0], abs=3)
    assert sum(full) == pytest.approx(RATE, rel=0.1)


async def test_nothing_is_written_where_nothing_is_shared(
    autojump_clock: trio.testing.MockClock, memory_store: MemoryStore
) -> None:
    """A node without shared limits, or whom nobody asks, writes nothing."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet([Node(name, memory_store) for name in "abc"], nursery)
        await fleet.begin()
        await trio.sleep(30)
        assert (await memory_store.list("nodes/")).items == ()
        nursery.cancel_scope.cancel()
