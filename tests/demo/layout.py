"""Where the demo's mesh runs: in network namespaces with captured traffic, or on loopback with listeners.

web-1 runs web, app-1 runs api, app-2 runs api and db; web asks api, api asks db.
"""

import contextlib
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.hosts import Host
from tests.support.mesh import Mesh, Node, free_ports
from tests.support.namespaces import Fabric
from tests.support.plans import ListenerPlan, NodePlan, WorkloadPlan
from tests.support.processes import Process

HTTP_SERVICE = "tests.support.programs.http_service"
NAMES = ("web-1", "app-1", "app-2")


@dataclass(frozen=True)
class Tap:
    """A place where bytes between hosts are looked at."""

    where: str
    process: Process


@dataclass
class Layout:
    """The mesh's plan. `api_url` and `db_url` are what a plain client on each node calls.

    A text `marker` is what the wire is searched for.
    """

    mesh: Mesh
    plans: dict[str, NodePlan]
    db_url: dict[str, str]
    api_url: str
    fabric: Fabric | None = None
    marker: str = field(default_factory=lambda: f"marker-{secrets.token_hex(8)}")
    nodes: dict[str, Node] = field(default_factory=dict)

    def port(self, workload: str) -> int:
        """The port on which a workload listens on its host."""
        return next(w.port for plan in self.plans.values() for w in plan.workloads if w.name == workload)

    def start_service(self, node: str, workload: str) -> Process:
        """Start web, api or db on a node."""
        plan = next(w for w in self.plans[node].workloads if w.name == workload)
        following = {"web": self.api_url, "api": self.db_url[node], "db": ""}[workload]
        return self.mesh.start_service(
            self.nodes[node], workload, HTTP_SERVICE, "--name", f"{workload}@{node}",
            "--listen", plan.address, "--port", str(plan.port), "--next", following,
        )  # fmt: skip

    @property
    def web_url(self) -> str:
        """What a person's browser on web-1 would open."""
        (web,) = self.plans["web-1"].workloads
        return f"http://{web.address}:{web.port}/"

    def typed(self, node: str, command: str) -> str:
        """A command as one types it to run it on a node."""
        prefix = " ".join(self.plans[node].host.prefix)
        return f"{prefix} {command}".strip()


@contextlib.contextmanager
def open_layout(*, namespaces: bool) -> Iterator[Layout]:
    """Give the plan and an empty mesh; what is started in it is ended with the block."""
    if namespaces:
        with Fabric(NAMES) as fabric, Mesh(fabric.switch) as mesh:
            yield _captured(fabric, mesh)
    else:
        with Mesh(Host("here", "127.0.0.1")) as mesh:
            yield _explicit(mesh)


def _captured(fabric: Fabric, mesh: Mesh) -> Layout:
    web = WorkloadPlan(name="web", port=8080, health="http")
    api = WorkloadPlan(name="api", port=8081, health="http")
    db = WorkloadPlan(name="db", port=8082, health="http")
    hosts = fabric.hosts
    plans = [
        NodePlan(name="web-1", host=hosts["web-1"], speaks_for=web, workloads=(web,)),
        NodePlan(name="app-1", host=hosts["app-1"], speaks_for=api, workloads=(api,)),
        NodePlan(name="app-2", host=hosts["app-2"], speaks_for=api, workloads=(api, db)),
    ]
    return Layout(
        mesh=mesh,
        plans={plan.name: plan for plan in plans},
        api_url="http://api.mesh/",
        db_url=dict.fromkeys(NAMES, "http://db.mesh/"),
        fabric=fabric,
    )


def _explicit(mesh: Mesh) -> Layout:
    addresses = [f"127.0.0.{11 + i}" for i in range(len(NAMES))]
    # Others dial the tap at the node's address; the proxy itself listens at a second one.
    behind = [f"127.0.0.{111 + i}" for i in range(len(NAMES))]
    tunnel, admin, caller, web_port, api_port, db_port = free_ports(6, *addresses, *behind)
    plans = []
    for i, name in enumerate(NAMES):
        web = WorkloadPlan(name="web", port=web_port, health="http", address=addresses[i])
        api = WorkloadPlan(name="api", port=api_port, health="http", address=addresses[i])
        db = WorkloadPlan(name="db", port=db_port, health="http", address=addresses[i])
        speaks_for = web if name == "web-1" else api
        plans.append(
            NodePlan(
                name=name,
                host=Host(name, addresses[i]),
                speaks_for=speaks_for,
                workloads=(speaks_for, db) if name == "app-2" else (speaks_for,),
                listeners=(
                    ListenerPlan(
                        address=f"{addresses[i]}:{caller}",
                        service="default/api" if name == "web-1" else "default/db",
                        port=80,
                    ),
                ),
                capture=False,
                tunnel=behind[i],
                tunnel_port=tunnel,
                admin=f"{addresses[i]}:{admin}",
            )
        )
    return Layout(
        mesh=mesh,
        plans={plan.name: plan for plan in plans},
        api_url=f"http://{addresses[0]}:{caller}/",
        db_url={name: f"http://{address}:{caller}/" for name, address in zip(NAMES, addresses, strict=True)},
    )


def start_taps(layout: Layout) -> list[Tap]:
    """Start watching between the hosts: on loopback the taps are part of the way and must start first."""
    processes, marker = layout.mesh.processes, layout.marker
    taps = []
    if layout.fabric is None:
        for plan in layout.plans.values():
            listen, to = f"{plan.host.address}:{plan.tunnel_port}", f"{plan.tunnel}:{plan.tunnel_port}"
            process = processes.start_module(
                f"tap-{plan.name}", (), "tests.support.programs.tap", listen, to, "--marker", marker
            )
            taps.append(Tap(f"before {plan.name}'s tunnel port", process))
    else:
        switch = layout.fabric.switch
        for name, host in layout.fabric.hosts.items():
            port = layout.fabric.port_of(host)
            process = processes.start_module(
                f"wiretap-{name}", switch.prefix, "tests.support.programs.wiretap", port,
                "--port", str(layout.plans[name].tunnel_port), "--marker", marker,
            )  # fmt: skip
            taps.append(Tap(f"the switch's port to {name}", process))
    for tap in taps:
        tap.process.wait_log("watching")
    return taps


def read_tap(tap: Tap) -> dict[str, Any]:
    """Ask a tap what it found so far in the tunnels' streams."""
    before = len(list(tap.process.records()))
    tap.process.signal(signal.SIGUSR1)
    records = tap.process.wait_ready(
        lambda: list(tap.process.records())[before:], what="its findings", deadline=5
    )
    return dict(records[-1]["tls"])
