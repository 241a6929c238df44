import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.agent.external_names import REFRESH, RETRY, TIMEOUT, ExternalNames, ask_system


class Names:
    """Names, what they resolve to, and who asked when."""

    def __init__(self) -> None:
        self.zone: dict[str, set[str]] = {}
        self.asked: list[str] = []
        self.silent: set[str] = set()
        self.changes = 0
        self.names = ExternalNames(self._look_up, self._changed)

    async def _look_up(self, name: str) -> frozenset[str]:
        self.asked.append(name)
        if name in self.silent:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return frozenset(self.zone.get(name, ()))

    def _changed(self) -> None:
        self.changes += 1


async def test_refreshed(autojump_clock: MockClock) -> None:
    """A name is looked up at once and again and again; only a change is told."""
    world = Names()
    world.zone["a.example"] = {"192.0.2.2", "192.0.2.1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.names.keep)
        world.names.want(["a.example"])
        await wait_all_tasks_blocked()
        assert world.names.addresses_of("a.example") == ("192.0.2.1", "192.0.2.2")
        await trio.sleep(3 * REFRESH + 1)
        assert (len(world.asked), world.changes) == (4, 1)
        world.zone["a.example"] = {"192.0.2.3"}
        await trio.sleep(REFRESH)
        assert world.names.addresses_of("a.example") == ("192.0.2.3",)
        nursery.cancel_scope.cancel()


async def test_resolvers_that_fail(autojump_clock: MockClock) -> None:
    """While nobody answers the last answer holds, and asking goes on."""
    world = Names()
    world.zone["a.example"] = {"192.0.2.1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.names.keep)
        world.names.want(["a.example", "b.example"])
        await wait_all_tasks_blocked()
        del world.zone["a.example"]
        world.silent.add("b.example")
        await trio.sleep(2 * (REFRESH + TIMEOUT))
        assert world.names.addresses_of("a.example") == ("192.0.2.1",)
        world.silent.clear()
        world.zone["b.example"] = {"192.0.2.9"}
        await trio.sleep(RETRY + TIMEOUT)
        assert world.names.addresses_of("b.example") == ("192.0.2.9",)
        nursery.cancel_scope.cancel()


async def test_no_longer_wanted(autojump_clock: MockClock) -> None:
    """A name that nobody wants any more is forgotten and not asked for."""
    world = Names()
    world.zone["a.example"] = {"192.0.2.1"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.names.keep)
        world.names.want(["a.example"])
        await wait_all_tasks_blocked()
        world.names.want([])
        assert world.names.addresses_of("a.example") == ()
        await trio.sleep(10 * REFRESH)
        assert world.asked == ["a.example"]
        world.names.want(["a.example"])
        await wait_all_tasks_blocked()
        assert world.names.addresses_of("a.example") == ("192.0.2.1",)
        nursery.cancel_scope.cancel()


async def test_withdrawn_meanwhile(autojump_clock: MockClock) -> None:
    """An answer that comes after its name was withdrawn changes nothing."""
    world = Names()
    world.silent.add("a.example")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.names.keep)
        world.names.want(["a.example"])
        await wait_all_tasks_blocked()
        world.names.want([])
        await trio.sleep(TIMEOUT + 1)
        assert (world.names.addresses_of("a.example"), world.changes) == ((), 0)
        nursery.cancel_scope.cancel()


async def test_this_host() -> None:
    """The host's resolver knows this host, and nothing of names that nobody may have."""
    assert "127.0.0.1" in await ask_system("localhost")
    assert await ask_system("a" * 64 + ".invalid") == frozenset()
