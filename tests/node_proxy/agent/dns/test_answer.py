import struct

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.tsigkeyring
import pytest

from node_proxy.agent.dns.answer import Outcome, Reply, Responder, declined, relayed
from node_proxy.agent.dns.zone import NamedPort, NamedService, labels_of
from tests.node_proxy.agent.dns.questions import API, TTL, answers, ask, is_elsewhere, responder, zone

SOA = f"mesh. {TTL} IN SOA mesh. nobody.invalid. 42 3600 1200 604800 {TTL}"
MANY = NamedService(
    name="many", namespace="default", addresses=tuple(f"240.240.5.{i}" for i in range(1, 101))
)


def respond(query: dns.message.Message, of: Responder | None = None) -> dns.message.Message:
    """Answer a query made by hand."""
    reply = (of or responder()).respond(query.to_wire(), udp=True)
    assert isinstance(reply, Reply)
    return dns.message.from_wire(reply.wire)


def test_addresses() -> None:
    """A and AAAA give the virtual addresses, authoritatively, with the configured TTL."""
    answer = ask("api.mesh", "A")
    assert answers(answer) == [f"api.mesh. {TTL} IN A 240.240.0.7"]
    assert answer.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD
    assert answers(ask("api.default.mesh", "AAAA")) == [f"api.default.mesh. {TTL} IN AAAA fd6d:6573:6800::7"]


def test_srv() -> None:
    """SRV gives port and target, with the target's addresses beside it."""
    answer = ask("_http._tcp.api.mesh", "SRV")
    assert answers(answer) == [f"_http._tcp.api.mesh. {TTL} IN SRV 0 0 8080 api.default.mesh."]
    assert [rrset.to_text() for rrset in answer.additional] == [
        f"api.default.mesh. {TTL} IN A 240.240.0.7",
        f"api.default.mesh. {TTL} IN AAAA fd6d:6573:6800::7",
    ]


def test_ptr() -> None:
    """PTR of a virtual address gives the service's name."""
    answer = ask("7.0.240.240.in-addr.arpa", "PTR")
    assert answers(answer) == [f"7.0.240.240.in-addr.arpa. {TTL} IN PTR api.default.mesh."]


def test_apex() -> None:
    """The domain itself has a SOA and a name server."""
    assert answers(ask("mesh", "SOA")) == [SOA]
    assert answers(ask("mesh", "NS")) == [f"mesh. {TTL} IN NS mesh."]
    assert answers(ask("240.240.in-addr.arpa", "NS")) == [
        f"240.240.in-addr.arpa. {TTL} IN NS 240.240.in-addr.arpa."
    ]


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("nobody.mesh", "A", dns.rcode.NXDOMAIN),
        ("api.mesh", "MX", dns.rcode.NOERROR),
        ("api.mesh", "SOA", dns.rcode.NOERROR),
        ("new.mesh", "A", dns.rcode.NOERROR),
        ("db.shop.mesh", "AAAA", dns.rcode.NOERROR),
        ("shop.mesh", "A", dns.rcode.NOERROR),
    ],
)
def test_negative_answers(name: str, kind: str, rcode: dns.rcode.Rcode) -> None:
    """That there is no such name, or no such record, comes with the SOA that says for how long."""
    answer = ask(name, kind)
    assert (answer.rcode(), answer.answer) == (rcode, [])
    assert [rrset.to_text() for rrset in answer.authority] == [SOA]
    assert answer.flags & dns.flags.AA


def test_case_is_kept() -> None:
    """Names are compared without case, and the question comes back as it was asked."""
    answer = ask("aPi.dEFault.MeSH", "A")
    assert str(answer.question[0].name) == str(answer.answer[0].name) == "aPi.dEFault.MeSH."
    assert str(ask("Api.mesh").question[0].name) == "Api.mesh."


def test_any_is_minimal() -> None:
    """ANY gets one small record; for a name that does not exist NXDOMAIN."""
    assert answers(ask("api.mesh", "ANY")) == [f'api.mesh. {TTL} IN HINFO "RFC8482" ""']
    assert ask("nobody.mesh", "ANY").rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(("edns", "payload"), [(False, 0), (0, 100), (0, 1232), (0, 4096)])
def test_too_long_for_udp(edns: bool, payload: int) -> None:
    """An answer that does not fit is empty and says so; by TCP it is whole."""
    of = responder(MANY)
    short = ask("many.mesh", of=of, edns=edns, payload=payload)
    assert short.flags & dns.flags.TC
    assert short.answer == []
    whole = ask("many.mesh", of=of, edns=edns, payload=payload, udp=False)
    assert not whole.flags & dns.flags.TC
    assert len(answers(whole)) == 100


def test_payload_of_the_client() -> None:
    """An answer of more than 512 bytes goes by UDP to who says by EDNS that it takes more."""
    some = NamedService(name="some", namespace="default", addresses=MANY.addresses[:50])
    assert ask("some.mesh", of=responder(some)).flags & dns.flags.TC
    answer = ask("some.mesh", of=responder(some), edns=0)
    assert len(answers(answer)) == 50
    assert answer.edns == 0
    assert answer.payload == 1232


def test_additional_records_give_way() -> None:
    """Addresses beside an SRV answer are left out before the answer is cut short."""
    large = NamedService(
        name="many",
        namespace="default",
        addresses=MANY.addresses,
        ports=(NamedPort(name="http", port=80),),
    )
    answer = ask("_http._tcp.many.mesh", "SRV", of=responder(large))
    assert len(answers(answer)) == 1
    assert not answer.flags & dns.flags.TC
    assert answer.additional == []


