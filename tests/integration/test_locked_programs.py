"""The programs as installed, over an etcd that is locked down, set up in the order an operator would."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.contract.locked import LockedEtcd, open_locked_etcd
from tests.support.hosts import Host
from tests.support.mesh import command, free_ports
from tests.support.processes import Processes, wait_until

ADDRESS = "127.0.0.1"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[LockedEtcd]:
    """Run an etcd that is locked down."""
    with open_locked_etcd(tmp_path) as etcd:
        yield etcd


def test_founded_joined_and_live(etcd: LockedEtcd, tmp_path: Path) -> None:
    """Found the mesh, let etcd trust its root, serve, join, run: the node is live, and nothing is amiss."""
    host = Host("here", ADDRESS)
    config = etcd.root
    registry_port, admin_port, tunnel_port = free_ports(3, ADDRESS)
    options = [
        "--state-dir", str(tmp_path / "registry"), "--listen", f"{ADDRESS}:{registry_port}",
        "--etcd", config.endpoints[0], "--etcd-ca", str(config.ca),
        "--etcd-cert", str(config.cert), "--etcd-key", str(config.key),
    ]  # fmt: skip
    meshctl = [command("meshctl"), "--config", str(tmp_path / "meshctl.toml")]
    processes = Processes(tmp_path)
    try:
        host.run(
            command("nodemesh-registry"), "init", *options, "--admin-config", str(tmp_path / "meshctl.toml")
        )
        trio.run(etcd.trust, tomllib.loads((tmp_path / "meshctl.toml").read_text())["ca_pem"])
        registry = processes.start("registry", [command("nodemesh-registry"), "serve", *options])
        ready = f"https://{ADDRESS}:{registry_port}/readyz"
        registry.wait_ready(lambda: host.get(ready, "--insecure").status == 200, what="the API", deadline=30)
        (tmp_path / "workloads.d").mkdir()
        proxy = tmp_path / "proxy.toml"
        proxy.write_text(
            f"""
            node = "web-1"
            address = "{ADDRESS}"
            registry = "https://{ADDRESS}:{registry_port}"
            state_dir = "{tmp_path}/node"
            workloads_dir = "{tmp_path}/workloads.d"
            workers = 1
            [etcd]
            endpoints = ["{config.endpoints[0]}"]
            ca = "{config.ca}"
            [tunnel]
            listen = ["{ADDRESS}:{tunnel_port}"]
            [admin]
            listen = "{ADDRESS}:{admin_port}"
            """
        )
        made = host.run(*meshctl, "node", "token", "create", "--node", "web-1", "--identity", "default/web")
        host.run(command("nodemesh-proxy"), "join", "--token", made.stdout.strip(), "--config", str(proxy))
        processes.start("proxy", [command("nodemesh-proxy"), "run", "--config", str(proxy)])

        def live() -> bool:
            answer = json.loads(host.run(*meshctl, "node", "list", "--output", "json").stdout)
            (node,) = answer["items"]
            assert answer["etcdUsers"] is True
            assert node["remarks"] == []
            return bool(node["live"] and node["address"] == ADDRESS)

        wait_until(live, what="a live node", deadline=30, pause=0.2)
        host.run(*meshctl, "node", "revoke", "web-1")
        wait_until(
            lambda: (
                not json.loads(host.run(*meshctl, "node", "list", "--output", "json").stdout)["items"]
                or "not enrolled" in host.run(*meshctl, "node", "list", check=False).stderr
            ),
            what="a node that counts no more",
            deadline=30,
            pause=0.2,
        )
    except BaseException as error:
        error.add_note(processes.tails())
        raise
    finally:
        processes.stop_all()
