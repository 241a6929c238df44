import dns.message
import dns.rcode
import pytest
import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.dns import forward
from node_proxy.agent.dns.forward import Forwarder
from node_proxy.agent.dns.upstreams import Upstreams
from tests.fakes.eventually import eventually
from tests.node_proxy.agent.dns.questions import answers
from tests.node_proxy.agent.dns.upstream import (
    Upstream,
    failing,
    forged,
    good,
    long,
    running_upstream,
    silent,
)

NOBODY = SocketAddress("127.0.0.1:1")


def forwarder(*upstreams: Upstream | SocketAddress) -> Forwarder:
    """Give a forwarder to these."""
    addresses = [each.address if isinstance(each, Upstream) else each for each in upstreams]
    return Forwarder(Upstreams(addresses, own=(), files=()))


def query(name: str = "www.example.org") -> dns.message.Message:
    """Give a query for an address."""
    return dns.message.make_query(name, "A")


async def ask(of: Forwarder, name: str = "www.example.org") -> list[str]:
    """Give the answer section; empty when there is no answer."""
    answer = await of.ask(query(name))
    return [] if answer is None else list(answers(answer))


async def test_an_answer_is_kept() -> None:
    """A question is asked once; afterwards the answer comes from the cache."""
    async with running_upstream(good) as upstream:
        of = forwarder(upstream)
        assert of.known(query()) is None
        assert await ask(of) == ["www.example.org. 60 IN A 192.0.2.1"]
        known = of.known(query("WWW.example.org"))
        assert known is not None
        assert answers(known) == ["www.example.org. 60 IN A 192.0.2.1"]
        assert len(upstream.asked) == 1


async def test_numbers_and_ports_are_random() -> None:
    """Each question goes under a number and from a port of its own."""
    async with running_upstream(good) as upstream:
        of = forwarder(upstream)
        for i in range(50):
            assert await ask(of, f"n{i}.example.org")
    assert len({port for _, _, port in upstream.asked}) > 40
    assert len(set(upstream.numbers)) > 40
    steps = {b - a for a, b in zip(upstream.numbers, upstream.numbers[1:], strict=False)}
    assert len(steps) > 40


async def test_one_question_at_a_time() -> None:
    """Who asks what is being asked already gets that answer."""
    async with running_upstream(good) as upstream:
        of = forwarder(upstream)
        found: list[list[str]] = []

        async def ask_once() -> None:
            found.append(await ask(of))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask_once)
        assert found == [["www.example.org. 60 IN A 192.0.2.1"]] * 20
        assert len(upstream.asked) == 1


async def test_the_one_who_asks_goes_away() -> None:
    """When who asked first gives up, another of those who wait asks."""
    async with running_upstream(silent) as upstream, trio.open_nursery() as nursery:
        of = forwarder(upstream)
        first = trio.CancelScope()

        async def ask_first() -> None:
            with first:
                await of.ask(query())

        nursery.start_soon(ask_first)
        await eventually(lambda: len(upstream.asked) == 1)
        nursery.start_soon(of.ask, query())
        first.cancel()
        await eventually(lambda: len(upstream.asked) == 2)
        nursery.cancel_scope.cancel()


async def test_failover() -> None:
    """One that is not there, or cannot answer, is passed over and asked last from then on."""
    async with running_upstream(failing) as sick, running_upstream(good) as upstream:
        of = forwarder(NOBODY, sick, upstream)
        assert await ask(of) == ["www.example.org. 60 IN A 192.0.2.1"]
        assert of.failures == {NOBODY: 1, sick.address: 1}
        assert await ask(of, "other.example.org") == ["other.example.org. 60 IN A 192.0.2.1"]
        assert of.failures == {NOBODY: 1, sick.address: 1}


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer in time is passed over."""
    monkeypatch.setattr(forward, "ATTEMPT", 0.1)
    async with running_upstream(silent) as slow, running_upstream(good) as upstream:
        assert await ask(forwarder(slow, upstream)) == ["www.example.org. 60 IN A 192.0.2.1"]


async def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an upstream, or when none answers, there is no answer, and soon."""
    monkeypatch.setattr(forward, "ATTEMPT", 0.1)
    async with running_upstream(failing) as sick:
        for of in (forwarder(), forwarder(NOBODY), forwarder(sick)):
            assert await of.ask(query()) is None
    assert len(sick.asked) == forward.ATTEMPTS


async def test_long_answers_come_by_tcp() -> None:
    """When the answer is cut short, the same upstream is asked by TCP."""
    async with running_upstream(long) as upstream:
        assert len(await ask(forwarder(upstream))) == 100
        assert [udp for _, udp, _ in upstream.asked] == [True, False]


async def test_forged_answers() -> None:
    """What comes with another number or question, or is no answer, is not believed."""
    async with running_upstream(forged) as upstream:
        assert await ask(forwarder(upstream)) == ["www.example.org. 60 IN A 192.0.2.1"]
