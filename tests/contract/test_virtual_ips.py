"""Virtual IPs under several controllers at once, over the store in memory and a real etcd."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from registry.controller import Controller
from registry.model.parse import parse_as
from registry.model.status import Status
from registry.store.base import Delete, Put, Store

TRUST_DOMAIN = "mesh.test"
# So few addresses that hashes collide all the time.
MESH = (
    b"apiVersion: nodemesh/v1\nkind: Mesh\nmetadata: {name: mesh, namespace: nodemesh-system}\n"
    b"spec: {trustDomain: mesh.test, vipRanges: [10.9.0.0/24, 'fd00:9::/120']}\n"
)
PATIENCE = 30


def service(name: str) -> bytes:
    return (
        f"apiVersion: nodemesh/v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{ports: [{{port: 80}}], selector: {{app: {name}}}}}\n"
    ).encode()


class Replica:
    """A controller and how to kill it."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.scope = trio.CancelScope()
        self._controller = Controller(store=store, trust_domain=TRUST_DOMAIN, replica=name)

    async def run(self) -> None:
        """Run until killed."""
        with self.scope:
            await self._controller.run()


@asynccontextmanager
async def replicas(store: Store, *names: str) -> AsyncIterator[dict[str, Replica]]:
    """Run controllers over one store for the length of the block."""
    running = {name: Replica(store, name) for name in names}
    async with trio.open_nursery() as nursery:
        for each in running.values():
            nursery.start_soon(each.run)
        yield running
        nursery.cancel_scope.cancel()


async def addresses(store: Store) -> dict[str, tuple[str, ...]]:
    """Give what every service has, the deleted ones too."""
    listing = await store.list("status/services/")
    return {item.key: parse_as(Status, item.value, where=item.key).spec.vips for item in listing.items}


async def wait_given(store: Store, count: int) -> dict[str, tuple[str, ...]]:
    """Wait until so many have an address of each family; gives them."""
    with trio.fail_after(PATIENCE):
        while True:
            given = await addresses(store)
            if len(given) == count and all(len(vips) == 2 for vips in given.values()):
                return given
            await trio.sleep(0.02)


async def wait_leader(store: Store, *, other_than: str = "") -> str:
    """Wait until somebody leads; gives the name."""
    with trio.fail_after(PATIENCE):
        while True:
            leader = await store.get("leader/controller")
            if leader is not None and leader.value.decode() != other_than:
                return leader.value.decode()
            await trio.sleep(0.02)


async def test_two_controllers(store: Store) -> None:
    """Two controllers, of which the leader dies amid a crowd of new services, give each address once."""
    await store.put("mesh", MESH)
    async with replicas(store, "one", "two") as running:
        first = await wait_leader(store)
        before: dict[str, tuple[str, ...]] = {}
        for start in range(0, 120, 20):
            writes = [Put(f"services/default/s{n}", service(f"s{n}")) for n in range(start, start + 20)]
            await store.commit([], writes)
            if start == 40:
                before = await addresses(store)
                running[first].scope.cancel()
        given = await wait_given(store, 120)
        assert await wait_leader(store, other_than=first) != first
    flat = [vip for vips in given.values() for vip in vips]
    assert len(flat) == len(set(flat)) == 240
    assert {key: given[key] for key in before} == before


async def test_restart(store: Store) -> None:
    """Addresses outlive every controller, and those of a deleted service are not given away by the next."""
    await store.commit([], [Put(f"services/default/s{n}", service(f"s{n}")) for n in range(50)])
    async with replicas(store, "one"):
        before = await wait_given(store, 50)
    await store.commit([], [Delete("services/default/s7"), Put("services/default/new", service("new"))])
    async with replicas(store, "two"):
        after = await wait_given(store, 51)
    new = after.pop("status/services/default/new")
    assert after == before
    assert not set(new) & {vip for vips in before.values() for vip in vips}
