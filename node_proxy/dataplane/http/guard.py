"""Guard: what stands before a workload's HTTP port, and lets each request in by itself or not."""

import socket
from collections.abc import Callable

import trio

from node_proxy.dataplane.admission import Admission
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.channel import Channel
from node_proxy.dataplane.http.guarded import Guarded, GuardShared
from node_proxy.dataplane.http.limits import MESH_LIMITS, HttpLimits
from node_proxy.dataplane.http.refusals import RequestNumbers
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.http.workload_upstream import DIAL_TIMEOUT
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.dataplane.workload_dial import Origin, WorkloadDial


class Guard:
    """The destination's side of HTTP, for streams of tunnels, plaintext and calls within this host.

    Args:
        context: the worker's.
        admission: decides.
        timers: end what takes too long; whoever makes them runs them.
        draining: whether the worker takes nothing new.
        limits: of what callers may send; mostly by way of their own proxy, which adds to it.
    """

    def __init__(
        self,
        context: WorkerContext,
        admission: Admission,
        *,
        timers: Timers,
        draining: Callable[[], bool],
        limits: HttpLimits | None = None,
    ) -> None:
        numbers = RequestNumbers(context.telemetry, "destination")
        self._shared = GuardShared(context, admission, timers, draining, limits or MESH_LIMITS, numbers)

    @property
    def open_connections(self) -> int:
        """Connections of callers that are served now."""
        return len(self._shared.open)

    async def dial(self, admitted: Admitted, origin: Origin | None) -> socket.socket:
        """Connect to the workload, before the caller hears that it has it.

        Raises:
            DialError: it failed, or took too long. Cancellation leaves no socket.
        """
        dial = WorkloadDial(self._shared.context, admitted, origin)
        return await dial.complete(timeout=DIAL_TIMEOUT)

    async def serve(
        self, channel: Channel, admitted: Admitted, origin: Origin | None, dialled: socket.socket
    ) -> None:
        """Serve the caller at the other end of `channel` until it, the workload or a policy ends it.

        What comes of `Admission.admit`, with `spoken` given; where the port's HTTP is not read, the bytes are
        carried as they are. Channel and socket are closed whatever happens; a caller of this very host hands
        in one end of `memory_channels()` and speaks to the other.

        Args:
            channel: where the caller is, which has been told that it is connected.
            admitted: the right to dial.
            origin: who calls, as the workload is told.
            dialled: what `dial` gave.
        """
        await self.take(channel, admitted, origin, dialled).run()

    def take(
        self,
        channel: Channel,
        admitted: Admitted,
        origin: Origin | None,
        dialled: socket.socket,
        *,
        security: str | None = None,
    ) -> Guarded:
        """Take a connection that is to be `run`; policies that change from now on are obeyed.

        The arguments are those of `serve`; `security` is how the connection came to this host.
        """
        return Guarded(self._shared, channel, admitted, origin, dialled, security=security)

    async def drain(self, grace: float) -> None:
        """Close what is idle `grace` seconds from now; by then callers' proxies know that they should go.

        Requests that are under way are answered, and told to be the last of their connections.
        """
        await trio.sleep(grace)
        for guarded in list(self._shared.open):
            guarded.close_if_idle()
