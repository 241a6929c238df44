"""What a node can and cannot do to an etcd that is locked down, with credentials of its own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from registry.errors import StoreForbidden
from registry.model.identity import NodeIdentity
from registry.store.accounts import MAX_USER, NoAccounts, user_name
from registry.store.base import Changed, Delete, KeyIs, Put, list_all
from registry.store.codec import ENFORCED_PREFIXES
from registry.store.etcd import EtcdStore, open_etcd
from tests.contract.events import take, values
from tests.contract.locked import PREFIX, LockedEtcd, open_locked_etcd

SECRET = ("ca/keys/root", "tokens/t1", "administrators/admin", "leader/controller", "ca/rotation")
SHARED = ("mesh", "services/default/api", "enrolments/web-1", "ca/bundle", "status/services/default/api")
FOREIGN = ("nodes/web-2/record", "nodes/web-2/workloads/default/api", "nodes/web-10/record", "nodes/web-1")


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedEtcd]:
    """Run an etcd that is locked down."""
    with open_locked_etcd(tmp_path_factory.mktemp("locked")) as etcd:
        yield etcd


@pytest.fixture
async def root(etcd: LockedEtcd) -> AsyncIterator[EtcdStore]:
    """Give the store as the registry has it, with something at every key, and two nodes admitted."""
    async with open_etcd(etcd.root) as store:
        for key in (*SECRET, *SHARED, *FOREIGN):
            await store.put(key, b"1")
        await store.accounts.keep(["web-1", "web-2"])
        yield store


@pytest.fixture
async def node(etcd: LockedEtcd, root: EtcdStore) -> AsyncIterator[EtcdStore]:
    """Give the store as node web-1 has it."""
    async with open_etcd(etcd.node("web-1")) as store:
        yield store


async def refused(call: Callable[[], Awaitable[object]]) -> None:
    with trio.fail_after(20), pytest.raises(StoreForbidden):
        await call()


class TestMay:
    async def test_its_own_folder(self, node: EtcdStore) -> None:
        """A node writes its record and workloads under a lease, and reads them."""
        async with node.hold_lease(5) as lease:
            writes = [Put("nodes/web-1/record", b"1", lease.id), Put("nodes/web-1/status", b"1", lease.id)]
            assert await node.commit([], writes) is not None
            assert len((await node.list("nodes/web-1/")).items) == 2

    async def test_read_what_it_enforces(self, node: EtcdStore) -> None:
        """A node lists and watches every folder that it acts on, in one watch."""
        listing = await list_all(node, ENFORCED_PREFIXES)
        assert {item.key for item in listing.items} >= {*SHARED, "nodes/web-2/record"}
        async with aclosing(node.watch(*ENFORCED_PREFIXES, after=listing.revision)) as watch:
            await node.put("nodes/web-1/record", b"2")
            (event,) = await take(watch, 1)
            assert isinstance(event, Changed)
            assert event.item.key == "nodes/web-1/record"


class TestMayNot:
    @pytest.mark.parametrize("key", SECRET)
    async def test_read_secrets(self, node: EtcdStore, key: str) -> None:
        """A node cannot read signing keys, tokens, administrators or who leads."""
        await refused(lambda: node.get(key))
        await refused(lambda: node.list(key.partition("/")[0] + "/"))

    @pytest.mark.parametrize("key", [*SECRET, *SHARED, *FOREIGN])
    async def test_write(self, node: EtcdStore, key: str) -> None:
        """A node cannot write or delete anything outside its own folder."""
        await refused(lambda: node.put(key, b"2"))
        await refused(lambda: node.delete(key))
        await refused(lambda: node.commit([], [Put(key, b"2")]))

    @pytest.mark.parametrize("prefix", ["", "c", "ca/", "nodes", "t", "m"])
    async def test_read_across(self, node: EtcdStore, prefix: str) -> None:
        """A node cannot read a range that reaches beyond what it may read, nor watch one."""
        await refused(lambda: node.list(prefix))

        async def watch() -> None:
            async with aclosing(node.watch(prefix, after=1)) as events:
                await anext(events)

        await refused(watch)

    async def test_watch_one_secret_among_many(self, node: EtcdStore) -> None:
        """A watch of many folders, one of them secret, is refused as a whole."""

        async def watch() -> None:
            async with aclosing(node.watch(*ENFORCED_PREFIXES, "ca/keys/", after=1)) as events:
                async for event in events:
                    assert not isinstance(event, Changed) or not event.item.key.startswith("ca/keys")

        await refused(watch)

    @pytest.mark.parametrize("key", SECRET)
    async def test_ask_by_condition(self, node: EtcdStore, key: str) -> None:
        """A transaction's condition tells nothing of a key that may not be read."""
        await refused(lambda: node.commit([KeyIs(key, 0)], [Put("nodes/web-1/record", b"x")]))
        await refused(lambda: node.commit([KeyIs(key, 0)], []))

    async def test_smuggle(self, node: EtcdStore, root: EtcdStore) -> None:
        """A transaction with one write that is forbidden does none of its writes."""
        await node.put("nodes/web-1/record", b"before")
        for smuggled in (Put("enrolments/web-1", b"2"), Delete("ca/bundle"), Put("nodes/web-2/record", b"2")):
            writes = (Put("nodes/web-1/record", b"after"), smuggled)
            await refused(lambda writes=writes: node.commit([], writes))  # type: ignore[misc]
        found = await root.get("nodes/web-1/record")
        assert found is not None
        assert found.value == b"before"

    async def test_end_anothers_lease(self, etcd: LockedEtcd, node: EtcdStore) -> None:
        """A node cannot end the lease that another node's record hangs on."""
        async with open_etcd(etcd.node("web-2")) as other, other.hold_lease(5) as lease:
            await other.put("nodes/web-2/record", b"1", lease=lease.id)
            await refused(lambda: node._revoke(lease.id))
            assert await other.get("nodes/web-2/record") is not None

    @pytest.mark.parametrize("name", ["web-3", "root", "admin"])
    async def test_change_accounts(self, node: EtcdStore, name: str) -> None:
        """A node cannot make users, or give roles to itself."""
        await refused(lambda: node.accounts.admit(name))
        await refused(lambda: node.accounts.expel("web-2"))
        await refused(lambda: node.accounts.keep([]))


