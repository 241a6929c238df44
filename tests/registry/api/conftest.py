from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette

from registry.api.app import create_app
from registry.api.auth import new_administrator
from registry.ca.authority import Authority
from registry.store.memory import MemoryStore
from tests.registry.api.mesh import found_mesh
from tests.registry.ca.material import SetClock


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def authority(store: MemoryStore, clock: SetClock) -> Authority:
    return await found_mesh(store, clock)


@pytest.fixture
def app(store: MemoryStore, authority: Authority, clock: SetClock) -> Starlette:
    return create_app(store=store, authority=authority, clock=clock)


@pytest.fixture
async def anyone(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that shows no token."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://registry.test") as client:
        yield client


@pytest.fixture
async def admin(
    anyone: httpx.AsyncClient, store: MemoryStore, authority: Authority, clock: SetClock
) -> httpx.AsyncClient:
    """Give a client that shows an administrator's token."""
    token, write = new_administrator("alice", now=clock())
    await store.put(write.key, authority.sign_resource(write.key, write.value))
    anyone.headers["authorization"] = f"Bearer {token}"
    return anyone
