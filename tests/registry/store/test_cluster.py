"""Calls go to a member in order, with a token that is accepted, as often as they may."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from registry.errors import StoreForbidden, StoreUnavailable
from registry.store.cluster import Cluster, Failed
from registry.store.faults import judge

AWAY = Failed(judge("UNAVAILABLE", "away", at="somewhere"))
STALE = Failed(judge("UNAUTHENTICATED", "etcdserver: invalid auth token", at="somewhere"))
DENIED = Failed(judge("PERMISSION_DENIED", "etcdserver: permission denied", at="somewhere"))


class Calls:
    """Remembers who was asked with which token, and answers as told, "done" after that."""

    def __init__(self, *answers: Failed | str, takes: float = 0) -> None:
        self._answers = list(answers)
        self._takes = takes
        self.asked: list[tuple[str, str]] = []
        self.tokens = 0

    async def ask(self, member: str, token: str, seconds: float) -> str:
        """Answer a call; takes its time, but not more than it is given."""
        self.asked.append((member, token))
        await trio.sleep(min(self._takes, seconds))
        answer = self._answers.pop(0) if self._answers else "done"
        if isinstance(answer, Failed):
            raise answer
        return answer

    async def sign_in(self, member: str, seconds: float) -> str:
        """Give a new token."""
        await trio.lowlevel.checkpoint()
        self.tokens += 1
        return f"token{self.tokens}"


def cluster(*members: str, sign_in: Callable[[str, float], Awaitable[str]] | None = None) -> Cluster[str]:
    """Give a cluster with a timeout of 6 s."""
    return Cluster(members, timeout=6, sign_in=sign_in)


async def test_next_member(autojump_clock: MockClock) -> None:
    """A member that does not answer is left for the next, and later calls begin there."""
    calls = Calls(AWAY)
    three = cluster("a", "b", "c")
    assert await three.call(calls.ask) == "done"
    assert await three.call(calls.ask) == "done"
    assert [member for member, _ in calls.asked] == ["a", "b", "b"]


async def test_until_the_deadline(autojump_clock: MockClock) -> None:
    """A call is tried until its time is up, not beyond, and gives the last error."""
    calls = Calls(*[AWAY] * 1000)
    start = trio.current_time()
    with pytest.raises(StoreUnavailable, match="away"):
        await cluster("a").call(calls.ask)
    assert 5 < trio.current_time() - start <= 6
    assert len(calls.asked) > 5


async def test_silent_member(autojump_clock: MockClock) -> None:
    """A member that is silent leaves time to ask another."""
    calls = Calls(AWAY, takes=100)
    start = trio.current_time()
    assert await cluster("a", "b", "c").call(calls.ask) == "done"
    assert trio.current_time() - start <= 6.1


async def test_not_repeatable(autojump_clock: MockClock) -> None:
    """A call that may not be repeated is asked once; the member is left all the same."""
    calls = Calls(AWAY)
    two = cluster("a", "b")
    with pytest.raises(StoreUnavailable):
        await two.call(calls.ask, repeatable=False)
    assert two.member() == "b"
    assert len(calls.asked) == 1


async def test_stale_token() -> None:
    """A token that is no longer accepted is replaced once, even where the call may not be repeated."""
    calls = Calls("done", STALE)
    one = cluster("a", sign_in=calls.sign_in)
    await one.call(calls.ask, repeatable=False)
    await one.call(calls.ask, repeatable=False)
    assert calls.asked == [("a", "token1"), ("a", "token1"), ("a", "token2")]


async def test_token_never_accepted() -> None:
    """A new token that is not accepted either is the end of it."""
    calls = Calls(STALE, STALE)
    with pytest.raises(StoreForbidden):
        await cluster("a", sign_in=calls.sign_in).call(calls.ask)
    assert calls.tokens == 2


async def test_no_token_to_replace() -> None:
    """Where no token is used, one that is wanted is an error the second time: users may just have changed."""
    calls = Calls(STALE, STALE)
    with pytest.raises(StoreForbidden):
        await cluster("a").call(calls.ask)


async def test_denied() -> None:
    """A denial is final."""
    calls = Calls(DENIED)
    with pytest.raises(StoreForbidden):
        await cluster("a", "b").call(calls.ask)
    assert len(calls.asked) == 1


async def test_one_sign_in_for_all() -> None:
    """Many calls at once share one sign-in."""
    calls = Calls()
    one = cluster("a", sign_in=calls.sign_in)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one.call, calls.ask)
    assert calls.tokens == 1
