"""Who made the socket at the other end of an accepted connection, as the kernel knows it."""

import errno
import socket

from node_proxy.dataplane import conntrack, sock_diag, telemetry
from node_proxy.dataplane.cgroups import Cgroups
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.netlink import NetlinkSocket
from node_proxy.dataplane.peer_credentials import peer_process
from node_proxy.dataplane.sock_diag import CLOSE_WAIT, ESTABLISHED, Flow, MalformedAnswer, SocketOwner
from node_proxy.owners import Process

# The kernel knows no such socket or connection; ours has been reset.
GONE = frozenset({errno.ENOENT, errno.ENOTCONN})


class OwnerLookup:
    """Looks up the owners of callers' sockets; costs nothing until the first look-up."""

    def __init__(self, context: WorkerContext, cgroups: Cgroups) -> None:
        self._context = context
        self._cgroups = cgroups
        self._sockets = NetlinkSocket(sock_diag.NETLINK_SOCK_DIAG)
        self._connections = NetlinkSocket(conntrack.NETLINK_NETFILTER)
        self._failing = False

    def process(self, accepted: socket.socket, *, redirected: bool) -> Process:
        """Say who called; of a caller that has closed, or when the kernel does not answer, little or nothing.

        Args:
            accepted: our end of the connection.
            redirected: whether it was meant for another destination.
        """
        if accepted.family == socket.AF_UNIX:
            return self._peer(accepted)
        try:
            owner = self._owner(accepted, redirected=redirected)
        except (OSError, MalformedAnswer) as error:
            if isinstance(error, OSError) and error.errno in GONE:
                owner = None
            else:
                self._failed(error)
                return Process()
        self._failing = False
        if owner is None:
            self._count("gone")
            return Process()
        cgroup = None if owner.cgroup_id is None else self._cgroups.path(owner.cgroup_id)
        if owner.uid is None:
            self._count("closed")
        else:
            self._count("found" if cgroup is not None else "cgroup_unknown")
        return Process(owner.uid, cgroup)

    def close(self) -> None:
        """Close the netlink sockets."""
        self._sockets.close()
        self._connections.close()

    def _peer(self, accepted: socket.socket) -> Process:
        process = peer_process(accepted)
        self._count("found" if process.cgroup is not None else "cgroup_unknown")
        return process

    def _owner(self, accepted: socket.socket, *, redirected: bool) -> SocketOwner | None:
        flow = flow_of(accepted)
        if redirected:
            flow = conntrack.decode(self._connections.ask(conntrack.GET, conntrack.encode(flow)))
        answer = self._sockets.ask(sock_diag.SOCK_DIAG_BY_FAMILY, sock_diag.encode(flow))
        owner = sock_diag.decode(answer, flow)
        # The caller may have closed and another process have taken its address and port. That one's handshake
        # cannot end while our socket lives, for ours would answer it. So if ours lives now, what was found
        # a moment ago, past its handshake, is the other end of it.
        state = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return owner if state in (ESTABLISHED, CLOSE_WAIT) else None

    def _count(self, outcome: str) -> None:
        self._context.telemetry.add(telemetry.OWNER_LOOKUPS, outcome=outcome)

    def _failed(self, error: OSError | MalformedAnswer) -> None:
        self._count("error")
        if not self._failing:
            # Once, until one succeeds: it is the host's fault, and every caller has it.
            self._failing = True
            self._context.log.error(
                "owner lookup failed, callers are unknown", error=str(error) or repr(error)
            )


def flow_of(accepted: socket.socket) -> Flow:
    """Give an accepted connection as its caller sees it.

    Raises:
        OSError: it is no longer connected.
    """
    source, destination = accepted.getpeername(), accepted.getsockname()
    if len(source) == 2:
        return Flow(socket.inet_aton(source[0]), source[1], socket.inet_aton(destination[0]), destination[1])
    return Flow(_packed(source[0]), source[1], _packed(destination[0]), destination[1], interface=source[3])


def _packed(address: str) -> bytes:
    # A link-local address comes with the name of its interface.
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
