"""The addresses of names outside the mesh: asked for here, so that no worker ever waits for a resolver.

The newest answer holds. While a name gets none, the last one does.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable

import structlog
import trio

from node_proxy.address import canonical

LookUp = Callable[[str], Awaitable[frozenset[str]]]

# Between two questions about a name: servers that move keep the old address for longer than this.
REFRESH = 30.0
# After one in vain.
RETRY = 5.0
# The C library waits 5 s for each of its resolvers.
TIMEOUT = 10.0
# Questions at once; each may hold a thread for as long as the resolvers are silent.
MOST_AT_ONCE = 8
# A pool larger than this is not dialled through in any case.
MOST_ADDRESSES = 64

log = structlog.get_logger("node_proxy.agent.external_names")


class ExternalNames:
    """Keeps the addresses of the names wanted.

    Args:
        look_up: gives a name's addresses, none when it has none or nobody answers.
        changed: called when what is known has changed.
    """

    def __init__(self, look_up: LookUp, changed: Callable[[], None]) -> None:
        self._look_up = look_up
        self._changed = changed
        self._wanted: frozenset[str] = frozenset()
        self._known: dict[str, tuple[str, ...]] = {}
        self._due: dict[str, float] = {}
        self._failing: set[str] = set()
        self._news = trio.Event()

    def addresses_of(self, name: str) -> tuple[str, ...]:
        """Give the addresses of a name, none while they are not known."""
        return self._known.get(name, ())

    def want(self, names: Iterable[str]) -> None:
        """Look after these names and no others."""
        wanted = frozenset(names)
        if wanted == self._wanted:
            return
        for name in self._wanted - wanted:
            self._known.pop(name, None)
            self._due.pop(name, None)
            self._failing.discard(name)
        self._wanted = wanted
        self._news.set()

    async def keep(self) -> None:
        """Look names up again and again, until cancelled."""
        limiter = trio.CapacityLimiter(MOST_AT_ONCE)
        while True:
            self._news = trio.Event()
            now = trio.current_time()
            async with trio.open_nursery() as nursery:
                for name in sorted(self._wanted):
                    if self._due.get(name, now) <= now:
                        nursery.start_soon(self._refresh, name, limiter)
            next_due = min(
                (self._due.get(name, 0.0) for name in self._wanted), default=trio.current_time() + REFRESH
            )
            with trio.move_on_at(next_due):
                await self._news.wait()

    async def _refresh(self, name: str, limiter: trio.CapacityLimiter) -> None:
        found: frozenset[str] = frozenset()
        async with limiter:
            with trio.move_on_after(TIMEOUT):
                found = await self._look_up(name)
        if name not in self._wanted:
            return
        self._due[name] = trio.current_time() + (REFRESH if found else RETRY)
        if not found:
            if name not in self._failing:
                self._failing.add(name)
                log.warning("external name does not resolve", name=name, kept=len(self.addresses_of(name)))
            return
        self._failing.discard(name)
        addresses = tuple(sorted(found)[:MOST_ADDRESSES])
        if addresses != self._known.get(name):
            self._known[name] = addresses
            log.info("external name resolved", name=name, addresses=addresses)
            self._changed()


async def ask_system(name: str) -> frozenset[str]:
    """Ask this host's resolver for a name's addresses, /etc/hosts included, as every program here would."""
    try:
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
        )
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(canonical(str(each[4][0])) for each in found)
