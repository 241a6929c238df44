"""Which member of the cluster to ask, with which token, and how often. The calls themselves are given."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from registry.store.faults import Fault, Remedy

M = TypeVar("M")
R = TypeVar("R")

FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.5


class Failed(Exception):
    """One try at one member failed; never leaves the store."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault.error))
        self.fault = fault


class Cluster(Generic[M]):
    """The members, the one in use, and the token they know us by.

    Args:
        members: the ways to reach the cluster; each is as good as another.
        timeout: seconds within which a call must succeed.
        sign_in: asks a member for a token, within the seconds given; None where no token is used.
    """

    def __init__(
        self,
        members: Sequence[M],
        *,
        timeout: float,
        sign_in: Callable[[M, float], Awaitable[str]] | None,
    ) -> None:
        self._members = members
        self._current = 0
        self._timeout = timeout
        # Of a cluster that works, fewer than half are out of order; one more try reaches a good one.
        self._try_seconds = timeout / (len(members) // 2 + 1)
        self._sign_in = sign_in
        self._token: str | None = None
        self._signing_in = trio.Lock()

    def replace(self, members: Sequence[M]) -> None:
        """Ask these members from now on."""
        self._members = members
        self._current = 0

    def deadline(self, seconds: float | None = None) -> float:
        """Give trio's time by which a call made now must be done; at most `seconds` away, if given."""
        return trio.current_time() + (self._timeout if seconds is None else min(seconds, self._timeout))

    def member(self) -> M:
        """Give the member in use."""
        return self._members[self._current]

    def leave(self, member: M) -> None:
        """Turn from a member to the next, unless somebody did already."""
        if self._members[self._current] is member:
            self._current = (self._current + 1) % len(self._members)

    async def token(self, member: M) -> str:
        """Give the token in use, asking `member` for one if there is none; empty where no token is used.

        Raises:
            Failed: the member did not give one.
        """
        if self._sign_in is None:
            return ""
        async with self._signing_in:
            if self._token is None:
                self._token = await self._sign_in(member, self._try_seconds)
            return self._token

    def forget(self, token: str) -> None:
        """Drop a token that is no longer accepted, unless it was replaced already."""
        if self._token == token:
            self._token = None

    async def call(
        self,
        ask: Callable[[M, str, float], Awaitable[R]],
        *,
        deadline: float | None = None,
        repeatable: bool = True,
    ) -> R:
        """Ask until it is answered, mending what can be mended: stale tokens, lost members, elections.

        Args:
            ask: asks a member with a token, within the seconds given; raises `Failed`.
            deadline: trio's time by which to be done; the timeout from now if None.
            repeatable: whether it may be asked again after an answer was lost.

        Raises:
            RegistryError: what the last try met.
        """
        deadline = self.deadline() if deadline is None else deadline
        pause = FIRST_PAUSE
        refreshed = False
        while True:
            member = self.member()
            token = ""
            try:
                token = await self.token(member)
                return await ask(member, token, min(deadline - trio.current_time(), self._try_seconds))
            except Failed as failed:
                fault, cause = failed.fault, failed.__cause__
            match fault.remedy:
                case Remedy.NEW_TOKEN if not refreshed:
                    # Who is known by a certificate meets it too, when users change while etcd looks.
                    refreshed = True
                    self.forget(token)
                case Remedy.TRY_AGAIN if repeatable and trio.current_time() + pause < deadline:
                    self.leave(member)
                    await trio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                case _:
                    self.leave(member)
                    raise fault.error from cause
