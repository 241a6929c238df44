"""The resolver as the agent has it: takes the state, serves, and says how it fares."""

import socket
from collections.abc import Iterator, Sequence

import dns.message
import dns.rdatatype
import msgspec

from node_proxy.address import SocketAddress, canonical
from node_proxy.agent.dns.answer import Responder
from node_proxy.agent.dns.forward import Forwarder
from node_proxy.agent.dns.names import contents_of
from node_proxy.agent.dns.server import DnsServer
from node_proxy.agent.dns.upstreams import Upstreams
from node_proxy.agent.dns.zone import Contents, Zone, labels_of
from node_proxy.agent.external_names import ask_system
from node_proxy.agent.listeners import bound_address
from node_proxy.agent.metrics import Gauge
from node_proxy.agent.state import MeshState
from node_proxy.dns_settings import DnsSection, upstream_address


class ResolverView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is shown of the resolver; `names` is None while nothing is known of the mesh."""

    domain: str
    names: int | None
    serial: int | None
    forwards: bool
    cached: int


class Resolver:
    """One node's resolver.

    Args:
        config: the operator's settings.
        udp: bound sockets; they stay the caller's.
        tcp: listening sockets; they stay the caller's.
        mark: set on what is sent to upstreams; 0 sets none.
    """

    def __init__(
        self, config: DnsSection, *, udp: Sequence[socket.socket], tcp: Sequence[socket.socket], mark: int
    ) -> None:
        self._config = config
        self._contents: Contents | None = None
        self._zone: Zone | None = None
        self._responder = Responder(apex=labels_of(config.domain), ttl=config.ttl, recursion=config.forward)
        self._forwarder = None
        if config.forward:
            given = map(upstream_address, config.upstreams)
            own = frozenset(SocketAddress(bound_address(each)) for each in udp)
            self._forwarder = Forwarder(Upstreams(given, own=own), mark=mark)
        self._server = DnsServer(udp=udp, tcp=tcp, responder=self._responder, forwarder=self._forwarder)

    def follow(self, state: MeshState) -> None:
        """Answer from the state as it is from now on."""
        contents = contents_of(state)
        if contents == self._contents:
            # Most changes are of endpoints, which have no names.
            return
        self._contents = contents
        self._zone = Zone(
            contents, domain=self._config.domain, namespace=self._config.namespace, serial=state.revision
        )
        self._responder.give(self._zone)

    async def look_up_outside(self, name: str) -> frozenset[str]:
        """Give the addresses of a name outside the mesh, past what is answered for it here: upstreams' word.

        Without upstreams this host's resolver is asked. That may ask us, whose word then does not count.
        """
        if self._forwarder is None:
            found = await ask_system(name)
        else:
            found = await self._ask_upstreams(self._forwarder, name)
        ours = () if self._zone is None else self._zone.addresses(labels_of(name))
        return found.difference(ours)

    async def _ask_upstreams(self, forwarder: Forwarder, name: str) -> frozenset[str]:
        found: set[str] = set()
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            query = dns.message.make_query(name, kind)
            answer = forwarder.known(query) or await forwarder.ask(query)
            for records in answer.answer if answer is not None else ():
                if records.rdtype == kind:
                    found.update(canonical(record.to_text()) for record in records)
        return frozenset(found)

    async def serve(self) -> None:
        """Serve until cancelled."""
        await self._server.serve()

    def gauges(self) -> Iterator[Gauge]:
        """Give its numbers."""
        for outcome, count in sorted(self._server.outcomes.items(), key=lambda item: item[0].value):
            yield Gauge(
                name="nodemesh_dns_queries_total",
                help="DNS queries by what became of them",
                value=count,
                labels=(("outcome", outcome.value),),
            )
        if self._forwarder is None:
            return
        yield Gauge(
            name="nodemesh_dns_forwards",
            help="DNS queries that wait for an upstream",
            value=self._server.forwards,
        )
        yield Gauge(
            name="nodemesh_dns_cached_answers",
            help="upstreams' answers that are kept",
            value=len(self._forwarder.cache),
        )
        for upstream, count in sorted(self._forwarder.failures.items()):
            yield Gauge(
                name="nodemesh_dns_upstream_failures_total",
                help="times that an upstream gave no answer that can be used",
                value=count,
                labels=(("upstream", upstream),),
            )

    def shown(self) -> ResolverView:
        """Give what /config shows."""
        return ResolverView(
            domain=self._config.domain,
            names=None if self._zone is None else len(self._zone),
            serial=None if self._zone is None else self._zone.serial,
            forwards=self._config.forward,
            cached=0 if self._forwarder is None else len(self._forwarder.cache),
        )
