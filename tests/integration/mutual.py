"""Two workers on loopback that call each other: each has callers, and workloads of two identities."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from node_proxy.snapshot import ServiceView
from tests.integration.certificates import Authority, spiffe
from tests.integration.snapshots import endpoint, local, service, snapshot
from tests.integration.worker import Worker, stopping

CALLER = "web"
# Two, so that there are two tunnels each way.
ACCOUNTS = ("api", "db")
SERVICE_PORT = 80


class Host:
    """A worker that is called `name`, and what it is called for: a listening socket for each account."""

    def __init__(self, name: str, address: str, other: str) -> None:
        self.listeners = {
            account: socket.create_server(("127.0.0.1", 0), backlog=1024) for account in ACCOUNTS
        }
        calls = [(f"default/{other}-{account}", SERVICE_PORT, spiffe(CALLER)) for account in ACCOUNTS]
        self.worker = Worker(name, address, calls=calls)

    def views(self) -> tuple[ServiceView, ...]:
        """Give the services of this host's workloads."""
        worker = self.worker
        return tuple(
            service(
                f"default/{worker.node}-{account}",
                SERVICE_PORT,
                endpoint(worker.node, worker.address, worker.tunnel_port, port, identity=spiffe(account)),
            )
            for account, port in self._ports()
        )

    def start(self, authority: Authority, services: tuple[ServiceView, ...]) -> None:
        """Start the worker with these services to call."""
        workloads = (local(CALLER), *(local(account, port) for account, port in self._ports()))
        self.worker.start(
            snapshot(self.worker, services=services, workloads=workloads),
            [authority.issue(spiffe(account)) for account in (CALLER, *ACCOUNTS)],
            authority.root_pem,
        )

    def _ports(self) -> Iterator[tuple[str, int]]:
        return ((account, each.getsockname()[1]) for account, each in self.listeners.items())


@contextmanager
def run_mutual(authority: Authority) -> Iterator[tuple[Host, Host]]:
    """Run both; their listeners are the caller's to serve, and are closed at the end."""
    hosts = Host("east", "127.0.0.2", "west"), Host("west", "127.0.0.3", "east")
    try:
        with stopping(*(host.worker for host in hosts)):
            for host, other in (hosts, hosts[::-1]):
                host.start(authority, other.views())
            yield hosts
    finally:
        for host in hosts:
            for listener in host.listeners.values():
                listener.close()
