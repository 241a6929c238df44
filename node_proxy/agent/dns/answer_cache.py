"""What upstreams answered, kept as long as they allow and within bounds of our own.

Pure: the time comes in. Failures are not kept; that there is no such name or record is (RFC 2308).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.SOA import SOA

# Names move; a host that is up for months must follow within the hour, whatever a zone says.
LONGEST = 3600
# RFC 2308 section 5 suggests one to three hours; a name that has just been made should not be away so long.
LONGEST_NEGATIVE = 300
# Some 10 MiB at most. An answer over 4 KiB is kept by nobody: it is asked for rarely.
KEPT_ANSWERS = 4096
LONGEST_ANSWER = 4096


class Question(NamedTuple):
    """What makes two queries the same. DO and CD change what an upstream says."""

    name: dns.name.Name
    kind: dns.rdatatype.RdataType
    dnssec: bool
    unchecked: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    response: dns.message.Message
    since: float
    until: float


class AnswerCache:
    """Keeps the answers that were asked for last."""

    def __init__(self) -> None:
        self._kept: dict[Question, _Kept] = {}

    def __len__(self) -> int:
        """Count what is kept."""
        return len(self._kept)

    def get(self, question: Question, now: float) -> dns.message.Message | None:
        """Give the answer with the time that is left to it; None if there is none."""
        kept = self._kept.pop(question, None)
        if kept is None or now >= kept.until:
            return None
        self._kept[question] = kept
        return _aged(kept.response, int(now - kept.since))

    def put(self, question: Question, response: dns.message.Message, *, size: int, now: float) -> None:
        """Keep an answer of `size` bytes if it may be kept."""
        seconds = lifetime(response)
        if seconds <= 0 or size > LONGEST_ANSWER:
            return
        self._kept.pop(question, None)
        while len(self._kept) >= KEPT_ANSWERS:
            del self._kept[next(iter(self._kept))]
        self._kept[question] = _Kept(response, now, now + seconds)


def question_of(query: dns.message.Message) -> Question:
    """Give what a query asks."""
    (asked,) = query.question
    return Question(
        asked.name, asked.rdtype, bool(query.ednsflags & dns.flags.DO), bool(query.flags & dns.flags.CD)
    )


def lifetime(response: dns.message.Message) -> int:
    """Give the seconds for which an answer may be kept; 0 when it may not."""
    if response.flags & dns.flags.TC or response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return 0
    (asked,) = response.question
    records = [*response.answer, *response.authority]
    shortest = min((rrset.ttl for rrset in records), default=0)
    found = any(asked.rdtype in (rrset.rdtype, dns.rdatatype.ANY) for rrset in response.answer)
    if found and response.rcode() == dns.rcode.NOERROR:
        return min(shortest, LONGEST)
    # Without a SOA nobody says for how long there is nothing (RFC 2308 section 5).
    minimum = min(_minimums(response.authority), default=0)
    return min(shortest, minimum, LONGEST_NEGATIVE)


def _minimums(rrsets: Iterable[dns.rrset.RRset]) -> Iterable[int]:
    return (record.minimum for rrset in rrsets for record in rrset if isinstance(record, SOA))


def _aged(response: dns.message.Message, seconds: int) -> dns.message.Message:
    """Give a copy in which everything has so many seconds less to live."""
    aged = dns.message.Message(id=response.id)
    aged.flags = response.flags
    aged.question = list(response.question)
    for section, kept in enumerate(response.sections[1:], 1):
        for rrset in kept:
            left = max(0, rrset.ttl - seconds)
            aged.sections[section].append(dns.rrset.from_rdata_list(rrset.name, left, list(rrset)))
    return aged
