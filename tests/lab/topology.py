"""The lab: three hosts with captured traffic. One calls, two serve; the last is known by its IPv6 address.

``stock`` and ``store`` are plain TCP services of one endpoint each, ``api`` is HTTP and has two, of which the
first is labelled as version v1 and the second as v2. ``cache``
(Redis) and ``echo`` (gRPC) have one endpoint each, where nothing listens but what a test starts.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.support.hosts import Host
from tests.support.mesh import PREFIX, Mesh, Node
from tests.support.namespaces import Fabric
from tests.support.plans import NodePlan, WorkloadPlan, render_denial, render_service
from tests.support.processes import Process, wait_until

WEB = WorkloadPlan(name="web", port=8080, health="none")
API = WorkloadPlan(name="api", port=8081, health="http")
STOCK = WorkloadPlan(name="stock", port=7001)
STORE = WorkloadPlan(name="store", port=7002)
CACHE = WorkloadPlan(name="cache", port=7003, health="none")
ECHO = WorkloadPlan(name="echo", port=7004, health="none")
TCP_PORT, HTTP_PORT = 7, 80
CACHE_PORT, GRPC_PORT = 6379, 50051
# The one that the resolv.conf of every host names.
RESOLVER = "127.0.0.1:53"

TCP_SERVICE = "tests.support.programs.tcp_service"
TCP_CLIENT = "tests.support.programs.tcp_client"
HTTP_SERVICE = "tests.support.programs.http_service"
LOAD = "tests.support.programs.load"
WIRETAP = "tests.support.programs.wiretap"


@dataclass(frozen=True)
class Lab:
    """A running mesh, its fabric, and the virtual addresses of its services: (IPv4, IPv6)."""

    fabric: Fabric
    mesh: Mesh
    caller: Node
    app1: Node
    app2: Node
    virtual: dict[str, tuple[str, ...]]

    def client(self, what: str, address: str, number: int = 1) -> dict[str, Any]:
        """Run a TCP client on the calling host to its end; give its last report."""
        done = self.caller.host.run(
            sys.executable, "-m", TCP_CLIENT, what, address, str(TCP_PORT), str(number), timeout=100
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def try_client(self, what: str, address: str) -> subprocess.CompletedProcess[str]:
        """Run a TCP client that may fail."""
        return self.caller.host.run(
            sys.executable, "-m", TCP_CLIENT, what, address, str(TCP_PORT), check=False
        )

    def start_client(self, name: str, what: str, address: str, number: int = 1) -> Process:
        """Start a TCP client on the calling host."""
        return self.mesh.processes.start_module(
            name, self.caller.host.prefix, TCP_CLIENT, what, address, str(TCP_PORT), str(number)
        )

    @contextlib.contextmanager
    def load(self, url: str, *, rate: float, seconds: float = 110.0) -> Iterator[Process]:
        """Keep asking for `url` from the calling host; stopped when the block ends."""
        process = self.mesh.processes.start_module(
            "load", self.caller.host.prefix, LOAD, url, "--rate", str(rate), "--seconds", str(seconds)
        )
        try:
            process.wait_ready(lambda: list(process.records()), what="the first answer")
            yield process
        finally:
            process.stop()

    @contextlib.contextmanager
    def wiretap(self, host: Host, interface: str, *markers: str) -> Iterator[Process]:
        """Watch an interface; what was seen is the last record of the process when the block has ended."""
        options = [part for marker in markers for part in ("--marker", marker)]
        process = self.mesh.processes.start_module(
            f"wiretap-{host.name}-{interface}", host.prefix, WIRETAP, interface, "--port", "15008", *options
        )
        try:
            process.wait_log("watching")
            yield process
        finally:
            process.stop()

    @contextlib.contextmanager
    def denied(self, name: str, *, of: WorkloadPlan) -> Iterator[None]:
        """Refuse the caller a service by a policy put with etcdctl; the policy is removed afterwards."""
        key = f"{PREFIX}authorizationpolicies/default/{name}"
        self.mesh.put(key, render_denial(name, of=of.name, source="web", port=of.port))
        try:
            yield
        finally:
            self.mesh.wait_applied(self.mesh.delete(key))

    def wait_reachable(self, service: str) -> None:
        """Wait until a TCP service answers the caller."""
        address = self.virtual[service][0]
        wait_until(
            lambda: self.try_client("name", address).returncode == 0, what=f"{service} to answer", deadline=20
        )


@contextlib.contextmanager
def open_lab() -> Iterator[Lab]:
    """Set everything up, services included, and wait until all of it answers."""
    with Fabric(["web-1", "app-1", "app-2"]) as fabric, Mesh(fabric.switch) as mesh:
        mesh.start_etcd()
        mesh.start_registry()
        mesh.meshctl("apply", "-f", "-", text=_services())
        caller, app1, app2 = mesh.add_nodes(_plans(fabric))
        mesh.start_proxies([caller, app1, app2])
        mesh.start_service(app1, "stock", TCP_SERVICE, "--name", "stock@app-1", "--port", str(STOCK.port))
        mesh.start_service(app2, "store", TCP_SERVICE, "--name", "store@app-2", "--port", str(STORE.port))
        for node in (app1, app2):
            start_api(mesh, node)
        virtual = mesh.wait_services({"api": 2, "stock": 1, "store": 1, "cache": 1, "echo": 1})
        # The caller finds them by its resolver.
        for node in (app1, app2):
            node.host.map_names({f"{name}.mesh": addresses for name, addresses in virtual.items()})
        lab = Lab(fabric, mesh, caller, app1, app2, virtual)
        lab.wait_reachable("stock")
        lab.wait_reachable("store")
        yield lab


def start_api(mesh: Mesh, node: Node) -> Process:
    """Start the HTTP service on a node."""
    return mesh.start_service(
        node, "api", HTTP_SERVICE, "--name", f"api@{node.name}", "--port", str(API.port)
    )


def answered_by(load: Process) -> list[str]:
    """Who answered each request so far, in order; the error instead where there was one."""
    return [record["error"] or record["by"][0] for record in load.records()]


def _plans(fabric: Fabric) -> list[NodePlan]:
    web1, app1, app2 = fabric.hosts.values()
    return [
        NodePlan(name="web-1", host=web1, speaks_for=WEB, workloads=(WEB,), dns=RESOLVER),
        NodePlan(name="app-1", host=app1, speaks_for=API, workloads=(_version("v1"), STOCK, CACHE)),
        NodePlan(
            name="app-2",
            host=app2,
            speaks_for=API,
            workloads=(_version("v2"), STORE, ECHO),
            address=app2.address6,
        ),
    ]


def _version(name: str) -> WorkloadPlan:
    return replace(API, labels={"version": name})


def _services() -> str:
    return "".join([
        render_service("api", port=HTTP_PORT, target=API.port, protocol="http"),
        render_service("stock", port=TCP_PORT, target=STOCK.port, protocol="tcp"),
        render_service("store", port=TCP_PORT, target=STORE.port, protocol="tcp"),
        render_service("cache", port=CACHE_PORT, target=CACHE.port, protocol="tcp"),
        render_service("echo", port=GRPC_PORT, target=ECHO.port, protocol="grpc"),
    ])  # fmt: skip
