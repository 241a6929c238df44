"""Calls of what is no service, dialled as they are, where `outbound_policy` lets them pass."""

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from node_proxy.address import canonical, join_address
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.direct import DIAL_TIMEOUT, MOST_ADDRESSES, Failure, Far, dial
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.reason import Reason
from node_proxy.errors import DialError

SIDE = "passthrough"
NOT_OUTSIDE = Reason("not_outside")
NOT_RESOLVED = Reason("not_resolved")
DIAL_FAILED = Reason("dial_failed")
TIMED_OUT = Reason("timeout")
# The system's resolver blocks a thread for as long as its servers are silent.
MOST_LOOKUPS = 16


def look_up(name: str) -> list[str]:
    """Ask this host's resolver, blocking; gives none when it knows none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(canonical(str(each[4][0])) for each in found))


@dataclass(frozen=True, slots=True)
class Passage:
    """What all calls of a worker that pass have in common.

    `own_ports` are those the proxy listens on. `look_up` blocks, and gives a name's addresses or none.
    """

    context: WorkerContext
    own_ports: frozenset[int]
    look_up: Callable[[str], list[str]] = look_up
    lookups: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(MOST_LOOKUPS))

    def fault(self, address: str, port: int) -> str:
        """Say why an address is not dialled for a caller, empty when nothing is against it.

        A proxy that dialled itself would do so for ever. Loopback and the link are the caller's own, but what
        listens there takes whoever comes for somebody of this host, and the proxy is not the caller.
        """
        ip = ipaddress.ip_address(address)
        if ip.is_loopback or ip.is_unspecified or ip.is_link_local:
            return "it is this host's alone"
        if ip.is_multicast or ip.is_reserved or self.context.enforced.tables.is_virtual(address):
            return "nobody has this address"
        if port in self.own_ports and _is_ours(address, port):
            return "it is a port of this proxy"
        return ""


@dataclass(frozen=True, slots=True)
class PassthroughCall:
    """A `DirectCall` of any address, or of a name that the host resolves."""

    passage: Passage
    destination: Destination

    @property
    def side(self) -> str:
        """``passthrough``."""
        return SIDE

    @property
    def label(self) -> str:
        """Nothing: where callers go is for them to choose, and must not fill the metrics."""
        return ""

    @property
    def target(self) -> str:
        """Where to, as the caller said it."""
        return str(self.destination)

    def admit(self, _caller: Caller) -> Failure | None:
        """Admit: nothing is decided of who calls."""
        return None

    def objection(self, _caller: Caller) -> Failure | None:
        """Object to what has become the mesh's own meanwhile."""
        host, tables = self.destination.host, self.passage.context.enforced.tables
        if self.destination.is_address and tables.is_virtual(host):
            return Failure(Refused.DENIED, NOT_OUTSIDE, "it is a virtual IP now")
        return None

    async def open(self) -> tuple[Far, str] | Failure:
        """Try its addresses until one answers."""
        destination = self.destination
        addresses = [destination.host] if destination.is_address else await self._resolve()
        failure = Failure(Refused.UNKNOWN, NOT_RESOLVED, "the host does not resolve this name")
        for address in addresses[:MOST_ADDRESSES]:
            at = join_address(address, destination.port)
            if fault := self.passage.fault(address, destination.port):
                failure = Failure(Refused.DENIED, NOT_OUTSIDE, f"{at}: {fault}")
                continue
            try:
                with trio.fail_after(DIAL_TIMEOUT):
                    return await dial(address, destination.port, mark=self.passage.context.mark), at
            except trio.TooSlowError:
                failure = Failure(Refused.LATE, TIMED_OUT, f"no answer of {at} within {DIAL_TIMEOUT:.0f} s")
            except DialError as error:
                failure = Failure(Refused.UNREACHABLE, DIAL_FAILED, str(error))
        return failure

    async def _resolve(self) -> list[str]:
        with trio.move_on_after(DIAL_TIMEOUT):
            return await trio.to_thread.run_sync(
                self.passage.look_up,
                self.destination.host,
                limiter=self.passage.lookups,
                abandon_on_cancel=True,
            )
        return []


def _is_ours(address: str, port: int) -> bool:
    """Whether an address is this host's: the kernel then calls from it. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError:
            # Nothing leads there.
            return False
        return canonical(probe.getsockname()[0]) == address
