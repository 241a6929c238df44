"""Whatever arrives: an answer that dnspython can read, or none at all, and never an exception."""

import struct

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.agent.dns.answer import MAX_QUERY, UDP_PAYLOAD, Elsewhere, Outcome, Reply
from node_proxy.agent.dns.forward import accepted
from tests.node_proxy.agent.dns.questions import responder

QUERY_HEADER = st.binary(min_size=2, max_size=2).map(lambda number: number + b"\x01\x00\x00\x01")
NAMES = ["api.mesh", "API.Default.mesh", "_http._tcp.api.mesh", "nobody.mesh", "7.0.240.240.in-addr.arpa"]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a good query with some bytes changed, removed or added."""
    query = dns.message.make_query(
        draw(st.sampled_from(NAMES)),
        draw(st.sampled_from(["A", "AAAA", "SRV", "PTR", "ANY", "TXT", "TYPE65280"])),
        use_edns=draw(st.sampled_from([False, 0, 1, 255])),
        payload=draw(st.integers(0, 65535)),
    )
    wire = bytearray(query.to_wire())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(2, len(wire) - 1)) if len(wire) > 3 else 0
        match draw(st.sampled_from(["change", "cut", "insert", "append"])):
            case "change":
                wire[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del wire[at:]
            case "insert":
                wire[at:at] = draw(st.binary(max_size=20))
            case _:
                wire += draw(st.binary(max_size=20))
    return bytes(wire)


def check(wire: bytes, *, udp: bool) -> None:
    """Ask, and check what must hold of every answer."""
    of = responder()
    reply = of.respond(wire, udp=udp)
    assert of.respond(wire, udp=udp) == reply or isinstance(reply, Elsewhere)
    if isinstance(reply, Elsewhere):
        assert len(reply.query.question) == 1
        return
    if not reply.wire:
        assert reply.outcome is Outcome.UNHEARD
        assert len(wire) < 12 or wire[2] & 0x80
        return
    assert len(reply.wire) <= (UDP_PAYLOAD if udp else 65535)
    answer = dns.message.from_wire(reply.wire)
    assert answer.id == struct.unpack_from("!H", wire)[0]
    assert answer.flags & dns.flags.QR
    try:
        dns.message.from_wire(wire, keyring=False)
    except dns.exception.DNSException:
        assert answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP)


@given(st.one_of(st.binary(max_size=600), damaged()), st.booleans())
def test_anything(wire: bytes, udp: bool) -> None:
    """Random bytes and damaged queries are answered with an error or dropped."""
    check(wire, udp=udp)


@given(QUERY_HEADER, st.binary(max_size=300), st.tuples(*[st.integers(0, 3)] * 3))
def test_query_of_rubbish(header: bytes, body: bytes, counts: tuple[int, int, int]) -> None:
    """A query's header above anything is answered with an error, whatever it says is there."""
    check(header + struct.pack("!3H", *counts) + body, udp=True)


@given(st.integers(0, 12))
def test_names_that_point_at_themselves(at: int) -> None:
    """Compression that leads in a circle or forward is malformed."""
    wire = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + struct.pack("!HHH", 0xC000 | (12 + at), 1, 1)
    reply = responder().respond(wire, udp=True)
    assert isinstance(reply, Reply)
    assert reply.outcome is Outcome.MALFORMED


def test_too_long() -> None:
    """A query longer than any stub writes is not read."""
    wire = dns.message.make_query("api.mesh", "A").to_wire()
    reply = responder().respond(wire + bytes(MAX_QUERY), udp=False)
    assert isinstance(reply, Reply)
    assert reply.outcome is Outcome.MALFORMED


@given(st.one_of(st.binary(max_size=600), damaged()))
def test_rubbish_from_upstreams(wire: bytes) -> None:
    """What an upstream, or somebody in its place, sends is believed only with our number and question."""
    query = dns.message.make_query("www.example.org", "A", id=7)
    assert accepted(wire, query) is None


@given(st.binary(max_size=300), st.tuples(*[st.integers(0, 3)] * 3))
def test_damaged_answers(body: bytes, counts: tuple[int, int, int]) -> None:
    """An answer to our question with anything behind it is read or passed over."""
    query = dns.message.make_query("www.example.org", "A", id=7, use_edns=False)
    wire = query.to_wire()
    found = accepted(wire[:2] + b"\x81\x80\x00\x01" + struct.pack("!3H", *counts) + wire[12:] + body, query)
    assert found is None or found[0].question == query.question
