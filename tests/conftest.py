"""Fixtures for every level: one real etcd a run, a prefix of its own for each test."""

import uuid
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest

from registry.etcd_server import EtcdPlan, find_etcd, free_ports, start_etcd, stop_etcd, wait_healthy
from registry.store.config import EtcdConfig
from registry.store.etcd import EtcdStore, open_etcd
from registry.store.memory import MemoryStore

# The machines that run this are shared: how long one example takes says nothing about the code.
hypothesis.settings.register_profile("nodemesh", deadline=None)
hypothesis.settings.load_profile("nodemesh")


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdPlan]:
    """Run one real etcd for the whole run; not to be stopped, compacted or given users by a test."""
    client_port, peer_port = free_ports(2)
    plan = EtcdPlan(
        binary=find_etcd(),
        data_dir=tmp_path_factory.mktemp("etcd"),
        client_port=client_port,
        peer_port=peer_port,
    )
    process = start_etcd(plan)
    try:
        wait_healthy(plan, process)
        yield plan
    finally:
        stop_etcd(process)


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_server: EtcdPlan) -> str:
    """Give ``host:port`` of the run's etcd."""
    return etcd_server.endpoint


@pytest.fixture
def etcd_prefix() -> str:
    """Give a prefix that no other test has."""
    return f"/test/{uuid.uuid4().hex}/"


@pytest.fixture
async def etcd_store(etcd_endpoint: str, etcd_prefix: str) -> AsyncIterator[EtcdStore]:
    """Open the run's etcd, below this test's prefix."""
    async with open_etcd(EtcdConfig(endpoints=(etcd_endpoint,), prefix=etcd_prefix)) as store:
        yield store


@pytest.fixture
def memory_store() -> MemoryStore:
    """Give an empty store in memory."""
    return MemoryStore()
