"""The resolver as part of a running agent, asked by dnspython's own client."""

from functools import partial
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
import trio
from msgspec import structs

from node_proxy.agent.credentials import Keyring
from node_proxy.config import NodeConfig
from node_proxy.dns_settings import DnsSection
from registry.model.parse import render
from registry.store.memory import MemoryStore
from tests.node_proxy.agent.documents import service
from tests.node_proxy.agent.real_registry import RealRegistry
from tests.node_proxy.agent.test_agent import ANY, Running, configuration, running

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def resolving(registry: RealRegistry, tmp_path: Path) -> NodeConfig:
    """Give the configuration of a node that has joined and resolves names."""
    await registry.join(Keyring(tmp_path))
    config = configuration(tmp_path, registry.url)
    return structs.replace(
        config, proxy=structs.replace(config.proxy, dns=DnsSection(enabled=True, listen=(ANY,)))
    )


def is_allocated(config: dict[str, Any]) -> bool:
    """Whether every service has its virtual addresses."""
    services = config["snapshot"]["services"] if config["snapshot"] else []
    return bool(services) and all(service["vips"] for service in services)


async def ask(node: Running, name: str, kind: str, *, tcp: bool = False) -> dns.message.Message:
    """Ask the agent's resolver."""
    host, _, port = (await node.config())["listening"]["dns"][0].rpartition(":")
    client = dns.query.tcp if tcp else dns.query.udp
    query = dns.message.make_query(name, kind)
    return await trio.to_thread.run_sync(partial(client, query, host, timeout=10, port=int(port)))


async def addresses(node: Running, name: str, kind: str) -> list[str]:
    """Give the records of a name, without what stands before them."""
    answer = await ask(node, name, kind)
    return [str(record) for rrset in answer.answer for record in rrset]


async def test_names_of_services(resolving: NodeConfig, memory_store: MemoryStore) -> None:
    """What the controller allocates is what names lead to, by UDP and TCP; an edit changes it."""
    await memory_store.put("services/default/web", render(service("web", port=80)))
    async with running(resolving, memory_store) as node:
        config = await node.until(is_allocated)
        vips = config["snapshot"]["services"][0]["vips"]
        assert await addresses(node, "web.mesh", "A") == [each for each in vips if ":" not in each]
        assert await addresses(node, "web.default.mesh", "AAAA") == [each for each in vips if ":" in each]
        assert await addresses(node, "_80._tcp.web.mesh", "SRV") == ["0 0 80 web.default.mesh."]
        assert (await ask(node, "web.mesh", "A", tcp=True)).answer
        assert (await ask(node, "example.org", "A")).rcode() == dns.rcode.REFUSED
        missing = await ask(node, "api.mesh", "A")
        assert (missing.rcode(), len(missing.authority)) == (dns.rcode.NXDOMAIN, 1)
        await memory_store.put("services/default/api", render(service("api")))
        await node.until(lambda config: len(config["snapshot"]["services"]) == 2 and is_allocated(config))
        assert (await ask(node, "api.mesh", "A")).rcode() == dns.rcode.NOERROR
        metrics = (await node.client.get("/metrics")).text
        assert 'nodemesh_dns_queries_total{outcome="nxdomain"} 1.0' in metrics
        assert (await node.config())["dns"]["forwards"] is False


async def test_while_the_store_is_away(resolving: NodeConfig, memory_store: MemoryStore) -> None:
    """Names are answered while etcd is down, also by an agent that starts then, from its cache."""
    await memory_store.put("services/default/web", render(service("web")))
    async with running(resolving, memory_store) as node:
        await node.until(is_allocated)
        before = await addresses(node, "web.mesh", "A")
        with memory_store.outage():
            await node.until(lambda config: config["staleSeconds"] > 0)
            assert await addresses(node, "web.mesh", "A") == before
    with memory_store.outage():
        async with running(resolving, memory_store) as node:
            await node.until_ready()
            assert await addresses(node, "web.mesh", "A") == before != []


async def test_before_anything_is_known(resolving: NodeConfig, memory_store: MemoryStore) -> None:
    """With neither store nor cache a name of the mesh fails for now; that it does not exist is not said."""
    with memory_store.outage():
        async with running(resolving, memory_store) as node:
            answer = await ask(node, "web.mesh", "A")
            assert (answer.rcode(), answer.flags & dns.flags.AA) == (dns.rcode.SERVFAIL, 0)
