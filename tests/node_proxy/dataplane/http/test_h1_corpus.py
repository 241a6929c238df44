"""The corpus of good and bad messages, by the readers alone."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h1_reader import MessageReader, RequestReader, ResponseReader
from node_proxy.dataplane.http.limits import HttpLimits
from tests.node_proxy.dataplane.http.corpus import (
    AnswerCase,
    Pairs,
    RequestCase,
    answer_cases,
    request_cases,
)

LIMITS = HttpLimits()

# How the bytes come: at once, one by one, and in pieces that end everywhere.
CHUNKINGS = {"at once": 1 << 20, "in sevens": 7, "one by one": 1}


def pieces(sent: bytes, size: int) -> Iterator[bytes]:
    """Cut what is sent, and end it; what is long, in two thousand pieces at most."""
    size = max(size, len(sent) // 2000)
    for position in range(0, len(sent), size):
        yield sent[position : position + size]
    yield b""


class Taken:
    """What a reader gave of one message."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self.body = b""
        self.trailers: Pairs = []
        self.broken = False

    def read_body(self, reader: MessageReader, rest: Iterator[bytes]) -> None:
        """Read to the end of the body, with more bytes as they are needed."""
        try:
            while (data := reader.next_body()) != b"":
                if data is None:
                    reader.feed(next(rest))
                else:
                    self.body += data
            self.trailers = reader.trailers
        except ExchangeBroken:
            self.broken = True


def read_requests(sent: Iterable[bytes]) -> tuple[list[Taken], str]:
    """Give all requests, and what was refused."""
    rest = iter(sent)
    reader = RequestReader(LIMITS)
    taken: list[Taken] = []
    try:
        while True:
            parsed = reader.next_request()
            if parsed is None:
                if reader.ended:
                    return taken, ""
                reader.feed(next(rest))
                continue
            head = parsed.head
            one = Taken(
                {
                    "line": (head.method, head.target, head.authority),
                    "version": head.version.value,
                    "scheme": head.scheme,
                    "fields": head.fields,
                    "keep_alive": parsed.keep_alive,
                    "upgrade": head.upgrade.decode(),
                    "expects_continue": head.expects_continue,
                    "takes_trailers": head.trailers,
                    "length": head.length,
                }
            )
            taken.append(one)
            one.read_body(reader, rest)
            if one.broken:
                return taken, ""
    except MessageRefused as refused:
        return taken, f"{refused.status} {refused.reason}"


def read_answers(sent: Iterable[bytes], method: bytes) -> tuple[list[Taken], str]:
    """Give all answers to one request, and what was refused."""
    rest = iter(sent)
    reader = ResponseReader(LIMITS)
    taken: list[Taken] = []
    try:
        while True:
            parsed = reader.next_response(method)
            if parsed is None:
                reader.feed(next(rest))
                continue
            head = parsed.head
            one = Taken(
                {
                    "status": head.status,
                    "fields": head.fields,
                    "keep_alive": parsed.keep_alive,
                    "upgrade": head.upgrade.decode(),
                    "length": head.length,
                }
            )
            taken.append(one)
            one.read_body(reader, rest)
            if one.broken or head.status >= 200 or head.status == 101:
                return taken, ""
    except MessageRefused as refused:
        return taken, f"{refused.status} {refused.reason}"
    except ExchangeBroken:
        return taken, "broken"


@pytest.mark.parametrize("size", CHUNKINGS.values(), ids=CHUNKINGS.keys())
@pytest.mark.parametrize("case", request_cases(), ids=lambda case: case.name)
def test_requests(case: RequestCase, size: int) -> None:
    """Each request is taken in its one meaning or refused with its reason, however it comes."""
    taken, refused = read_requests(pieces(case.sent, size))
    assert refused == case.refused
    if refused and len(taken) == len(case.requests) + 1:
        # The one whose body was refused.
        taken.pop()
    assert len(taken) == len(case.requests)
    for got, wanted in zip(taken, case.requests, strict=True):
        said = got.said
        assert said["line"] == (wanted.method, wanted.target, wanted.authority)
        assert said["scheme"] == wanted.scheme
        assert wanted.version in (None, said["version"])
        assert wanted.fields is None or said["fields"] == wanted.fields
        assert (got.body, got.broken, got.trailers) == (wanted.body, wanted.broken, wanted.trailers)
        assert {key: said[key] for key in wanted.more} == wanted.more


@pytest.mark.parametrize("size", CHUNKINGS.values(), ids=CHUNKINGS.keys())
@pytest.mark.parametrize("case", answer_cases(), ids=lambda case: case.name)
def test_answers(case: AnswerCase, size: int) -> None:
    """Each answer is taken in its one meaning or refused with its reason, however it comes."""
    taken, refused = read_answers(pieces(case.sent, size), case.method)
    assert refused == ("broken" if case.broken else case.refused and f"502 {case.refused}")
    assert len(taken) == len(case.answers)
    for got, wanted in zip(taken, case.answers, strict=True):
        assert got.said["status"] == wanted.status
        assert wanted.fields is None or got.said["fields"] == wanted.fields
        assert refused or (got.body, got.broken, got.trailers) == (
            wanted.body,
            wanted.broken,
            wanted.trailers,
        )
        assert {key: got.said[key] for key in wanted.more} == wanted.more


def test_size_of_the_corpus() -> None:
    """There are as many bad messages as were promised, and each has a name of its own."""
    names = [case.name for case in request_cases()]
    assert len(set(names)) == len(names)
    bad = [case for case in request_cases() if case.refused] + [
        case for case in answer_cases() if case.refused
    ]
    assert len(bad) >= 150
