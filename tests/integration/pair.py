"""Two workers on loopback: `near` has the callers, `far` has the workloads, one tunnel port between them."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from socket import socket

from node_proxy.snapshot import Endpoint, LocalWorkload, ServiceView
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.http_route import HTTPRoute
from registry.model.mesh import DefaultAuthorization
from registry.model.service import PortProtocol
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

    def __init__(
        self,
        near: Worker,
        far: Worker,
        services: Mapping[str, Sequence[int]],
        protocol: PortProtocol = PortProtocol.TCP,
        elsewhere: Mapping[int, Worker] | None = None,
    ) -> None:
        """Leave out `elsewhere` unless some ports are those of other far hosts."""
        self._protocol = protocol
        self.near = near
        self.far = far
        self._elsewhere = elsewhere or {}
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
                workloads=(self._workload(self.far),),
                policies=policies,
                default=default,
            )
        )

    def serve(self, services: Mapping[str, Sequence[int]]) -> None:
        """Have these ports behind the services at the far host; `lead` tells the near one."""
        self._services = services
        self.enforce()

    def serve_to_callers(self, services: Mapping[str, Sequence[int]]) -> None:
        """Have these ports behind the services for callers alone; `serve` tells the far host."""
        self._services = services
        self.lead()

    def lead(
        self, *routes: HTTPRoute, policies: tuple[BackendPolicy, ...] = (), without: tuple[str, ...] = ()
    ) -> None:
        """Put these routes and policies in force on the near host; of the services some may be gone."""
        self._revision += 1
        self.near.give_snapshot(
            snapshot(
                self.near,
                revision=self._revision,
                services=tuple(view for view in self.views() if view.name not in without),
                workloads=(local("web"),),
                http_routes=routes,
                backend_policies=policies,
            )
        )

    def start(self, authority: Authority) -> None:
        """Start both with certificates of `authority`."""
        roots = authority.root_pem
        for far in {self.far, *self._elsewhere.values()}:
            far.start(snapshot(far, workloads=(self._workload(far),)), [authority.issue(API)], roots)
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
                *(self._endpoint(port) for port in ports),
                protocol=self._protocol,
            )
            for name, ports in self._services.items()
        )

    def memory(self) -> int:
        """Give the resident memory of both workers together, in bytes."""
        return self.near.memory() + self.far.memory()

    def tunnels(self) -> int:
        """Count the connections to the far host's tunnel port, as the kernel sees them."""
        address = int.from_bytes(ip_address(self.far.address).packed, sys.byteorder)
        # The port alone may be one of other loopback addresses too.
        wanted = f"{address:08X}:{self.far.tunnel_port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2] == wanted and row[3] == ESTABLISHED for row in rows)

    def _endpoint(self, port: int) -> Endpoint:
        far = self._elsewhere.get(port, self.far)
        return endpoint(far.node, far.address, far.tunnel_port, port, identity=API)

    def _workload(self, far: Worker) -> LocalWorkload:
        ports = {port for ports in self._services.values() for port in ports}
        own = sorted(port for port in ports if self._elsewhere.get(port, self.far) is far)
        return local("api", *own, protocol=self._protocol)


@contextmanager
def run_pair(
    authority: Authority,
    services: Mapping[str, Sequence[int]],
    *,
    far_address: str = "127.0.0.3",
    protocol: PortProtocol = PortProtocol.TCP,
    elsewhere: Mapping[int, Worker] | None = None,
) -> Iterator[Pair]:
    """Run two workers that carry `services` from near to far, or more if some ports are `elsewhere`."""
    near = Worker("near", "127.0.0.2", calls=[(f"default/{name}", SERVICE_PORT, WEB) for name in services])
    far = Worker("far", far_address)
    with stopping(near, far, *(elsewhere or {}).values()):
        pair = Pair(near, far, services, protocol, elsewhere)
        pair.start(authority)
        yield pair
