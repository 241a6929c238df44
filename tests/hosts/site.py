"""The site: two machines that ansible has made a mesh of. The first has the registry too; etcd is elsewhere.

``web`` on the first calls ``api`` on the second through the virtual address of the service.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts.machine import Machine, make_key
from tests.hosts.packages import Packages
from tests.hosts.rollout import Outcome, Rollout
from tests.support.hosts import Answer
from tests.support.mesh import Mesh
from tests.support.namespaces import Fabric
from tests.support.plans import render_service
from tests.support.processes import REPOSITORY, wait_until

WEB = {
    "name": "web",
    "ports": [8080],
    "labels": {"app": "web"},
    "health": {"type": "none"},
    "unit": "web.service",
}
API = {
    "name": "api",
    "ports": [8081],
    "labels": {"app": "api", "example.org/tier": "back"},
    "health": {"type": "http", "path": "/healthz", "interval": 0.5},
}
WHEELS, PROGRAMS = "/opt/wheels", "/opt/programs"
NODES = "nodemesh_nodes"
PROXY, REGISTRY = "nodemesh-proxy.service", "nodemesh-registry.service"
_MESHCTL = ["/opt/nodemesh/bin/meshctl", "--config", "/var/lib/nodemesh-registry/meshctl.toml"]


@dataclass(frozen=True)
class Site:
    """The running machines, and what the first rollout came to."""

    mesh: Mesh
    rollout: Rollout
    first: Outcome
    web1: Machine
    api1: Machine

    def meshctl(self, *arguments: str, text: str | None = None) -> str:
        """Run meshctl where the registry is."""
        return self.web1.run(*_MESHCTL, *arguments, text=text).stdout

    def call(self) -> Answer:
        """Ask web on its own host; it asks api through the mesh."""
        return self.web1.host.get("http://127.0.0.1:8080/")

    def registry_answers(self) -> bool:
        """Whether the registry's API is ready."""
        answer = self.web1.host.get(f"https://{self.web1.host.address}:15010/readyz", "--insecure")
        return answer.status == 200

    def wait_answered(self) -> None:
        """Wait until a call goes through both services."""

        def answered() -> bool:
            answer = self.call()
            return answer.status == 200 and json.loads(answer.text)["answered"] == ["web@web-1", "api@api-1"]

        wait_until(answered, what="an answer through the mesh", deadline=20, pause=0.2)


@contextlib.contextmanager
def open_site() -> Iterator[Site]:
    """Boot the machines, roll the mesh out onto them, start the services and wait until they answer."""
    with Fabric(["web-1", "api-1"]) as fabric, Mesh(fabric.switch) as mesh, contextlib.ExitStack() as stack:
        mesh.start_etcd()
        packages = Packages(mesh.folder / "packages")
        wheel = packages.build()
        key = mesh.folder / "login"
        mounts = {WHEELS: packages.dependencies, PROGRAMS: REPOSITORY / "tests/support/programs"}
        public_key = make_key(key)
        machines = [
            Machine(
                host,
                folder=mesh.folder / f"machine-{host.name}",
                processes=mesh.processes,
                public_key=public_key,
                mounts=mounts,
            )
            for host in fabric.hosts.values()
        ]
        for each in machines:
            stack.callback(each.shut_down)
        for each in machines:
            each.boot()
        for each in machines:
            each.wait_up()
        web1, api1 = machines
        rollout = _plan(mesh, wheel, key, web1, api1)
        first = rollout.run()
        assert not first.failed, first.output
        site = Site(mesh, rollout, first, web1, api1)
        site.meshctl("apply", "-f", "-", text=render_service("api", port=80, target=8081, protocol="http"))
        _start_services(site)
        site.wait_answered()
        yield site


def _plan(mesh: Mesh, wheel: Path, key: Path, web1: Machine, api1: Machine) -> Rollout:
    rollout = Rollout(mesh.control, folder=mesh.folder / "ansible", key=key)
    rollout.set(
        nodemesh_package_file=str(wheel),
        nodemesh_package_pip_arguments=f"--no-index --find-links={WHEELS}",
        nodemesh_registry_listen=f"{web1.host.address}:15010",
        nodemesh_registry_etcd=[mesh.etcd_address],
        nodemesh_proxy_registry=f"https://{web1.host.address}:15010",
        nodemesh_proxy_etcd={"endpoints": [mesh.etcd_address]},
    )
    rollout.put("nodemesh_registry", web1.host)
    for machine, workload in ((web1, WEB), (api1, API)):
        rollout.put(
            NODES,
            machine.host,
            nodemesh_proxy_address=machine.host.address,
            nodemesh_proxy_workloads=[workload],
            nodemesh_proxy_config={
                "default_workload": f"default/{workload['name']}",
                "workers": 1,
                "capture": {"enabled": True},
            },
        )
    return rollout


def _start_services(site: Site) -> None:
    start_api(site.api1)

    def address() -> str:
        told: dict[str, Any] = json.loads(site.meshctl("service", "get", "api", "--output", "json"))
        return next((vip for vip in told["vips"] if "." in vip), "")

    virtual = wait_until(address, what="a virtual address of api", deadline=20, pause=0.2)
    _start_service(site.web1, "web", 8080, f"--next=http://{virtual}")


def start_api(machine: Machine) -> None:
    """Start the called service, as a unit that is gone after a reboot."""
    _start_service(machine, "api", 8081)


def _start_service(machine: Machine, name: str, port: int, *arguments: str) -> None:
    machine.run(
        "systemd-run", f"--unit={name}", "--property=DynamicUser=yes", "/usr/bin/python3",
        f"{PROGRAMS}/http_service.py", f"--name={name}@{machine.host.name}", f"--port={port}", *arguments,
    )  # fmt: skip
