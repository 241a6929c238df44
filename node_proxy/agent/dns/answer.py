"""From the bytes of a query to the bytes of its answer, for the names of the mesh.

Pure. What is malformed gets FORMERR, what cannot even be answered is dropped, and what asks for names
outside the mesh is handed back to whoever may forward it.
"""

import enum
import ipaddress
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from node_proxy.agent.dns.zone import Entry, Found, Labels, Zone

# Queries are a name and some options; reading thousands of records that nobody asked for takes long.
MAX_QUERY = 4096
# What fits into one packet everywhere (DNS flag day 2020); clients that want more come by TCP.
UDP_PAYLOAD = 1232
# Without EDNS (RFC 1035 section 2.3.4), and less is never meant (RFC 6891 section 6.2.3).
LEAST_PAYLOAD = 512
TCP_PAYLOAD = 65535
# Whole answers kept for queries that differ only in their number: a few MiB. Longer queries are no stub's.
KEPT_ANSWERS = 4096
LONGEST_KEPT = 512

_HEADER = struct.Struct("!6H")
_OPCODE_AND_RD = 0x7900
# A primary that is nowhere and a mailbox that is nobody's, as RFC 6303 section 3 has it.
_NOBODY = (b"nobody", b"invalid")
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604800
_PRIORITY, _WEIGHT = 0, 0

_ADDRESS_TYPES = frozenset({
    dns.rdatatype.A,
    dns.rdatatype.AAAA,
    # They may name other addresses than ours.
    dns.rdatatype.HTTPS,
    dns.rdatatype.SVCB,
})  # fmt: skip


class Outcome(enum.Enum):
    """What became of a query; the values are metric labels."""

    ANSWERED = "answered"
    NO_DATA = "nodata"
    NO_NAME = "nxdomain"
    REFUSED = "refused"
    MALFORMED = "formerr"
    NOT_IMPLEMENTED = "notimp"
    BAD_VERSION = "badvers"
    NO_STATE = "no_state"
    UNHEARD = "dropped"
    NOT_LOCAL = "not_local"
    UNSENT = "unsent"
    FORWARDED = "forwarded"
    CACHED = "cached"
    UPSTREAM_FAILED = "upstream_failed"
    TOO_MANY = "too_many"
    FAILED = "failed"


_KEPT_OUTCOMES = frozenset({Outcome.ANSWERED, Outcome.NO_DATA, Outcome.NO_NAME})


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer; `wire` is empty when nothing is."""

    wire: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A well-formed query for a name that is none of ours; `limit` is the longest answer it can take."""

    query: dns.message.Message
    limit: int


