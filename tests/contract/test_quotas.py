"""One limit over several nodes, in every store and in real time."""

import pytest
import trio

from registry.store.base import Store
from tests.fakes.quota_nodes import RATE, Fleet, Node


async def test_one_limit(store: Store) -> None:
    """What three nodes let through together is the limit, within 10 %, however unevenly they are asked."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet([Node(name, store) for name in "abc"], nursery)
        await fleet.begin()
        found = await fleet.passed((300.0, 20.0, 0.0), warm=5.0, seconds=4.0)
        nursery.cancel_scope.cancel()
    assert sum(found) == pytest.approx(RATE, rel=0.1)
