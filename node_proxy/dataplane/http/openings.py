"""Opening the channel that a client connection runs over: a tunnel's stream, or memory within this host."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from node_proxy.dataplane.admission import Admission, Call, Refusal
from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.forwarded import FORWARDED_HEADER, render_forwarded
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.guard import Guard
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.sniff import PROTOCOL_HEADER, Sniffed
from node_proxy.dataplane.http.stream_opening import open_stream
from node_proxy.dataplane.workload_dial import Origin
from node_proxy.errors import TunnelRefused
from node_proxy.snapshot import Endpoint
from node_proxy.tunnel.pool import TunnelKey, TunnelPool


@dataclass(frozen=True, slots=True)
class Opened:
    """A channel to an endpoint; `lasts` says whether it is good for more than what it carries now."""

    channel: Channel
    lasts: Callable[[], bool]


class Openings:
    """Opens channels to endpoints, of other hosts and of this one.

    Args:
        context: the worker's.
        nursery: owns the far ends of channels within this host.
        pool: gives the tunnels.
        admission: decides over calls within this host, as the destination's does over all others.
        guard: this host's own side as a destination.
    """

    def __init__(
        self,
        context: WorkerContext,
        nursery: trio.Nursery,
        *,
        pool: Callable[[], TunnelPool],
        admission: Admission,
        guard: Guard,
    ) -> None:
        self._context = context
        self._nursery = nursery
        self._pool = pool
        self._admission = admission
        self._guard = guard

    async def open(self, endpoint: Endpoint, caller: Caller, address: str | None, spoken: Sniffed) -> Opened:
        """Ask for the endpoint, and wait until it has accepted.

        Args:
            endpoint: where to.
            caller: whom the channel speaks for.
            address: the caller's, where it leads to it.
            spoken: what the channel will carry.

        Raises:
            NodeProxyError: there is none; `TunnelRefused` when the other side would not, `StreamUnanswered`
                when it did not say. Cancellation leaves nothing half open.
        """
        if endpoint.node == self._context.node:
            return await self._open_here(endpoint, caller, address, spoken)
        key = TunnelKey(
            address=endpoint.address,
            port=endpoint.tunnel_port,
            source=caller.text,
            destination=endpoint.identity,
            server_name=endpoint.server_name,
        )
        pool = self._pool()
        tunnel = pool.get_nowait(key) or await pool.get(key)
        headers = [(PROTOCOL_HEADER, spoken.value.encode("ascii"))]
        if address is not None:
            # One connection carries the requests of many, which have no port in common.
            headers.append((FORWARDED_HEADER, render_forwarded(address, 0)))
        channel = await open_stream(self._context, tunnel, endpoint.at, headers)
        return Opened(channel, lambda: not tunnel.protocol.draining)

    async def _open_here(
        self, endpoint: Endpoint, caller: Caller, address: str | None, spoken: Sniffed
    ) -> Opened:
        verdict = self._admission.admit(
            source=caller.identity,
            port=endpoint.port,
            serving=endpoint.identity,
            call=Call(
                # As if it came through a tunnel: where a policy's caller runs must not change what it says.
                source_ip=endpoint.address,
                destination_ip=endpoint.address,
                sni=endpoint.server_name,
            ),
            spoken=spoken,
        )
        if isinstance(verdict, Refusal):
            raise TunnelRefused(verdict.status, verdict.header)
        # On loopback the caller has no address that would tell a workload anything; that of its host does.
        at = (endpoint.address, endpoint.port)
        origin = Origin((address or endpoint.address, 0), at, host=endpoint.address)
        dialled = await self._guard.dial(verdict, origin)
        near, far = memory_channels()
        self._nursery.start_soon(self._context.contain, self._guard.serve, far, verdict, origin, dialled)
        return Opened(near, lambda: True)
