"""The stores under contract, and real etcds that a test may break."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from registry.store.base import Store
from registry.store.config import EtcdConfig
from registry.store.etcd import open_etcd
from registry.store.memory import MemoryStore
from tests.contract.gateway import Gateway
from tests.contract.servers import OwnEtcd, open_own_etcd


@dataclass(frozen=True)
class Subject:
    """A store, and the faults of its server that both kinds have."""

    store: Store
    compact: Callable[[int], Awaitable[None]]
    expire: Callable[[int], Awaitable[None]]


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEtcd]:
    """Run an etcd that the contract's tests may compact."""
    with open_own_etcd(tmp_path_factory.mktemp("contract")) as etcd:
        yield etcd


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[OwnEtcd]:
    """Run an etcd that this test alone uses, and may break."""
    with open_own_etcd(tmp_path) as etcd:
        yield etcd


@pytest.fixture(params=["memory", "etcd"])
def endpoint(request: pytest.FixtureRequest) -> str | None:
    """Give where the etcd is; None for the store in memory."""
    return None if request.param == "memory" else request.getfixturevalue("shared_etcd").endpoint


@pytest.fixture
async def subject(endpoint: str | None, etcd_prefix: str) -> AsyncIterator[Subject]:
    """Give each kind of store in turn."""
    if endpoint is None:
        memory = MemoryStore()

        async def compact(revision: int) -> None:
            await trio.lowlevel.checkpoint()
            memory.compact(revision)

        async def expire(lease: int) -> None:
            await trio.lowlevel.checkpoint()
            memory.expire(lease)

        yield Subject(memory, compact, expire)
    else:
        gateway = Gateway(endpoint)
        async with open_etcd(EtcdConfig(endpoints=(endpoint,), prefix=etcd_prefix)) as store:
            yield Subject(store, gateway.compact, gateway.revoke)


@pytest.fixture
def store(subject: Subject) -> Store:
    """Give each kind of store in turn, for tests that break nothing."""
    return subject.store
