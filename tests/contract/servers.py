"""Real etcds that a test may kill, restart, and join to a cluster."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from registry.etcd_server import EtcdPlan, find_etcd, free_ports, start_etcd, stop_etcd, wait_healthy


class OwnEtcd:
    """One member that can be killed and started again on the same ports and data."""

    def __init__(self, plan: EtcdPlan) -> None:
        self.plan = plan
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients."""
        return self.plan.endpoint

    def start(self) -> None:
        """Start it; it is not healthy yet."""
        self._process = start_etcd(self.plan)

    def wait_healthy(self) -> None:
        """Wait, blocking, until it serves."""
        assert self._process is not None
        wait_healthy(self.plan, self._process)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to stop, and wait."""
        if self._process is not None:
            stop_etcd(self._process)

    async def restart(self) -> None:
        """Kill it, and give it its life back; returns when it serves."""
        await trio.to_thread.run_sync(self.kill)
        self.start()
        await trio.to_thread.run_sync(self.wait_healthy)

    async def restart_empty(self) -> None:
        """Kill it, and start it as one that never knew anything."""
        await trio.to_thread.run_sync(self.kill)
        shutil.rmtree(self.plan.data_dir / "data")
        self.start()
        await trio.to_thread.run_sync(self.wait_healthy)


@contextmanager
def open_own_etcd(folder: Path, *extra: str) -> Iterator[OwnEtcd]:
    """Run one member for the length of the block; healthy when it begins."""
    with open_cluster(folder, 1, *extra) as members:
        yield members[0]


@contextmanager
def open_cluster(folder: Path, size: int, *extra: str) -> Iterator[list[OwnEtcd]]:
    """Run a cluster of members on loopback; healthy when the block begins."""
    ports = free_ports(2 * size)
    cluster = tuple((f"m{number}", ports[number]) for number in range(size))
    plans = [
        EtcdPlan(
            binary=find_etcd(),
            data_dir=folder / name,
            client_port=client_port,
            peer_port=peer_port,
            name=name,
            cluster=cluster,
            extra=extra,
        )
        for (name, peer_port), client_port in zip(cluster, ports[size:], strict=True)
    ]
    with run_members(plans) as members:
        yield members


@contextmanager
def run_members(plans: Sequence[EtcdPlan]) -> Iterator[list[OwnEtcd]]:
    """Run members as planned for the length of the block; healthy when it begins."""
    members = [OwnEtcd(plan) for plan in plans]
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.stop)
            member.start()
        for member in members:
            member.wait_healthy()
        yield members
