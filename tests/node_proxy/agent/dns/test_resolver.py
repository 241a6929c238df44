import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import dns.message
import dns.rrset
import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.dns.resolver import Resolver
from node_proxy.agent.listeners import bind, bound_address
from node_proxy.agent.state import MeshState
from node_proxy.dns_settings import DnsSection
from tests.node_proxy.agent.dns.test_names import bank
from tests.node_proxy.agent.dns.upstream import running_upstream
from tests.node_proxy.agent.documents import TRUST_DOMAIN, changed, relisted, service, vips

VIP = "240.240.0.9"


@asynccontextmanager
async def resolving(*upstreams: SocketAddress) -> AsyncIterator[tuple[Resolver, MeshState]]:
    """Run a resolver that knows an external service and one of the mesh."""
    state = MeshState(trust_domain=TRUST_DOMAIN)
    state.apply(
        relisted(
            7,
            changed("services/default/api", service("api"), 1),
            changed("externalservices/default/bank", bank(), 2),
            changed("status/externalservices/default/bank", vips("bank", VIP), 3),
        )
    )
    with ExitStack() as stack:
        tcp = stack.enter_context(bind(SocketAddress("127.0.0.1:0"), "test"))
        address = SocketAddress(bound_address(tcp))
        udp = stack.enter_context(bind(address, "test", kind=socket.SOCK_DGRAM))
        config = DnsSection(enabled=True, forward=bool(upstreams), upstreams=tuple(upstreams))
        resolver = Resolver(config, udp=[udp], tcp=[tcp], mark=0)
        resolver.follow(state)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(resolver.serve)
            yield resolver, state
            nursery.cancel_scope.cancel()


def both(query: dns.message.Message, udp: bool) -> list[bytes]:
    """Answer with the real address and the virtual one, as where an upstream asks us in turn."""
    response = dns.message.make_response(query)
    name = query.question[0].name
    if query.question[0].rdtype == dns.rdatatype.A:
        response.answer = [dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1", VIP)]
    return [response.to_wire()]


async def test_serial_changes_with_the_names() -> None:
    """The zone is made anew when names or addresses change, and not for what has no name."""
    async with resolving() as (resolver, state):
        before = resolver.shown()
        assert before.serial == 7
        state.apply(changed("peerauthentications/default/p", b"{}", 8))
        resolver.follow(state)
        assert resolver.shown() == before
        state.apply(changed("status/services/default/api", vips("api", "240.240.0.1"), 9))
        resolver.follow(state)
        assert resolver.shown().serial == 9


async def test_names_outside_are_asked_of_upstreams() -> None:
    """For the proxy's own dials an external host has its real addresses, never the virtual one."""
    async with running_upstream(both) as upstream, resolving(upstream.address) as (resolver, _):
        assert await resolver.look_up_outside("api.bank.example") == {"192.0.2.1"}
        assert resolver.shown().cached == 1
        assert {gauge.name for gauge in resolver.gauges()} == {
            "nodemesh_dns_forwards",
            "nodemesh_dns_cached_answers",
        }
