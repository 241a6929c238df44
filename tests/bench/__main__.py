"""Runs the benchmark: ``python -m tests.bench``.

Two hosts with a proxy each, a client on one and a service on the other. Each measure is taken in turn
directly and through the mesh, several times, on whatever machine this is: only the ratios say something, and
they say it of this machine with everything on it.
"""

import contextlib
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.support.hosts import Host, can_make_namespaces
from tests.support.mesh import Mesh, free_ports
from tests.support.namespaces import Fabric
from tests.support.plans import ListenerPlan, NodePlan, WorkloadPlan, render_service
from tests.support.processes import wait_until

ROUNDS = 5
MEASURES = {"throughput": 256, "latency": 3000, "connections": 300}
SERVICE_PORT = 7


@dataclass(frozen=True)
class Bench:
    """Where the client runs, and the address and port of the service directly and through the mesh."""

    client: Host
    direct: tuple[str, int]
    mesh: tuple[str, int]


def main() -> int:
    """Measure and print."""
    console = Console(highlight=False)
    figures: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    with console.status("setting up"), _open_bench(namespaces=can_make_namespaces()) as bench:
        for measure, count in MEASURES.items():
            for number in range(ROUNDS):
                console.print(f"{measure}, round {number + 1} of {ROUNDS}", style="dim")
                for way, address in (("direct", bench.direct), ("mesh", bench.mesh)):
                    for unit, value in _measure(bench.client, measure, address, count).items():
                        figures[way, f"{measure}, {unit}"].append(value)
    table = Table("", "direct", "through the mesh", "ratio", box=None, header_style="bold")
    for way, name in figures:
        if way == "direct":
            direct, mesh = (statistics.median(figures[w, name]) for w in ("direct", "mesh"))
            table.add_row(name, f"{direct:,.1f}", f"{mesh:,.1f}", f"{mesh / direct:.2f}")
    console.print(table)
    console.print(
        f"Medians of {ROUNDS} rounds taken in turn; all of it shared {os.cpu_count()} cores. "
        "Direct is plain TCP without TLS.",
        style="dim",
    )
    return 0


def _measure(client: Host, measure: str, address: tuple[str, int], count: int) -> dict[str, float]:
    done = client.run(
        sys.executable,
        "-m",
        "tests.bench.client",
        measure,
        address[0],
        str(address[1]),
        str(count),
        timeout=120,
    )
    return dict(json.loads(done.stdout))


@contextlib.contextmanager
def _open_bench(*, namespaces: bool) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        if namespaces:
            fabric = stack.enter_context(Fabric(["caller", "server"]))
            mesh = stack.enter_context(Mesh(fabric.switch))
            hosts = list(fabric.hosts.values())
            tunnel, admin, listener, service = 15008, 15020, 0, 7001
        else:
            mesh = stack.enter_context(Mesh(Host("here", "127.0.0.1")))
            hosts = [Host("caller", "127.0.0.11"), Host("server", "127.0.0.12")]
            tunnel, admin, listener, service = free_ports(4, *(host.address for host in hosts))
        calls = WorkloadPlan(name="caller", port=service + 1, health="none", address=hosts[0].address)
        serves = WorkloadPlan(name="server", port=service, address=hosts[1].address)
        local = f"{hosts[0].address}:{listener}"
        plans = [
            NodePlan(
                name=host.name, host=host, speaks_for=workload, workloads=(workload,), capture=namespaces,
                listeners=(ListenerPlan(address=local, service="default/server", port=SERVICE_PORT),)
                if listener and host is hosts[0] else (),
                tunnel_port=tunnel, admin=f"{'127.0.0.1' if namespaces else host.address}:{admin}",
            )
            for host, workload in zip(hosts, (calls, serves), strict=True)
        ]  # fmt: skip
        mesh.start_etcd()
        mesh.start_registry()
        document = render_service("server", port=SERVICE_PORT, target=service, protocol="tcp")
        mesh.meshctl("apply", "-f", "-", text=document)
        nodes = mesh.add_nodes(plans)
        mesh.start_proxies(nodes)
        mesh.start_service(
            nodes[1], "server", "tests.support.programs.tcp_service", "--name", "server",
            "--listen", hosts[1].address, "--port", str(service),
        )  # fmt: skip
        virtual = mesh.wait_services({"server": 1})
        through = (hosts[0].address, listener)
        if namespaces:
            through = (virtual["server"][0], SERVICE_PORT)
        wait_until(lambda: _answers(hosts[0], through), what="the service through the mesh", deadline=20)
        yield Bench(hosts[0], (hosts[1].address, service), through)


def _answers(client: Host, address: tuple[str, int]) -> bool:
    done = client.run(
        sys.executable,
        "-m",
        "tests.bench.client",
        "connections",
        address[0],
        str(address[1]),
        "1",
        check=False,
    )
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
