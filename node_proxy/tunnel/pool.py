"""The pool of outbound tunnels: one for each peer, source identity and destination identity, or more.

Streams share a tunnel until its peer's limit is reached, or until a flow fills it: then another is opened,
so that new streams need not share with the hog, and so that the peer's other workers get their part. Callers
that need the same tunnel at once wait for one handshake. A tunnel takes no more streams once it drains, which
it does when it is old or its credentials are retired.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from node_proxy.errors import NodeProxyError, TunnelClosed
from node_proxy.tunnel.connection import TunnelConnection

# An idle tunnel costs some 50 KiB at each end, and as much as 150 once it has carried much: OpenSSL's buffers
# in memory do not shrink. A handshake costs some 2 ms of CPU.
IDLE_TIMEOUT = 300.0
# A new tunnel now and then finds the peer's new workers and spreads load anew; one handshake is nothing.
MAX_AGE = 3600.0
# Tunnels for one key, each filled by a flow: beyond that flows compete for the link, not for a tunnel.
MAX_SPREAD = 4
# After another tunnel could not be opened beside one that works; in seconds.
SPREAD_PAUSE = 10.0


@dataclass(frozen=True, slots=True)
class TunnelKey:
    """What makes a tunnel reusable: where it leads, who speaks and who must answer.

    `source` and `destination` are SPIFFE IDs, `server_name` asks the peer for `destination`'s certificate.
    """

    address: str
    port: int
    source: str
    destination: str
    server_name: str


class _Dial:
    """A handshake that somebody waits for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: NodeProxyError | None = None
        self.retired = False


class TunnelPool:
    """Tunnels by key.

    Args:
        nursery: owns the handshakes and keepalives, so that a caller's cancellation disturbs nobody else.
        open_tunnel: does one handshake.
        max_age: gives the age, in seconds, at which a tunnel drains; with some jitter, so that tunnels opened
            together do not end together.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        open_tunnel: Callable[[TunnelKey], Awaitable[TunnelConnection]],
        *,
        max_age: Callable[[], float] = lambda: MAX_AGE,
    ) -> None:
        self._nursery = nursery
        self._open_tunnel = open_tunnel
        self._max_age = max_age
        self._tunnels: dict[TunnelKey, list[TunnelConnection]] = {}
        self._dials: dict[TunnelKey, _Dial] = {}
        # Only of keys that have tunnels.
        self._spread_after: dict[TunnelKey, float] = {}

    def get_nowait(self, key: TunnelKey) -> TunnelConnection | None:
        """Give a tunnel that takes one more stream at once, or None: one that no flow fills, if there is any.

        If there is none, another is opened for those who come later.
        """
        filled: list[TunnelConnection] = []
        for tunnel in self._tunnels.get(key, ()):
            if tunnel.has_capacity:
                if not tunnel.busy:
                    return tunnel
                filled.append(tunnel)
        if not filled:
            return None
        if len(filled) < MAX_SPREAD and key not in self._dials and self._may_spread(key):
            self._start_dial(key)
        return min(filled, key=lambda tunnel: tunnel.protocol.open_streams)

    async def get(self, key: TunnelKey) -> TunnelConnection:
        """Give a tunnel that takes one more stream, opening one if need be.

        Raises:
            NodeProxyError: the tunnel could not be opened; says why.
        Cancelling leaves the handshake to others who wait for it.
        """
        while True:
            if tunnel := self.get_nowait(key):
                return tunnel
            dial = self._dials.get(key)
            if dial is None:
                dial = self._start_dial(key)
            await dial.done.wait()
            if dial.error is not None:
                raise dial.error

    def retire_all(self) -> None:
        """Use none of the present tunnels and handshakes for new streams: the credentials have changed."""
        for tunnels in self._tunnels.values():
            for tunnel in tunnels:
                tunnel.drain()
        self._tunnels.clear()
        self._spread_after.clear()
        for dial in self._dials.values():
            dial.retired = True
        self._dials.clear()

    def _may_spread(self, key: TunnelKey) -> bool:
        return trio.current_time() >= self._spread_after.get(key, 0.0)

    def _start_dial(self, key: TunnelKey) -> _Dial:
        dial = self._dials[key] = _Dial()
        self._nursery.start_soon(self._dial, key, dial)
        return dial

    async def _dial(self, key: TunnelKey, dial: _Dial) -> None:
        try:
            tunnel = await self._open_tunnel(key)
        except NodeProxyError as error:
            dial.error = error
            if key in self._tunnels:
                self._spread_after[key] = trio.current_time() + SPREAD_PAUSE
            return
        except BaseException:
            dial.error = TunnelClosed("the worker is stopping")
            raise
        finally:
            if self._dials.get(key) is dial:
                del self._dials[key]
            dial.done.set()
        if dial.retired:
            # It was opened with the credentials of before.
            tunnel.drain()
        await self._keep(key, tunnel)

    async def _keep(self, key: TunnelKey, tunnel: TunnelConnection) -> None:
        tunnels = self._tunnels.setdefault(key, [])
        tunnels.append(tunnel)
        try:
            await tunnel.keep_alive(idle_timeout=IDLE_TIMEOUT, max_age=self._max_age())
        finally:
            tunnels.remove(tunnel)
            if not tunnels and self._tunnels.get(key) is tunnels:
                del self._tunnels[key]
                self._spread_after.pop(key, None)
