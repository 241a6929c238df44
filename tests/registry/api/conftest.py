from collections.abc import AsyncIterator

import httpx
import pytest

from registry.api.app import create_app
from registry.api.auth import new_administrator
from registry.ca.authority import Authority
from registry.store.memory import MemoryStore
from tests.registry.ca.material import SetClock, found_authority


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def authority(store: MemoryStore, clock: SetClock) -> Authority:
    return await found_authority(store, clock)


@pytest.fixture
async def anyone(
    store: MemoryStore, authority: Authority, clock: SetClock
) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that shows no token."""
    app = create_app(store=store, authority=authority, clock=clock)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://registry.test") as client:
        yield client


@pytest.fixture
async def admin(anyone: httpx.AsyncClient, store: MemoryStore) -> httpx.AsyncClient:
    """Give a client that shows an administrator's token."""
    token, write = new_administrator("alice")
    await store.put(write.key, write.value)
    anyone.headers["authorization"] = f"Bearer {token}"
    return anyone
