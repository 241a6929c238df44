"""Whose identity a connection of this host speaks with."""

import socket
from dataclasses import dataclass, replace

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.owner_lookup import OwnerLookup
from node_proxy.dataplane.tables import Tables
from node_proxy.owners import NoOwner, Process
from node_proxy.snapshot import LocalWorkload
from registry.model.identity import NodeIdentity


@dataclass(frozen=True, slots=True)
class UnknownCaller:
    """A caller that may not use the mesh, because it belongs to no declared workload."""

    process: Process | None = None


class Callers:
    """Chooses the caller of each accepted connection by the tables in force.

    Args:
        context: the worker's.
        lookup: asks the kernel who called.
        default: the identity of callers that no workload declares as its own, if they are to have one.
        refuse_unknown: whether unknown callers are refused; else they speak with the node's identity, which
            counts as none.
    """

    def __init__(
        self, context: WorkerContext, lookup: OwnerLookup, *, default: str | None, refuse_unknown: bool
    ) -> None:
        self._context = context
        self._lookup = lookup
        self._default = default
        self._refuse_unknown = refuse_unknown
        self._node = Caller.of(str(NodeIdentity(context.trust_domain, context.node)))
        self._known: dict[str, Caller] = {}

    def captured(self, sock: socket.socket) -> Caller | UnknownCaller:
        """Choose for a connection that was redirected to us."""
        return self._by_owner(sock, redirected=True)

    def explicit(self, sock: socket.socket, speaks_for: str | None) -> Caller | UnknownCaller:
        """Choose for a connection to an explicit listener, which may be for one identity alone."""
        if speaks_for is None:
            return self._by_owner(sock, redirected=False)
        if not self._tables.owners.reserved(speaks_for):
            return self._caller(speaks_for, None)
        process = self._lookup.process(sock, redirected=False)
        owner = self._owner(process)
        if isinstance(owner, LocalWorkload) and owner.identity == speaks_for:
            return self._caller(speaks_for, process)
        return self._unknown(process)

    @property
    def _tables(self) -> Tables:
        return self._context.enforced.tables

    def _by_owner(self, sock: socket.socket, *, redirected: bool) -> Caller | UnknownCaller:
        owners = self._tables.owners
        process: Process | None = None
        if owners:
            process = self._lookup.process(sock, redirected=redirected)
            match self._owner(process):
                case LocalWorkload(identity=identity):
                    return self._caller(identity, process)
                case NoOwner.UNDETERMINED:
                    # Not the default either: it may be allowed what the workload that hides is not.
                    return self._unknown(process)
        if self._default is None or owners.reserved(self._default):
            return self._unknown(process)
        return self._caller(self._default, process)

    def _owner(self, process: Process) -> LocalWorkload | NoOwner:
        owner = self._tables.owners.resolve(process)
        outcome = owner.value if isinstance(owner, NoOwner) else "workload"
        self._context.telemetry.add(telemetry.CALLERS, outcome=outcome)
        return owner

    def _caller(self, identity: str, process: Process | None) -> Caller:
        caller = self._known.get(identity)
        if caller is None:
            caller = self._known[identity] = Caller.of(identity)
        return caller if process is None else replace(caller, process=process)

    def _unknown(self, process: Process | None) -> Caller | UnknownCaller:
        if self._refuse_unknown:
            return UnknownCaller(process)
        return self._node if process is None else replace(self._node, process=process)
