"""A small zone, and short ways to ask about it."""

from collections.abc import Sequence
from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rdatatype

from node_proxy.agent.dns.answer import Elsewhere, Reply, Responder
from node_proxy.agent.dns.zone import Contents, NamedPort, NamedService, Zone, labels_of

NETWORKS = (ip_network("240.240.0.0/16"), ip_network("fd6d:6573:6800::/64"))
API = NamedService(
    name="api",
    namespace="default",
    addresses=("240.240.0.7", "fd6d:6573:6800::7"),
    ports=(NamedPort(name="http", port=8080), NamedPort(name="", port=9000)),
)
DB = NamedService(name="db", namespace="shop", addresses=("240.240.1.2",))
NEW = NamedService(name="new", namespace="default", addresses=())
BANK = NamedService(
    name="bank", namespace="default", addresses=("240.240.9.9",), hosts=("api.bank.example", "pay.mesh")
)
SERIAL, TTL = 42, 5


def zone(*services: NamedService) -> Zone:
    """Give a zone of these services."""
    contents = Contents(services=services or (API, DB, NEW, BANK), networks=NETWORKS)
    return Zone(contents, domain="mesh", namespace="default", serial=SERIAL)


def responder(*services: NamedService, recursion: bool = False) -> Responder:
    """Give a responder of that zone."""
    made = Responder(apex=labels_of("mesh"), ttl=TTL, recursion=recursion)
    made.give(zone(*services))
    return made


def ask(
    name: str,
    kind: str = "A",
    *,
    of: Responder | None = None,
    udp: bool = True,
    edns: int | bool | None = False,
    payload: int = 1232,
) -> dns.message.Message:
    """Ask a responder; its answer, which it must give."""
    query = dns.message.make_query(name, kind, use_edns=edns, payload=payload)
    reply = (of or responder()).respond(query.to_wire(), udp=udp)
    assert isinstance(reply, Reply), "the name is elsewhere"
    return dns.message.from_wire(reply.wire, ignore_trailing=False)


def is_elsewhere(name: str, kind: str = "A", *, of: Responder | None = None) -> bool:
    """Whether a responder says that a name is none of the mesh's."""
    wire = dns.message.make_query(name, kind).to_wire()
    return isinstance((of or responder()).respond(wire, udp=True), Elsewhere)


def answers(response: dns.message.Message) -> Sequence[str]:
    """Give the answer section, a line each."""
    return [line for rrset in response.answer for line in rrset.to_text().splitlines()]
