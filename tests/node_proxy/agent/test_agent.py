import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import trio
from msgspec import structs

from node_proxy.address import SocketAddress
from node_proxy.agent.agent import Agent
from node_proxy.agent.credentials import Keyring
from node_proxy.agent.listeners import bind_all, bound_address
from node_proxy.agent.trust import fingerprints
from node_proxy.config import (
    AdminSection,
    HealthSection,
    NodeConfig,
    ProxyConfig,
    TunnelSection,
    WorkloadConfig,
)
from node_proxy.errors import ConfigError
from registry.ca.bundle import read_bundle
from registry.ca.revoking import Editor
from registry.clock import utc_now
from registry.model.decision import NodeDecisions
from registry.model.enrolment import TrustBundleSpec
from registry.model.parse import render
from registry.model.workload import NodeStatus
from registry.store.base import Store
from registry.store.codec import parse_at
from registry.store.memory import MemoryStore
from tests.node_proxy.agent.documents import BAD, TRUST_DOMAIN, policy, service
from tests.node_proxy.agent.material import make_authority
from tests.node_proxy.agent.real_registry import RealRegistry

T = TypeVar("T")

PATIENCE = 30.0
FAKE_WORKER = [sys.executable, "-m", "tests.fakes.worker"]
WEB = WorkloadConfig(name="web", ports=(8080,), labels={"app": "web"}, health=HealthSection(type="none"))
ANY = SocketAddress("127.0.0.1:0")


def configuration(state_dir: Path, registry: str, node: str = "web-1") -> NodeConfig:
    """Give a node that listens on free ports of loopback."""
    proxy = ProxyConfig(
        node=node,
        address="127.0.0.1",
        registry=registry,
        state_dir=str(state_dir),
        workers=2,
        default_workload="default/web",
        tunnel=TunnelSection(listen=(ANY,)),
        admin=AdminSection(listen=ANY),
    )
    return NodeConfig(proxy=proxy, workloads=(WEB,))


async def eventually(ask: Callable[[], Awaitable[T]], condition: Callable[[T], object]) -> T:
    """Ask again and again until the answer fulfils the condition."""
    with trio.fail_after(PATIENCE):
        while not condition(answer := await ask()):  # noqa: ASYNC110 (another process decides)
            await trio.sleep(0.02)
    return answer


class Running:
    """An agent that runs with fake workers, seen through its own pages and the store."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def config(self) -> dict[str, Any]:
        """Ask for what is in force."""
        answer: dict[str, Any] = (await self.client.get("/config")).json()
        return answer

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until the condition holds."""
        return await eventually(self.config, condition)

    async def until_ready(self) -> None:
        """Ask until the node is ready."""
        await eventually(lambda: self.client.get("/readyz"), lambda answer: answer.status_code == 200)


@asynccontextmanager
async def running(config: NodeConfig, store: Store, *modes: str) -> AsyncIterator[Running]:
    """Run an agent until the block ends, then let it leave in order."""
    with ExitStack() as sockets:
        listeners = bind_all(config.proxy)
        sockets.callback(listeners.close)
        keyring = Keyring(Path(config.proxy.state_dir))
        agent = Agent(
            config, keyring=keyring, listeners=listeners, store=store, worker_command=[*FAKE_WORKER, *modes]
        )
        stop, ended = trio.Event(), trio.Event()

        async def run() -> None:
            await agent.run(until=stop.wait)
            ended.set()

        url = f"http://{bound_address(listeners.admin[0])}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield Running(client)
            stop.set()
            with trio.fail_after(PATIENCE):
                await ended.wait()


@pytest.fixture
async def joined(registry: RealRegistry, tmp_path: Path) -> NodeConfig:
    """Give the configuration of a node that has joined."""
    await registry.join(Keyring(tmp_path))
    return configuration(tmp_path, registry.url)


