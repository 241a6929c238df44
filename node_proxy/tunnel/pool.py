"""The pool of outbound tunnels: one for each peer, source identity and destination identity, or more.

Streams share a tunnel until its peer's limit is reached, then another is opened. Callers that need the
same tunnel at once wait for one handshake. A tunnel leaves the pool when it drains, is retired or closes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from node_proxy.errors import NodeProxyError, TunnelClosed
from node_proxy.tunnel.connection import TunnelConnection

# An idle tunnel costs some 50 KiB at each end; a handshake some 2 ms of CPU.
IDLE_TIMEOUT = 300.0


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
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        open_tunnel: Callable[[TunnelKey], Awaitable[TunnelConnection]],
    ) -> None:
        self._nursery = nursery
        self._open_tunnel = open_tunnel
        self._tunnels: dict[TunnelKey, list[TunnelConnection]] = {}
        self._dials: dict[TunnelKey, _Dial] = {}

    def get_nowait(self, key: TunnelKey) -> TunnelConnection | None:
        """Give a tunnel that takes one more stream at once, or None."""
        return next((tunnel for tunnel in self._tunnels.get(key, ()) if tunnel.has_capacity), None)

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
                dial = self._dials[key] = _Dial()
                self._nursery.start_soon(self._dial, key, dial)
            await dial.done.wait()
            if dial.error is not None:
                raise dial.error

    def retire_all(self) -> None:
        """Use none of the present tunnels and handshakes for new streams: the credentials have changed."""
        for tunnels in self._tunnels.values():
            for tunnel in tunnels:
                tunnel.drain()
        self._tunnels.clear()
        for dial in self._dials.values():
            dial.retired = True
        self._dials.clear()

    async def _dial(self, key: TunnelKey, dial: _Dial) -> None:
        try:
            tunnel = await self._open_tunnel(key)
        except NodeProxyError as error:
            dial.error = error
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
            await tunnel.keep_alive(idle_timeout=IDLE_TIMEOUT)
        finally:
            tunnels.remove(tunnel)
            if not tunnels and self._tunnels.get(key) is tunnels:
                del self._tunnels[key]
