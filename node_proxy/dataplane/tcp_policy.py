"""What routes and policies say of connections that are passed on as they are."""

import socket
from functools import lru_cache
from ipaddress import ip_address

from node_proxy.address import canonical
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.tables import Route
from registry.model.backend_policy import BackendPolicySpec, RetryReason
from registry.model.identity import Identity, WorkloadIdentity
from registry.rules.balancing.keys import NO_KEYS, Keys, find_keys
from registry.rules.routing import choose_weighted


def lead(context: WorkerContext, route: Route, caller: Identity) -> Route | None:
    """Give the service port that a connection to `route` goes to; None if that is none the mesh knows.

    Whoever calls an endpoint by its own address goes there: no route is attached to that.
    """
    tables = context.enforced.tables
    if tables.by_name(route.service, route.port) is not route:
        return route
    namespace = caller.namespace if isinstance(caller, WorkloadIdentity) else None
    backends = tables.tcp_backends(route, namespace)
    if not backends:
        return route
    chosen = choose_weighted(backends, sum(backend.weight for backend in backends), context.rng)
    return None if chosen is None else tables.by_name(chosen.service, chosen.port)


def connection_keys(policy: BackendPolicySpec, caller: socket.socket, identity: str) -> Keys:
    """Give what the endpoint of a connection goes by: nothing is known of it but its caller."""
    balancing = policy.load_balancing
    if balancing.hash_on is None and balancing.sticky_session is None:
        return NO_KEYS
    address = routable_address(caller)
    return find_keys(balancing, (), (address[0] if address else identity).encode())


def most_attempts(policy: BackendPolicySpec) -> int:
    """Give how many endpoints a connection is tried at.

    Nothing of it is sent before one accepts, so that another try is always safe. It is not taken from the
    retry budget, which bounds what servers are given to do: to be refused is little work.
    """
    retries = policy.retries
    return 1 + retries.attempts if RetryReason.UNSENT in retries.on else 1


def routable_address(caller: socket.socket) -> tuple[str, int] | None:
    """Give the address and port of a caller's socket; None where it has none that leads to it."""
    try:
        name = caller.getpeername()
    except OSError:
        return None
    if not isinstance(name, tuple):
        # A Unix socket.
        return None
    address = _routable(name[0])
    return None if address is None else (address, name[1])


# To read an address costs more than all else here, and most callers come from few.
@lru_cache(maxsize=1024)
def _routable(text: str) -> str | None:
    address = canonical(text)
    return None if ip_address(address).is_loopback else address