async def test_from_start_to_end(joined: NodeConfig, memory_store: MemoryStore) -> None:
    """An agent becomes ready, registers, takes edits, reports bad ones, and leaves nothing behind."""
    await memory_store.put("services/default/web", render(service("web")))
    async with running(joined, memory_store) as node:
        await node.until_ready()
        await node.until(lambda config: config["registered"])
        assert set(await keys(memory_store, "nodes/")) == {
            "nodes/web-1/record",
            "nodes/web-1/status",
            "nodes/web-1/workloads/default/web",
        }
        config = await node.until(lambda config: any_endpoint(config))
        assert config["snapshot"]["local"][0]["name"] == "default/web"
        assert "PRIVATE KEY" not in json.dumps(config)

        revision = await memory_store.put("authorizationpolicies/default/p", render(policy()))
        await node.until(lambda config: config["appliedRevision"] >= revision)
        await memory_store.put("authorizationpolicies/default/p", BAD)
        config = await node.until(lambda config: config["rejected"])
        assert config["snapshot"]["policies"][0]["metadata"]["name"] == "p"
        status = await eventually(lambda: stored_status(memory_store), lambda status: status.spec.rejected)
        assert status.spec.rejected[0].key == "authorizationpolicies/default/p"
        assert status.spec.rejected[0].last_good_revision == revision
        assert status.spec.workers == 2
        assert status.spec.certificate_expires

        metrics = (await node.client.get("/metrics")).text
        assert "nodemesh_rejected_resources 1.0" in metrics
        assert 'nodemesh_worker_up{worker="1"} 1.0' in metrics
        assert "fake_credentials 4.0" in metrics
        pids = [worker["pid"] for worker in config["workers"]]
    assert await keys(memory_store, "nodes/") == []
    assert [pid for pid in pids if exists(pid)] == []


async def test_decisions_are_published(joined: NodeConfig, memory_store: MemoryStore) -> None:
    """What the workers decided stands in the store, leased."""
    async with running(joined, memory_store, "--mode", "deciding") as node:
        await node.until_ready()
        item = await eventually(lambda: memory_store.get("nodes/web-1/decisions"), bool)
        assert item is not None
        assert item.lease
        resource = parse_at(item.key, item.value)
        assert isinstance(resource, NodeDecisions)
        (record,) = resource.spec.decisions
        assert (record.policy, record.ids[-1]) == ("default/no-web", "0a1b2c3d-0")
    assert await keys(memory_store, "nodes/") == []


async def test_trust_follows_the_bundle(
    joined: NodeConfig, registry: RealRegistry, memory_store: MemoryStore
) -> None:
    """A revocation reaches the node by its watch; what workers use of roots and issuers is in its status."""
    editor = Editor(store=memory_store, authority=registry.authority, clock=utc_now)
    async with running(joined, memory_store) as node:
        await node.until_ready()
        (root,) = (await read_bundle(memory_store)).spec.roots_pem
        status = await eventually(lambda: stored_status(memory_store), lambda each: each.spec.trusted_roots)
        assert status.spec.trusted_roots == fingerprints([root])
        assert len(status.spec.issuers) == 1
        assert status.spec.revoked == ()
        await editor.revoke("node", "web-1", reason="laptop stolen")
        status = await eventually(lambda: stored_status(memory_store), lambda each: each.spec.revoked)
        assert all("is REVOKED: node web-1" in text for text in status.spec.revoked)
        answer = await node.client.get("/readyz")
        assert (answer.status_code, "laptop stolen" in answer.text) == (503, True)
        metrics = (await node.client.get("/metrics")).text
        identity = f"spiffe://{TRUST_DOMAIN}/node/web-1"
        assert f'nodemesh_certificate_revoked{{identity="{identity}"}} 1.0' in metrics
        (revocation,) = (await node.config())["trust"]["revocations"]
        assert (revocation["kind"], revocation["value"]) == ("node", "web-1")


async def test_bundle_of_somebody_else_is_refused(joined: NodeConfig, memory_store: MemoryStore) -> None:
    """A bundle that whoever can write to etcd put there is reported, and changes nothing."""
    async with running(joined, memory_store) as node:
        await node.until_ready()
        before = (await node.config())["trust"]
        spec = TrustBundleSpec(trust_domain=TRUST_DOMAIN, roots_pem=(make_authority().root_pem,))
        forged = structs.replace(await read_bundle(memory_store), spec=spec)
        await memory_store.put("ca/bundle", render(forged))
        status = await eventually(
            lambda: stored_status(memory_store),
            lambda each: "ca/bundle" in [rejection.key for rejection in each.spec.rejected],
        )
        assert status.spec.trusted_roots == tuple(before["roots"])
        assert (await node.config())["trust"] == before


