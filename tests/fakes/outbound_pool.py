"""A pool of outbound tunnels in the test's hand, and a socket that no byte moves through."""

import errno
import socket
from typing import cast

import trio

from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.pool import TunnelKey, TunnelPool
from tests.fakes.relay_tunnel import RelayTunnel


class OutboundPool:
    """Tunnels that are open, by address; for any other address the outcome of opening one."""

    def __init__(self) -> None:
        self.open: dict[str, RelayTunnel] = {}
        self.failing: dict[str, Exception] = {}
        self.asked: list[TunnelKey] = []

    def as_pool(self) -> TunnelPool:
        """Give it where a pool is wanted."""
        return cast("TunnelPool", self)

    def get_nowait(self, key: TunnelKey) -> TunnelConnection | None:
        """Give an open tunnel that takes a stream."""
        tunnel = self.open.get(key.address)
        return tunnel.as_tunnel() if tunnel is not None and tunnel.has_capacity else None

    async def get(self, key: TunnelKey) -> TunnelConnection:
        """Open a tunnel, or fail as told."""
        self.asked.append(key)
        await trio.lowlevel.checkpoint()
        if error := self.failing.get(key.address):
            raise error
        return self.open.setdefault(key.address, RelayTunnel()).as_tunnel()


class IdleSocket:
    """A caller's socket of which only the end can be seen: ``aborted``, ``closed`` or open.

    `peer` is the name of its other end; None when that is gone.
    """

    def __init__(self, peer: object = None) -> None:
        self.state = "open"
        self._peer = peer

    def as_socket(self) -> socket.socket:
        """Give it where a socket is wanted."""
        return cast("socket.socket", self)

    def getpeername(self) -> object:
        """Say who called."""
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "test")
        return self._peer

    def setsockopt(self, _level: int, option: int, _value: object) -> None:
        """Note that the close will be a reset."""
        if option == socket.SO_LINGER:
            self.state = "aborting"

    def close(self) -> None:
        """Close, or reset."""
        self.state = "aborted" if self.state == "aborting" else "closed"
