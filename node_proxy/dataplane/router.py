"""Where a connection leads: to a service of the mesh, out of it, or nowhere."""

import socket
from dataclasses import dataclass

from node_proxy.dataplane.callers import UnknownCaller
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.direct import Direct
from node_proxy.dataplane.external import ExternalCall
from node_proxy.dataplane.external_table import ExternalRoute
from node_proxy.dataplane.origination import Originator
from node_proxy.dataplane.outbound import UNKNOWN_CALLER, Outbound
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.passthrough import Passage, PassthroughCall
from node_proxy.dataplane.tables import Route
from node_proxy.dataplane.way import PLAIN, Way

# A destination leads out of the mesh as it is.
Lead = Route | ExternalRoute | Destination


@dataclass(frozen=True, slots=True)
class MeshNames:
    """How services are called: ``<service>.<namespace>.<domain>``, and in `namespace` without it."""

    domain: str
    namespace: str

    def service(self, host: str) -> str | None:
        """Give ``namespace/name`` of a host below the domain, "" if it names none; None for all others."""
        if host == self.domain:
            return ""
        below = host.removesuffix(f".{self.domain}")
        if below == host:
            return None
        match below.split("."):
            case [name]:
                return f"{self.namespace}/{name}"
            case [name, namespace]:
                return f"{namespace}/{name}"
            case _:
                return ""


class Router:
    """Finds where connections lead, and hands them on.

    Args:
        context: the worker's.
        outbound: takes what leads to services.
        direct: takes what leaves the mesh.
        names: how services are called.
        passage: lets pass what is no service; None refuses it.
    """

    def __init__(
        self,
        context: WorkerContext,
        *,
        outbound: Outbound,
        direct: Direct,
        names: MeshNames,
        passage: Passage | None,
    ) -> None:
        self._context = context
        self._outbound = outbound
        self._direct = direct
        self._names = names
        self._passage = passage
        self._originator = Originator(context.clock)

    def find(self, destination: Destination) -> Lead | None:
        """Say where a destination leads; None is nowhere."""
        tables, host, port = self._context.enforced.tables, destination.host, destination.port
        if destination.is_address:
            inside = tables.is_virtual(host)
            found = tables.by_vip(host, port) or tables.externals.by_vip(host, port)
            if found is None and not inside:
                found = tables.by_endpoint(host, port)
        else:
            service = self._names.service(host)
            if service is None:
                found = tables.externals.by_host(host, port)
            else:
                found = tables.by_name(service, port) or tables.externals.by_name(service, port)
            inside = service is not None or tables.externals.names(host)
        if found is not None or inside or self._passage is None:
            return found
        return destination

    def connected(
        self,
        sock: socket.socket,
        lead: Lead | None,
        caller: Caller | UnknownCaller,
        target: str,
        way: Way = PLAIN,
    ) -> None:
        """Take a tuned connection to where `find` said that it leads; `target` is what the log calls it."""
        if lead is None or isinstance(lead, Route):
            self._outbound.connected(sock, lead, caller, target, way)
        elif isinstance(caller, UnknownCaller):
            self._outbound.refuse(sock, UNKNOWN_CALLER, caller, target, way)
        elif isinstance(lead, ExternalRoute):
            self._direct.connected(sock, ExternalCall(self._context, self._originator, lead), caller, way)
        elif self._passage is not None:
            self._direct.connected(sock, PassthroughCall(self._passage, lead), caller, way)