class Responder:
    """Answers from a zone that is exchanged whole.

    Args:
        apex: what the names of the mesh end in.
        ttl: seconds that answers may be kept, and how long there being none may be.
        recursion: whether answers say that other names are answered here, too (RA).
    """

    def __init__(self, *, apex: Labels, ttl: int, recursion: bool) -> None:
        self._apex = apex
        self._ttl = ttl
        self._recursion = recursion
        self._zone: Zone | None = None
        # There are as many as the mesh has zones.
        self._soas: dict[Labels, dns.rrset.RRset] = {}
        self._kept: dict[tuple[bytes, bool], Reply] = {}

    def give(self, zone: Zone) -> None:
        """Answer from `zone` from now on."""
        self._zone = zone
        self._soas.clear()
        self._kept.clear()

    def respond(self, wire: bytes, *, udp: bool) -> Reply | Elsewhere:
        """Answer one message, whatever it holds."""
        key = (wire[2:], udp)
        if (kept := self._kept.get(key)) is not None:
            return Reply(wire[:2] + kept.wire, kept.outcome)
        reply = self._respond(wire, udp=udp)
        if isinstance(reply, Reply) and reply.outcome in _KEPT_OUTCOMES and len(wire) <= LONGEST_KEPT:
            if len(self._kept) >= KEPT_ANSWERS:
                self._kept.clear()
            self._kept[key] = Reply(reply.wire[2:], reply.outcome)
        return reply

    def _respond(self, wire: bytes, *, udp: bool) -> Reply | Elsewhere:
        if (objection := _objection(wire)) is not None:
            return objection
        try:
            query = dns.message.from_wire(wire, keyring=False)
            response = dns.message.make_response(
                query, recursion_available=self._recursion, our_payload=UDP_PAYLOAD, pad=0
            )
        except dns.exception.DNSException:
            return _bare(wire, dns.rcode.FORMERR, Outcome.MALFORMED)
        limit = _limit(query) if udp else TCP_PAYLOAD
        settled = self._settle(query, response)
        if settled is None:
            return Elsewhere(query, limit)
        return Reply(fit(response, limit), settled)

    def _settle(self, query: dns.message.Message, response: dns.message.Message) -> Outcome | None:
        """Fill the response in; None when the question is not for us."""
        (question,) = query.question
        if query.edns > 0:
            response.set_rcode(dns.rcode.BADVERS)
            return Outcome.BAD_VERSION
        if question.rdclass != dns.rdataclass.IN or question.rdtype in (
            dns.rdatatype.AXFR,
            dns.rdatatype.IXFR,
        ):
            return _refuse(response)
        if dns.rdatatype.is_metatype(question.rdtype) and question.rdtype != dns.rdatatype.ANY:
            response.set_rcode(dns.rcode.NOTIMP)
            return Outcome.NOT_IMPLEMENTED
        name = _labels(question.name)
        if self._zone is None:
            if name[-len(self._apex) :] != self._apex:
                # Even those of etcd and the registry may have to be found by us.
                return None
            response.set_rcode(dns.rcode.SERVFAIL)
            return Outcome.NO_STATE
        found = self._zone.find(name)
        if found is None or (found.foreign and question.rdtype not in _ADDRESS_TYPES):
            return None
        response.flags |= dns.flags.AA
        return self._answer(self._zone, found, question, response)

    def _answer(
        self, zone: Zone, found: Found, question: dns.rrset.RRset, response: dns.message.Message
    ) -> Outcome:
        soa = self._soas.get(found.apex)
        if soa is None:
            soa = self._soas[found.apex] = self._soa(found.apex, zone.serial)
        if found.entry is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(soa)
            return Outcome.NO_NAME
        is_apex = not found.foreign and _labels(question.name) == found.apex
        records = list(_records(found.entry, question.rdtype))
        if is_apex and question.rdtype == dns.rdatatype.SOA:
            records = list(soa)
        elif is_apex and question.rdtype == dns.rdatatype.NS:
            records = [_record(dns.rdatatype.NS, _wire(found.apex))]
        if not records:
            response.authority.append(soa)
            return Outcome.NO_DATA
        response.answer.append(self._rrset(question.name, records))
        if question.rdtype == dns.rdatatype.SRV:
            for target in dict.fromkeys(target for _, target in found.entry.ports):
                for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
                    if known := list(_records(Entry(zone.addresses(target)), kind)):
                        response.additional.append(self._rrset(_name(target), known))
        return Outcome.ANSWERED

    def _soa(self, apex: Labels, serial: int) -> dns.rrset.RRset:
        numbers = struct.pack("!5L", serial & 0xFFFFFFFF, _REFRESH, _RETRY, _EXPIRE, self._ttl)
        record = _record(dns.rdatatype.SOA, _wire(apex) + _wire(_NOBODY) + numbers)
        return self._rrset(_name(apex), [record])

    def _rrset(self, owner: dns.name.Name, records: Iterable[dns.rdata.Rdata]) -> dns.rrset.RRset:
        return dns.rrset.from_rdata_list(owner, self._ttl, list(records))


def relayed(asked: Elsewhere, answer: dns.message.Message) -> bytes:
    """Give what an upstream answered to whoever asked."""
    response = dns.message.make_response(
        asked.query, recursion_available=True, our_payload=UDP_PAYLOAD, pad=0
    )
    response.set_rcode(answer.rcode())
    response.answer, response.authority = answer.answer, answer.authority
    response.additional = answer.additional
    return fit(response, asked.limit)


