"""Dialling a workload of this host: plainly, from the caller's own address, or with a PROXY protocol header.

Which of these is the workload's wish (`LocalWorkload`). What it is told is what admission decided upon: the
caller's address is that of the tunnel's other end, unless that host says another that is believed.
"""

import errno
import random
import socket
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.open_streams import Admitted
from node_proxy.errors import DialError
from node_proxy.proxy_header import proxy_header
from node_proxy.tunnel.sockets import finish_connect, start_connect
from registry.model.identity import WorkloadIdentity

# Ports that we speak from under a caller's address. Below those that Linux gives to callers by itself (32768
# and up): a connection of the very caller, past the mesh, may be open from any of those to the same workload,
# and the kernel's connection tracking would take ours for that one.
SOURCE_PORTS = range(16384, 32768)
# Ports are drawn; one that leads to the same workload already is drawn by one of many calls, twice by fewer.
SOURCE_TRIES = 8
_TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call comes from and what it called, as its workload may be told; port 0 is not known.

    `host` is the address by which the caller's host is seen: a caller of the one IP version may come by
    a tunnel of the other.
    """

    source: tuple[str, int]
    destination: tuple[str, int]
    host: str | None = None


class WorkloadDial:
    """One admitted connection to a workload, dialled once.

    Args:
        context: the worker's.
        admitted: the right to dial.
        origin: None when the caller is gone already, so that nobody knows its address.
    """

    def __init__(self, context: WorkerContext, admitted: Admitted, origin: Origin | None) -> None:
        self._workload = admitted.local.workload
        self._port = admitted.port
        self._caller = admitted.source
        self._origin = origin
        self._mark = context.mark
        self._rng = context.rng

    def start(self) -> tuple[socket.socket, bool]:
        """Begin; gives the socket and whether the workload has it already.

        Raises:
            DialError: refused at once, or what the workload wishes to know of the caller is not known.
        """
        sock, connected = self._connect()
        if connected:
            self._introduce(sock)
        return sock, connected

    async def finish(self, sock: socket.socket, *, timeout: float) -> None:
        """Wait until the workload has a connection that was begun.

        Raises:
            DialError: it failed, or took too long. The socket is closed, as it is on cancellation.
        """
        try:
            with trio.fail_after(timeout):
                await finish_connect(sock, self._workload.dial, self._port)
        except trio.TooSlowError:
            raise self._error(f"no answer within {timeout:.0f} s") from None
        self._introduce(sock)

    async def complete(self, *, timeout: float) -> socket.socket:
        """Dial from beginning to end.

        Raises:
            DialError: it failed, or took too long. Cancellation leaves no socket.
        """
        sock, connected = self.start()
        if not connected:
            await self.finish(sock, timeout=timeout)
        return sock

    def _connect(self) -> tuple[socket.socket, bool]:
        address, port = self._workload.dial, self._port
        if not self._workload.preserve_source:
            return start_connect(address, port, mark=self._mark)
        caller = self._caller_to_show(self._known_origin)
        for left in reversed(range(SOURCE_TRIES)):
            source = caller, draw_port(self._rng)
            try:
                return start_connect(address, port, mark=self._mark, source=source)
            except DialError as error:
                if error.code not in _TAKEN or not left:
                    raise
        raise self._error("no port is left")

    def _caller_to_show(self, origin: Origin) -> str:
        version = ip_address(self._workload.dial).version
        for address in filter(None, (origin.source[0], origin.host)):
            if ip_address(address).version == version:
                return address
        raise self._error(f"preserve_source: the caller's address {origin.source[0]} is not IPv{version}")

    def _introduce(self, sock: socket.socket) -> None:
        """Say who calls, if the workload wants to hear it."""
        if not self._workload.proxy_protocol:
            return
        try:
            origin = self._known_origin
            header = proxy_header(
                source=origin.source,
                destination=origin.destination,
                # A node speaks for processes of no workload: it is nobody.
                spiffe_id=str(self._caller) if isinstance(self._caller, WorkloadIdentity) else "",
            )
            # A fresh connection's buffer takes far more than the longest header.
            if sock.send(header) != len(header):
                raise self._error("it did not take the PROXY header")
        except OSError as error:
            sock.close()
            raise self._error(f"it did not take the PROXY header: {error}") from error
        except DialError:
            sock.close()
            raise

    @property
    def _known_origin(self) -> Origin:
        if self._origin is None:
            raise self._error("the caller is gone, and its address with it")
        return self._origin

    def _error(self, cause: str) -> DialError:
        return DialError(self._workload.dial, self._port, cause)


def draw_port(rng: random.Random) -> int:
    """Draw a port to speak from under a caller's address."""
    return SOURCE_PORTS.start + rng.randrange(len(SOURCE_PORTS))
