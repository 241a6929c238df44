"""What the store over etcd does where etcd has users."""

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import trio

from registry.errors import StoreForbidden
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd
from tests.contract.events import take, values, wait_progress
from tests.contract.gateway import Gateway
from tests.contract.servers import OwnEtcd, open_own_etcd

PREFIX = "/test/"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEtcd]:
    """Run an etcd whose tokens last a second."""
    with open_own_etcd(tmp_path_factory.mktemp("users"), "--auth-token-ttl=1") as etcd:
        trio.run(Gateway(etcd.endpoint).enable_users, "reader", "secret", f"{PREFIX}open/")
        yield etcd


@pytest.fixture
def root(etcd: OwnEtcd) -> EtcdConfig:
    """Give the configuration of one who may do everything."""
    return EtcdConfig(endpoints=(etcd.endpoint,), prefix=PREFIX, timeout=10, user="root", password="root")


async def test_right(root: EtcdConfig) -> None:
    """The right password opens the store."""
    async with open_etcd(root) as store:
        await store.put("a", b"1")
        async with store.hold_lease(5) as lease:
            await store.put("a", b"1", lease=lease.id)


async def test_wrong_password(root: EtcdConfig) -> None:
    """A wrong password is forbidden, for calls and for watches, and says so."""
    async with open_etcd(replace(root, password="guess")) as store:
        with trio.fail_after(20):
            with pytest.raises(StoreForbidden, match="password"):
                await store.get("a")
            async with aclosing(store.watch("", after=1)) as watch:
                with pytest.raises(StoreForbidden, match="password"):
                    await anext(watch)


async def test_nobody(root: EtcdConfig) -> None:
    """One who says no name where one is wanted is forbidden."""
    async with open_etcd(replace(root, user=None, password=None)) as store:
        with trio.fail_after(20):
            with pytest.raises(StoreForbidden, match="who we are"):
                await store.put("a", b"1")
            async with aclosing(store.watch("", after=1)) as watch:
                with pytest.raises(StoreForbidden):
                    await anext(watch)


async def test_denied(root: EtcdConfig) -> None:
    """One whose role does not reach is forbidden outside it, and served inside."""
    async with open_etcd(root) as writer:
        revision = await writer.put("open/a", b"1")
    async with open_etcd(replace(root, user="reader", password="secret")) as store:
        with trio.fail_after(20):
            assert len((await store.list("open/")).items) == 1
            async with aclosing(store.watch("open/", after=revision - 1)) as watch:
                assert values(await take(watch, 1)) == [b"1"]
            for call in (store.get("ca/keys/root"), store.put("open/a", b"2")):
                with pytest.raises(StoreForbidden, match="denies permission"):
                    await call
            async with aclosing(store.watch("ca/", after=revision)) as watch:
                with pytest.raises(StoreForbidden, match="denies permission"):
                    await anext(watch)


async def test_token_expires(root: EtcdConfig) -> None:
    """A token that has expired is replaced without the caller's noticing, for calls and for watches."""
    async with open_etcd(root) as store:
        revision = await store.put("a", b"1")
        # etcd looks for expired tokens every second.
        await trio.sleep(2.5)
        async with aclosing(store.watch("", after=revision)) as watch:
            await wait_progress(watch)
            await trio.sleep(2.5)
            assert await store.commit([], []) is not None


async def test_tokens_forgotten(etcd: OwnEtcd, root: EtcdConfig) -> None:
    """A restart that forgets all tokens interrupts nothing."""
    with trio.fail_after(60):
        async with open_etcd(root) as store:
            revision = await store.put("a", b"1")
            async with aclosing(store.watch("", after=revision)) as watch:
                await wait_progress(watch)
                await etcd.restart()
                await store.put("a", b"2")
                assert values(await take(watch, 1)) == [b"2"]


async def test_users_not_switched_on(etcd_endpoint: str, etcd_prefix: str) -> None:
    """A user and password do not hinder where etcd has no users yet."""
    config = EtcdConfig(endpoints=(etcd_endpoint,), prefix=etcd_prefix, user="root", password="root")
    async with open_etcd(config) as store:
        assert await store.put("a", b"1")