def declined(asked: Elsewhere, rcode: dns.rcode.Rcode, *, recursion: bool) -> bytes:
    """Say that there is no answer."""
    response = dns.message.make_response(
        asked.query, recursion_available=recursion, our_payload=UDP_PAYLOAD, pad=0
    )
    response.set_rcode(rcode)
    return fit(response, asked.limit)


def fit(response: dns.message.Message, limit: int) -> bytes:
    """Write a response in at most `limit` bytes; if it is longer, only that it is (TC)."""
    with suppress(dns.exception.TooBig):
        return response.to_wire(max_size=limit)
    # It was not asked for, and leaving it out is no truncation (RFC 2181 section 9).
    response.additional = []
    with suppress(dns.exception.TooBig):
        return response.to_wire(max_size=limit)
    response.flags |= dns.flags.TC
    response.answer, response.authority = [], []
    return response.to_wire(max_size=limit)


def _objection(wire: bytes) -> Reply | None:
    """Say what can be said from the header alone."""
    if len(wire) < _HEADER.size:
        return Reply(b"", Outcome.UNHEARD)
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(wire)
    if flags & dns.flags.QR:
        # To answer answers is how loops begin.
        return Reply(b"", Outcome.UNHEARD)
    if dns.opcode.from_flags(flags) != dns.opcode.QUERY:
        return _bare(wire, dns.rcode.NOTIMP, Outcome.NOT_IMPLEMENTED)
    # One question and nothing else (RFC 9619), but EDNS and a signature; IXFR brings a SOA.
    if len(wire) > MAX_QUERY or questions != 1 or answers or authorities > 1 or additional > 2:
        return _bare(wire, dns.rcode.FORMERR, Outcome.MALFORMED)
    return None


def _bare(wire: bytes, rcode: dns.rcode.Rcode, outcome: Outcome) -> Reply:
    """Answer with a header alone: what was asked could not be read."""
    number, flags = struct.unpack_from("!HH", wire)
    return Reply(_HEADER.pack(number, dns.flags.QR | (flags & _OPCODE_AND_RD) | rcode, 0, 0, 0, 0), outcome)


def _refuse(response: dns.message.Message) -> Outcome:
    response.set_rcode(dns.rcode.REFUSED)
    return Outcome.REFUSED


def _limit(query: dns.message.Message) -> int:
    return min(max(query.payload, LEAST_PAYLOAD), UDP_PAYLOAD) if query.edns >= 0 else LEAST_PAYLOAD


def _labels(name: dns.name.Name) -> Labels:
    return tuple(label.lower() for label in name.labels[:-1])


def _name(labels: Labels) -> dns.name.Name:
    return dns.name.Name((*labels, b""))


def _records(entry: Entry, kind: dns.rdatatype.RdataType) -> Iterator[dns.rdata.Rdata]:
    match kind:
        case dns.rdatatype.A:
            yield from (_record(kind, _packed(each)) for each in entry.addresses if ":" not in each)
        case dns.rdatatype.AAAA:
            yield from (_record(kind, _packed(each)) for each in entry.addresses if ":" in each)
        case dns.rdatatype.SRV:
            for port, target in entry.ports:
                yield _record(kind, struct.pack("!3H", _PRIORITY, _WEIGHT, port) + _wire(target))
        case dns.rdatatype.PTR:
            yield from (_record(kind, _wire(target)) for target in entry.pointers)
        case dns.rdatatype.ANY:
            # RFC 8482 section 4.2: one small record instead of all there are.
            yield _record(dns.rdatatype.HINFO, b"\x07RFC8482\x00")
        case _:
            return


def _record(kind: dns.rdatatype.RdataType, wire: bytes) -> dns.rdata.Rdata:
    # From text it takes several times as long.
    return dns.rdata.from_wire(dns.rdataclass.IN, kind, wire, 0, len(wire))


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _wire(labels: Labels) -> bytes:
    return b"".join(len(label).to_bytes() + label for label in labels) + b"\0"
