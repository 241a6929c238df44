from collections.abc import AsyncIterator

import pytest

from registry.store.memory import MemoryStore
from tests.node_proxy.agent.real_registry import RealRegistry, serving_registry


@pytest.fixture
async def registry(memory_store: MemoryStore) -> AsyncIterator[RealRegistry]:
    """Serve a real registry over the store in memory."""
    async with serving_registry(memory_store) as served:
        yield served