def test_unknown_edns_version() -> None:
    """A later version of EDNS is answered with BADVERS and our own."""
    answer = ask("api.mesh", edns=1)
    assert (answer.rcode(), answer.edns, answer.answer) == (dns.rcode.BADVERS, 0, [])


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_transfers_are_refused(kind: str) -> None:
    """Nobody is given the whole zone."""
    assert ask("mesh", kind).rcode() == dns.rcode.REFUSED


def test_other_classes_are_refused() -> None:
    """Only the Internet's class is served: no version.bind for anybody."""
    query = dns.message.make_query("version.bind", "TXT", dns.rdataclass.CH)
    assert respond(query).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["MAILB", "TKEY", "OPT"])
def test_meta_types(kind: str) -> None:
    """Types that are no records are not implemented."""
    assert ask("api.mesh", kind).rcode() == dns.rcode.NOTIMP


@pytest.mark.parametrize("opcode", [dns.opcode.NOTIFY, dns.opcode.UPDATE, dns.opcode.STATUS])
def test_other_opcodes(opcode: dns.opcode.Opcode) -> None:
    """Whatever is no query is not implemented, and says which operation it was."""
    answer = respond(dns.message.from_wire(struct.pack("!6H", 7, opcode << 11, 0, 0, 0, 0)))
    assert (answer.id, answer.rcode(), answer.opcode()) == (7, dns.rcode.NOTIMP, opcode)


def test_answers_are_not_answered() -> None:
    """What is itself an answer, or too short to have a number, is dropped."""
    wire = dns.message.make_response(dns.message.make_query("api.mesh", "A")).to_wire()
    assert responder().respond(wire, udp=True) == Reply(b"", Outcome.UNHEARD)
    assert responder().respond(wire[:11], udp=True) == Reply(b"", Outcome.UNHEARD)


@pytest.mark.parametrize("count", [0, 2])
def test_one_question(count: int) -> None:
    """A query with no question or with two is malformed."""
    query = dns.message.make_query("api.mesh", "A")
    query.question = query.question * count
    assert respond(query).rcode() == dns.rcode.FORMERR


def test_signed_query() -> None:
    """A TSIG that we have no key for is passed over: whoever wants it will miss ours."""
    query = dns.message.make_query("api.mesh", "A")
    query.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}))
    assert answers(respond(query)) == [f"api.mesh. {TTL} IN A 240.240.0.7"]


def test_names_elsewhere() -> None:
    """A name outside the mesh, and all but the addresses of an external host, are handed back."""
    assert is_elsewhere("www.example.org")
    assert is_elsewhere(".", "NS")
    assert is_elsewhere("notmesh")
    assert is_elsewhere("api.bank.example", "TXT")
    assert answers(ask("api.bank.example", "A")) == [f"api.bank.example. {TTL} IN A 240.240.9.9"]
    for kind in ("AAAA", "HTTPS"):
        assert ask("api.bank.example", kind).rcode() == dns.rcode.NOERROR


def test_before_anything_is_known() -> None:
    """Without state names of the mesh fail for now, not for good, and others are handed back as ever."""
    blank = Responder(apex=labels_of("mesh"), ttl=TTL, recursion=False)
    assert ask("api.mesh", of=blank).rcode() == dns.rcode.SERVFAIL
    assert is_elsewhere("etcd.example.org", of=blank)
    blank.give(zone())
    assert ask("api.mesh", of=blank).rcode() == dns.rcode.NOERROR


def test_kept_answers() -> None:
    """An answer given again is the same but for the number, until the zone changes."""
    of = responder()
    query = dns.message.make_query("api.mesh", "A")
    first, again = (respond(query, of) for _ in range(2))
    query.id = (query.id + 1) % 65536
    other = respond(query, of)
    assert first.to_wire() == again.to_wire()
    assert first.to_wire()[2:] == other.to_wire()[2:]
    assert other.id == query.id
    of.give(zone(NamedService(name="api", namespace="default", addresses=("240.240.0.8",))))
    assert answers(respond(query, of)) == [f"api.mesh. {TTL} IN A 240.240.0.8"]


def test_recursion_is_said() -> None:
    """Who forwards says so; who does not, does not."""
    assert ask("api.mesh", of=responder(API, recursion=True)).flags & dns.flags.RA
    assert not ask("api.mesh").flags & dns.flags.RA


def test_relayed_answers() -> None:
    """An upstream's answer goes under the asker's number, in the asker's case, within its limit."""
    query = dns.message.make_query("Www.example.org", "A", use_edns=False)
    asked = responder().respond(query.to_wire(), udp=True)
    assert not isinstance(asked, Reply)
    upstream = dns.message.make_response(dns.message.make_query("www.example.org", "A"))
    upstream.answer = [dns.rrset.from_text("www.example.org.", 60, "IN", "A", "192.0.2.1")]
    answer = dns.message.from_wire(relayed(asked, upstream))
    assert (answer.id, answers(answer)) == (query.id, ["Www.example.org. 60 IN A 192.0.2.1"])
    assert answer.edns == -1
    upstream.answer = [
        dns.rrset.from_text("www.example.org.", 60, "IN", "TXT", *[letter * 200 for letter in "abc"])
    ]
    assert dns.message.from_wire(relayed(asked, upstream)).flags & dns.flags.TC
    refused = dns.message.from_wire(declined(asked, dns.rcode.REFUSED, recursion=False))
    assert (refused.id, refused.rcode()) == (query.id, dns.rcode.REFUSED)