class TestWho:
    async def test_a_tunnels_certificate(self, etcd: LockedEtcd, root: EtcdStore) -> None:
        """A certificate of an identity, which workers and workloads may come by, is no etcd user's."""
        signer = etcd.mesh.leaf(NodeIdentity(etcd.mesh.trust_domain, "web-1"), node="web-1")
        async with open_etcd(etcd.with_chain(signer.key, signer.chain)) as store:
            await refused(lambda: store.get("mesh"))

    @pytest.mark.parametrize("name", ["node:web-3", "nobody"])
    async def test_unknown_user(self, etcd: LockedEtcd, root: EtcdStore, name: str) -> None:
        """A certificate for a user that does not exist opens nothing."""
        async with open_etcd(etcd.holder(name)) as store:
            await refused(lambda: store.get("mesh"))

    async def test_expelled(self, etcd: LockedEtcd, root: EtcdStore) -> None:
        """A node that is expelled can do nothing from that moment, with the certificate it has."""
        await root.accounts.admit("gone-1")
        async with open_etcd(etcd.node("gone-1")) as store:
            await store.put("nodes/gone-1/record", b"1")
            await root.accounts.expel("gone-1")
            await refused(lambda: store.put("nodes/gone-1/record", b"2"))

    async def test_users_change_meanwhile(self, node: EtcdStore, root: EtcdStore) -> None:
        """Nodes that join disturb neither the calls nor the watches of those that have."""
        revision = await node.put("nodes/web-1/record", b"0")
        async with aclosing(node.watch("nodes/", after=revision)) as watch:
            for number in range(5):
                await root.accounts.admit(f"new-{number}")
                await node.put("nodes/web-1/record", str(number).encode())
            assert values(await take(watch, 5)) == [b"0", b"1", b"2", b"3", b"4"]

    async def test_kept(self, etcd: LockedEtcd, root: EtcdStore) -> None:
        """Users follow the enrolments: who is missing is made, who is left over goes."""
        await root.accounts.admit("left-over")
        for _ in range(2):
            await root.accounts.keep(["web-1", "web-2", "late-1"])
        async with open_etcd(etcd.node("late-1")) as store:
            await store.get("mesh")
        async with open_etcd(etcd.node("left-over")) as store:
            await refused(lambda: store.get("mesh"))

    async def test_joining_meanwhile(self, etcd: LockedEtcd, root: EtcdStore) -> None:
        """A node whose user was made just before its enrolment keeps it, though a pass did not know."""
        await root.accounts.admit("joining")
        await root.accounts.keep(["web-1", "web-2"])
        async with open_etcd(etcd.node("joining")) as store:
            await store.get("mesh")


async def test_reconnect(etcd: LockedEtcd, root: EtcdStore) -> None:
    """After a renewal the store speaks with the new certificate, and a watch goes on."""
    config = etcd.node("web-1")
    assert config.cert is not None
    async with open_etcd(config) as store, trio.open_nursery() as nursery:
        revision = await store.put("nodes/web-1/record", b"0")
        async with aclosing(store.watch("nodes/", after=revision)) as watch:
            renewed = etcd.node("web-2")
            assert renewed.cert is not None
            config.cert.write_bytes(renewed.cert.read_bytes())
            nursery.start_soon(store.reconnect, config)
            await wait_all_tasks_blocked()
            await store.put("nodes/web-2/record", b"new")
            await refused(lambda: store.put("nodes/web-1/record", b"old"))
            assert values(await take(watch, 1)) == [b"new"]
            nursery.cancel_scope.cancel()


async def test_enabled(root: EtcdStore, node: EtcdStore, etcd_store: EtcdStore) -> None:
    """Whether etcd has users is known without being one, and where it has none."""
    assert await root.accounts.enabled()
    assert await node.accounts.enabled()
    assert not await etcd_store.accounts.enabled()


async def test_kept_where_users_are_not_enabled(etcd_store: EtcdStore) -> None:
    """Users are kept before they are enabled, so that enabling them is all there is to do."""
    await etcd_store.accounts.keep(["web-1"])
    await etcd_store.accounts.expel("web-1")


@pytest.mark.parametrize("name", ["a", "n" * 59, "n" * 60, "n" * 63])
def test_names_fit(name: str) -> None:
    """Every node's user has a name that a certificate can carry, under any prefix, and none the same."""
    names = {user_name(name, prefix) for prefix in (PREFIX, "/other/")}
    assert (len(names), max(map(len, names)) <= MAX_USER) == (2, True)


def test_long_names_differ() -> None:
    """Long names that begin alike are different users."""
    assert user_name("n" * 62 + "a", PREFIX) != user_name("n" * 62 + "b", PREFIX)


async def test_no_accounts() -> None:
    """Where accounts are not ours, nothing is asked of anyone."""
    accounts = NoAccounts()
    await accounts.admit("web-1")
    await accounts.keep(["web-1"])
    await accounts.expel("web-1")
    assert (await accounts.enabled(), accounts.user_of("web-1")) == (None, "node:web-1")