async def test_dead_worker_costs_readiness_for_a_moment(
    joined: NodeConfig, memory_store: MemoryStore
) -> None:
    """A killed worker is replaced and brought up to date."""
    async with running(joined, memory_store) as node:
        await node.until_ready()
        pid = (await node.config())["workers"][0]["pid"]
        os.kill(pid, signal.SIGKILL)
        await node.until(lambda config: config["workers"][0]["restarts"] == 1)
        await node.until_ready()


async def test_start_from_the_cache(joined: NodeConfig, memory_store: MemoryStore) -> None:
    """With store and registry away an agent that ran before starts, serves and says how stale it is."""
    await memory_store.put("services/default/web", render(service("web")))
    await memory_store.put("authorizationpolicies/default/p", BAD)
    async with running(joined, memory_store) as node:
        await node.until_ready()
        before = await node.until(lambda config: any_endpoint(config) and any_vip(config))
    offline = configuration(Path(joined.proxy.state_dir), "https://127.0.0.1:1")
    with memory_store.outage():
        async with running(offline, memory_store) as node:
            await node.until_ready()
            after = await node.config()
            assert after["snapshot"]["services"][0]["vips"] == before["snapshot"]["services"][0]["vips"]
            assert any_endpoint(after)
            assert after["snapshot"]["closed_namespaces"] == {"default": "authorizationpolicies/default/p"}
            assert after["staleSeconds"] > 0
            assert not after["registered"]


async def test_without_store_and_cache_nothing_is_served(
    joined: NodeConfig, memory_store: MemoryStore
) -> None:
    """An agent that knows no policies lets no worker accept, and says what it waits for."""
    with memory_store.outage():
        async with running(joined, memory_store) as node:
            await node.until(lambda config: all(worker["pid"] for worker in config["workers"]))
            await trio.sleep(0.2)
            answer = await node.client.get("/readyz")
            assert answer.status_code == 503
            assert "no state yet" in answer.text
            assert (await node.config())["workers"][0]["applied"] is None


async def test_systemd_is_told_when_a_worker_serves(
    joined: NodeConfig, memory_store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY=1 is sent when a worker enforces its first snapshot and not before."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, ExitStack() as outage:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        outage.enter_context(memory_store.outage())
        async with running(joined, memory_store) as node:
            await node.until(lambda config: all(worker["pid"] for worker in config["workers"]))
            with pytest.raises(BlockingIOError):
                systemd.recv(100)
            outage.close()
            await node.until_ready()
            assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"STOPPING=1"


async def test_node_of_another_name(joined: NodeConfig, memory_store: MemoryStore) -> None:
    """A configuration for another node than the one that joined is refused at once."""
    config = configuration(Path(joined.proxy.state_dir), joined.proxy.registry, node="web-2")
    with pytest.raises(ConfigError, match="this host has joined as 'web-1'"):
        async with running(config, memory_store):
            pass


def any_endpoint(config: dict[str, Any]) -> bool:
    """Whether the first service has an endpoint."""
    snapshot = config["snapshot"]
    return bool(snapshot and snapshot["services"] and snapshot["services"][0]["ports"][0]["endpoints"])


def any_vip(config: dict[str, Any]) -> bool:
    """Whether the controller has given the first service its virtual IPs."""
    return bool(config["snapshot"]["services"][0]["vips"])


async def keys(store: MemoryStore, prefix: str) -> list[str]:
    """Give the keys below a prefix."""
    return [item.key for item in (await store.list(prefix)).items]


async def stored_status(store: MemoryStore) -> NodeStatus:
    """Give what the node says of itself."""
    item = await store.get("nodes/web-1/status")
    assert item is not None
    status = parse_at(item.key, item.value)
    assert isinstance(status, NodeStatus)
    return status


def exists(pid: int) -> bool:
    """Whether a process of this number is there, a zombie included."""
    return Path(f"/proc/{pid}").exists()
