"""Two workers on loopback: `near` has the callers, `far` has the workloads, one tunnel port between them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from socket import socket

from node_proxy.snapshot import LocalWorkload, ServiceView
from registry.model.authorization import AuthorizationPolicy
from registry.model.mesh import DefaultAuthorization
from tests.integration.certificates import Authority, spiffe
from tests.integration.snapshots import endpoint, local, service, snapshot
from tests.integration.worker import Worker, stopping
from tests.integration.workloads import call

WEB = spiffe("web")
API = spiffe("api")
SERVICE_PORT = 80
ESTABLISHED = "01"


class Pair:
    """Running workers; each service is a name with the ports of its workloads on the far host."""

    def __init__(self, near: Worker, far: Worker, services: Mapping[str, Sequence[int]]) -> None:
        self.near = near
        self.far = far
        self._services = services
        self._revision = 1

    def call(self, name: str) -> socket:
        """Connect to a service as a process of the near host does."""
        return call(self.near.ports[f"default/{name}:{SERVICE_PORT}"])

    def enforce(
        self, *policies: AuthorizationPolicy, default: DefaultAuthorization = DefaultAuthorization.ALLOW
    ) -> None:
        """Put these policies in force on the far host."""
        self._revision += 1
        self.far.give_snapshot(
            snapshot(
                self.far,
                revision=self._revision,
                workloads=(self._workload(),),
                policies=policies,
                default=default,
            )
        )

    def start(self, authority: Authority) -> None:
        """Start both with certificates of `authority`."""
        roots = authority.root_pem
        self.far.start(snapshot(self.far, workloads=(self._workload(),)), [authority.issue(API)], roots)
        self.near.start(
            snapshot(self.near, services=self.views(), workloads=(local("web"),)),
            [authority.issue(WEB)],
            roots,
        )

    def views(self) -> tuple[ServiceView, ...]:
        """Give the services as the near host sees them."""
        return tuple(
            service(
                f"default/{name}",
                SERVICE_PORT,
                *(
                    endpoint(self.far.node, self.far.address, self.far.tunnel_port, port, identity=API)
                    for port in ports
                ),
            )
            for name, ports in self._services.items()
        )

    def tunnels(self) -> int:
        """Count the connections to the far host's tunnel port, as the kernel sees them."""
        address = int.from_bytes(ip_address(self.far.address).packed, sys.byteorder)
        # The port alone may be one of other loopback addresses too.
        wanted = f"{address:08X}:{self.far.tunnel_port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2] == wanted and row[3] == ESTABLISHED for row in rows)

    def _workload(self) -> LocalWorkload:
        ports = sorted({port for ports in self._services.values() for port in ports})
        return local("api", *ports)


@contextmanager
def run_pair(
    authority: Authority, services: Mapping[str, Sequence[int]], *, far_address: str = "127.0.0.3"
) -> Iterator[Pair]:
    """Run two workers that carry `services` from near to far."""
    near = Worker("near", "127.0.0.2", calls=[(f"default/{name}", SERVICE_PORT, WEB) for name in services])
    far = Worker("far", far_address)
    with stopping(near, far):
        pair = Pair(near, far, services)
        pair.start(authority)
        yield pair
