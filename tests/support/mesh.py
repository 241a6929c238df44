"""A whole mesh of real programs: etcd, a registry, nodes. In namespaces or on loopback, by its hosts."""

import ipaddress
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from registry.etcd_server import find_etcd
from tests.support.hosts import Host, find_tool
from tests.support.plans import NodePlan, render_proxy, render_workload
from tests.support.processes import Process, Processes, wait_until

PREFIX = "/nodemesh/v1/"
_READY = 30.0


class Node:
    """A host with its proxy and the services on it."""

    def __init__(self, plan: NodePlan, folder: Path) -> None:
        self.plan = plan
        self.host: Host = plan.host
        self.name = plan.name
        self.folder = folder
        self.proxy: Process | None = None
        self.services: dict[str, Process] = {}

    @property
    def config(self) -> Path:
        """Its proxy.toml."""
        return self.folder / "proxy.toml"

    @property
    def running_proxy(self) -> Process:
        """Its proxy's agent process."""
        assert self.proxy is not None, f"the proxy of {self.name} was not started"
        return self.proxy

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        # Each thread has its own children.
        lists = Path(f"/proc/{self.running_proxy.pid}/task").glob("*/children")
        children = [child for path in lists for child in path.read_text().split()]
        return sorted(int(child) for child in children if "dataplane" in _command_line(child))

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log records of its agent and workers with this event."""
        return [record for record in self.running_proxy.records() if record.get("event") == event]

    def metrics(self) -> str:
        """What its admin page says of counters and gauges."""
        return self.host.get(f"http://{self.plan.admin}/metrics").text


class Mesh:
    """Everything of one mesh below one temporary folder; leaving the block ends and removes it."""

    def __init__(self, control: Host) -> None:
        self.control = control
        self.folder = Path(tempfile.mkdtemp(prefix="nodemesh-"))
        self.processes = Processes(self.folder)
        self.nodes: dict[str, Node] = {}
        ports = [2379, 2380, 15010] if control.namespace else free_ports(3, control.address)
        self.etcd_address = f"{control.address}:{ports[0]}"
        self._peer_address = f"{control.address}:{ports[1]}"
        self.registry_address = f"{control.address}:{ports[2]}"
        self.etcd: Process | None = None
        self.registry: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # The logs go with the folder.
            error.add_note(self.processes.tails())
        self.processes.stop_all()
        shutil.rmtree(self.folder)

    @property
    def meshctl_config(self) -> Path:
        """The file by which meshctl finds this mesh."""
        return self.folder / "meshctl.toml"

    def start_etcd(self) -> Process:
        """Start etcd over this mesh's data, which outlives its stops, and wait until it answers."""
        client, peer = f"http://{self.etcd_address}", f"http://{self._peer_address}"
        self.etcd = self.processes.start(
            "etcd",
            [
                *self.control.prefix, str(find_etcd()), "--name=one", f"--data-dir={self.folder}/etcd",
                f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=one={peer}", "--logger=zap", "--log-level=warn",
            ],
        )  # fmt: skip
        self.etcd.wait_ready(
            lambda: self.control.get(f"{client}/health").status == 200, what="etcd's health", deadline=_READY
        )
        return self.etcd

    def stop_etcd(self) -> None:
        """Stop etcd, keeping its data."""
        assert self.etcd is not None, "etcd was not started"
        self.etcd.stop()

    def start_registry(self) -> Process:
        """Initialise the registry, start it, and wait until it serves."""
        options = [
            "--state-dir", str(self.folder / "registry"), "--etcd", self.etcd_address,
            "--listen", self.registry_address, "--name", self.control.address,
        ]  # fmt: skip
        self.control.run(
            command("nodemesh-registry"), "init", *options, "--admin-config", str(self.meshctl_config)
        )
        self.registry = self.processes.start(
            "registry", [*self.control.prefix, command("nodemesh-registry"), "serve", *options]
        )
        ready = f"https://{self.registry_address}/readyz"
        self.registry.wait_ready(
            # Its certificate is checked by all who use it; here only its being there is asked.
            lambda: self.control.get(ready, "--insecure").status == 200,
            what="the registry's API",
            deadline=_READY,
            pause=0.1,
        )
        return self.registry

    def meshctl(
        self, *arguments: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run meshctl where the registry is."""
        return self.control.run(
            command("meshctl"), "--config", str(self.meshctl_config), *arguments, text=text, check=check
        )

    def meshctl_json(self, *arguments: str, ok: Iterable[int] = (0,)) -> Any:
        """Run meshctl and read its JSON; an exit status in `ok` is no failure."""
        done = self.meshctl(*arguments, "--output", "json", check=False)
        assert done.returncode in ok, f"meshctl {' '.join(arguments)}: {done.returncode}: {done.stderr}"
        return json.loads(done.stdout)

    def etcdctl(self, *arguments: str, text: str | None = None) -> str:
        """Run etcdctl against this mesh's etcd, as an operator would."""
        return self.control.run(*self.etcdctl_command(), *arguments, text=text).stdout

    def etcdctl_command(self) -> list[str]:
        """How this mesh's etcd is spoken to by hand."""
        return ["env", "ETCDCTL_API=3", find_tool("etcdctl"), f"--endpoints=http://{self.etcd_address}"]

    def add_nodes(self, plans: Sequence[NodePlan]) -> list[Node]:
        """Write nodes' files, give each a token, and let them join, all at once."""
        with ThreadPoolExecutor() as pool:
            nodes = list(pool.map(self._join, plans))
        self.nodes |= {node.name: node for node in nodes}
        return nodes

    def _join(self, plan: NodePlan) -> Node:
        folder = self.folder / plan.name
        (folder / "workloads.d").mkdir(parents=True)
        node = Node(plan, folder)
        node.config.write_text(
            render_proxy(plan, folder, etcd=self.etcd_address, registry=f"https://{self.registry_address}")
        )
        for workload in plan.workloads:
            file = folder / "workloads.d" / f"{workload.namespace}.{workload.name}.toml"
            file.write_text(render_workload(workload))
        identities = [part for name in plan.identities for part in ("--identity", name)]
        token = self.meshctl("node", "token", "create", "--node", plan.name, *identities).stdout.strip()
        plan.host.run(
            command("nodemesh-proxy"), "join", "--registry", f"https://{self.registry_address}",
            "--token", token, "--config", str(node.config),
        )  # fmt: skip
        return node

    def start_proxies(self, nodes: Sequence[Node]) -> None:
        """Start the proxies of `nodes` together and wait until each is ready."""
        for node in nodes:
            node.proxy = self.processes.start(
                f"{node.name}-proxy",
                [*node.host.prefix, command("nodemesh-proxy"), "run", "--config", str(node.config)],
            )
        for node in nodes:
            ready = f"http://{node.plan.admin}/readyz"
            node.running_proxy.wait_ready(
                lambda node=node, ready=ready: node.host.get(ready).status == 200,  # type: ignore[misc]
                what=f"the proxy of {node.name}",
                deadline=_READY,
                pause=0.1,
            )

    def start_service(self, node: Node, workload: str, module: str, *arguments: str) -> Process:
        """Start a program as a workload of a node and wait until it says that it serves."""
        process = self.processes.start_module(f"{node.name}-{workload}", node.host.prefix, module, *arguments)
        process.wait_log("serving")
        node.services[workload] = process
        return process

    def wait_services(self, usable: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Wait until each service (of namespace default) has this many usable endpoints.

        Gives their virtual addresses, IPv4 first.
        """

        def ready() -> dict[str, tuple[str, ...]]:
            found = {item["name"]: item for item in self.meshctl_json("service", "list")["items"]}
            for name, count in usable.items():
                item = found.get(name, {"vips": [], "endpoints": []})
                if (
                    len([each for each in item["endpoints"] if each["usable"]]) != count
                    or len(item["vips"]) < 2
                ):
                    return {}
            return {name: tuple(sorted(found[name]["vips"], key=_family)) for name in usable}

        return wait_until(ready, what=f"usable endpoints: {dict(usable)}", deadline=_READY, pause=0.2)

    def put(self, key: str, text: str, *, lease: int = 0) -> int:
        """Write a key with etcdctl; give the revision of the write."""
        return _revision(self.etcdctl("put", key, f"--lease={lease:x}", "--write-out=json", text=text))

    def delete(self, key: str) -> int:
        """Delete a key with etcdctl; give the revision of that."""
        return _revision(self.etcdctl("del", key, "--write-out=json"))

    def commit(self, puts: Mapping[str, str], deletes: Iterable[str] = ()) -> int:
        """Write and delete keys with etcdctl in one transaction; give its revision."""
        # etcdctl reads conditions, what to do, and what to do otherwise, each ended by an empty line.
        lines = [f"put {key} {json.dumps(value)}" for key, value in puts.items()]
        lines += [f"del {key}" for key in deletes]
        return _revision(self.etcdctl("txn", "--write-out=json", text="\n" + "\n".join(lines) + "\n\n\n"))

    def wait_applied(self, revision: int, *, deadline: float = _READY) -> None:
        """Wait until every node enforces the store as of `revision`."""

        def applied() -> bool:
            # Exit status 1 says that some node is unwell, which is for the caller to judge.
            items = self.meshctl_json("proxy", "status", ok=(0, 1))["items"]
            return all(item["appliedRevision"] >= revision for item in items if item["live"])

        wait_until(applied, what=f"revision {revision} on every node", deadline=deadline, pause=0.1)


def free_ports(count: int, *addresses: str) -> list[int]:
    """Find ports that are free on all these addresses at this moment."""
    found: list[int] = []
    while len(found) < count:
        with socket.create_server((addresses[0], 0)) as probe:
            port = probe.getsockname()[1]
        try:
            for address in addresses[1:]:
                socket.create_server((address, port)).close()
        except OSError:
            continue
        if port not in found:
            found.append(port)
    return found


def _family(address: str) -> int:
    return ipaddress.ip_address(address).version


def _revision(answer: str) -> int:
    return int(json.loads(answer)["header"]["revision"])


def command(name: str) -> str:
    """The project's command as installed beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
