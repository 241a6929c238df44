import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from node_proxy.agent.dns.answer_cache import (
    KEPT_ANSWERS,
    LONGEST,
    LONGEST_ANSWER,
    LONGEST_NEGATIVE,
    AnswerCache,
    lifetime,
    question_of,
)

SOA = "example.org. {ttl} IN SOA ns.example.org. x.example.org. 1 2 3 4 {minimum}"


def query(name: str = "www.example.org", *, dnssec: bool = False) -> dns.message.Message:
    """Give a query for an address."""
    return dns.message.make_query(name, "A", want_dnssec=dnssec)


def answer(*lines: str, soa: str = "", rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> dns.message.Message:
    """Give an answer with these records."""
    made = dns.message.make_response(query())
    made.set_rcode(rcode)
    made.answer = [rrset(line) for line in lines]
    made.authority = [rrset(soa)] if soa else []
    return made


def rrset(line: str) -> dns.rrset.RRset:
    """Read a record of one line."""
    name, ttl, _, kind, rest = line.split(" ", 4)
    return dns.rrset.from_text(name, int(ttl), "IN", kind, rest)


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (answer("www.example.org. 60 IN A 192.0.2.1"), 60),
        (answer("www.example.org. 60 IN CNAME w.example.org.", "w.example.org. 7 IN A 192.0.2.1"), 7),
        (answer("www.example.org. 99999 IN A 192.0.2.1"), LONGEST),
        (answer("www.example.org. 0 IN A 192.0.2.1"), 0),
        (answer(soa=SOA.format(ttl=60, minimum=20), rcode=dns.rcode.NXDOMAIN), 20),
        (answer(soa=SOA.format(ttl=10, minimum=20)), 10),
        (answer(soa=SOA.format(ttl=99999, minimum=99999)), LONGEST_NEGATIVE),
        (answer("www.example.org. 60 IN CNAME w.example.org.", soa=SOA.format(ttl=60, minimum=20)), 20),
        (answer(rcode=dns.rcode.NXDOMAIN), 0),
        (answer("www.example.org. 60 IN CNAME w.example.org."), 0),
        (answer("www.example.org. 60 IN A 192.0.2.1", rcode=dns.rcode.SERVFAIL), 0),
    ],
)
def test_how_long_answers_are_kept(response: dns.message.Message, seconds: int) -> None:
    """Positive answers as their shortest record says, negative ones as their SOA says, failures never."""
    assert lifetime(response) == seconds


def test_truncated_answers_are_not_kept() -> None:
    """Half an answer is none."""
    response = answer("www.example.org. 60 IN A 192.0.2.1")
    response.flags |= dns.flags.TC
    assert lifetime(response) == 0


def test_answers_grow_old() -> None:
    """What is kept has less to live each time it is given, and is gone in the end."""
    cache = AnswerCache()
    question = question_of(query())
    cache.put(question, answer("www.example.org. 60 IN A 192.0.2.1"), size=100, now=1000.0)
    for now, left in ((1000.0, 60), (1010.5, 50), (1059.9, 1)):
        found = cache.get(question, now)
        assert found is not None
        assert found.answer[0].ttl == left
    assert cache.get(question, 1060.0) is None
    assert len(cache) == 0


def test_questions_are_told_apart() -> None:
    """Names are compared without case; who asks for signatures asks something else."""
    cache = AnswerCache()
    cache.put(question_of(query()), answer("www.example.org. 60 IN A 192.0.2.1"), size=100, now=0)
    assert cache.get(question_of(query("WWW.example.ORG")), 1) is not None
    assert cache.get(question_of(query(dnssec=True)), 1) is None
    assert cache.get(question_of(query("example.org")), 1) is None


def test_cache_is_bounded() -> None:
    """Only so many answers are kept, those that were wanted last, and no large ones."""
    cache = AnswerCache()
    response = answer("www.example.org. 60 IN A 192.0.2.1")
    questions = [question_of(query(f"n{i}.example.org")) for i in range(KEPT_ANSWERS + 1)]
    for question in questions[:-1]:
        cache.put(question, response, size=100, now=0)
    assert cache.get(questions[0], 1) is not None
    cache.put(questions[-1], response, size=100, now=1)
    assert len(cache) == KEPT_ANSWERS
    assert cache.get(questions[0], 1) is not None
    assert cache.get(questions[1], 1) is None
    cache.put(questions[1], response, size=LONGEST_ANSWER + 1, now=1)
    assert cache.get(questions[1], 1) is None
