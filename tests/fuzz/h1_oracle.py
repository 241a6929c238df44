"""What must hold for whatever bytes come in as HTTP/1.1: the judge of the fuzzer and of the property tests.

1. A reader takes, refuses, or waits for more; it raises nothing else.
2. However the bytes are cut, the same is taken and what follows is refused or not.
3. What was taken is written anew so that our own strict reader takes exactly that, and nothing behind it.
4. So does h11, which was written by others: nobody behind us sees other requests than we did.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import h11

from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.h1_reader import MessageReader, RequestReader, ResponseReader
from node_proxy.dataplane.http.h1_writer import BodyWriter, Persistence, render_request, render_response
from node_proxy.dataplane.http.limits import MESH_LIMITS, HttpLimits
from node_proxy.dataplane.http.message import Fields, RequestHead, ResponseHead, Version, has_no_body

LIMITS = HttpLimits()
# Above all that our limits let through.
H11_LIMIT = 1 << 20


@dataclass
class Taken:
    """One message that was taken; `whole` when its body came to its end."""

    head: RequestHead | ResponseHead
    keep_alive: bool
    body: bytes = b""
    trailers: Fields | None = None
    whole: bool = False


@dataclass
class Outcome:
    """All that was taken, and how it ended: ``refused …``, ``broken``, or empty for in order."""

    taken: list[Taken]
    ending: str


def read_requests(pieces: Sequence[bytes], limits: HttpLimits = LIMITS) -> Outcome:
    """Read what a caller sends in these pieces before it ends."""
    reader = RequestReader(limits)
    rest = iter(pieces)
    taken: list[Taken] = []
    try:
        while True:
            parsed = reader.next_request()
            if parsed is not None:
                taken.append(Taken(parsed.head, parsed.keep_alive))
                _read_body(reader, taken[-1], rest)
            elif reader.ended:
                return Outcome(taken, "")
            else:
                reader.feed(next(rest, b""))
    except MessageRefused as refused:
        return Outcome(taken, f"refused {refused.status} {refused.reason}")
    except ExchangeBroken:
        return Outcome(taken, "broken")


def read_answers(pieces: Sequence[bytes], method: bytes, limits: HttpLimits = LIMITS) -> Outcome:
    """Read what a workload answers to one request in these pieces before it ends."""
    reader = ResponseReader(limits)
    rest = iter(pieces)
    taken: list[Taken] = []
    try:
        while True:
            parsed = reader.next_response(method)
            if parsed is None:
                reader.feed(next(rest, b""))
                continue
            taken.append(Taken(parsed.head, parsed.keep_alive))
            _read_body(reader, taken[-1], rest)
            if parsed.head.status >= 200 or parsed.head.status == 101:
                return Outcome(taken, "")
    except MessageRefused as refused:
        return Outcome(taken, f"refused {refused.status} {refused.reason}")
    except ExchangeBroken:
        return Outcome(taken, "broken")


def _read_body(reader: MessageReader, into: Taken, rest: Iterator[bytes]) -> None:
    while (data := reader.next_body()) != b"":
        if data is None:
            reader.feed(next(rest, b""))
        else:
            into.body += data
    into.trailers, into.whole = reader.trailers, True


def cut(data: bytes, positions: Sequence[int]) -> list[bytes]:
    """Give the data in pieces that end at these positions."""
    ends = sorted({each % (len(data) + 1) for each in positions} | {len(data)})
    begins = [0, *ends]
    pieces = [data[begin:end] for begin, end in zip(begins, ends, strict=False)]
    return [each for each in pieces if each]


def judge_requests(data: bytes, positions: Sequence[int]) -> Outcome:
    """Check what holds for whatever a caller sends.

    Raises:
        AssertionError: it does not.
    """
    outcome = read_requests([data] if data else [])
    assert _same(outcome, read_requests(cut(data, positions)))
    for each in outcome.taken:
        if each.whole:
            assert isinstance(each.head, RequestHead)
            _judge_written_request(each.head, each)
    return outcome


def judge_answers(data: bytes, method: bytes, positions: Sequence[int]) -> Outcome:
    """Check what holds for whatever a workload answers.

    Raises:
        AssertionError: it does not.
    """
    outcome = read_answers([data] if data else [], method)
    assert _same(outcome, read_answers(cut(data, positions), method))
    for each in outcome.taken:
        if each.whole:
            assert isinstance(each.head, ResponseHead)
            _judge_written_answer(each.head, each, method)
    return outcome


def _same(one: Outcome, other: Outcome) -> bool:
    if one.ending == "" and other.ending == "":
        return one == other
    # Of several faults the first one seen is named. And what of an unfinished body was given before its end
    # went wrong depends on the pieces.
    whole = [each for each in one.taken if each.whole]
    alike = one.ending.partition(" ")[0] == other.ending.partition(" ")[0]
    return alike and whole == [each for each in other.taken if each.whole]


def _judge_written_request(head: RequestHead, taken: Taken) -> None:
    rendered, framing = render_request(head)
    writer = BodyWriter(framing, head.length)
    written = rendered + writer.frame(taken.body) + writer.finish(taken.trailers or [])
    again = read_requests([written], MESH_LIMITS)
    assert again.ending == ""
    assert len(again.taken) == 1
    one = again.taken[0]
    head.version = Version.HTTP_11
    if head.scheme == b"https":
        # What is written is no absolute form.
        head.scheme = b"http"
    assert (one.head, one.body, one.trailers) == (head, taken.body, taken.trailers)
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=H11_LIMIT)
    server.receive_data(written)
    server.receive_data(b"")
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (head.method, head.target)
    assert [each for each in event.headers if each in head.fields] == head.fields
    assert _h11_body(server) == taken.body
    assert server.trailing_data[0] == b""


def _judge_written_answer(head: ResponseHead, taken: Taken, method: bytes) -> None:
    rendered, framing = render_response(
        head, method=method, version=Version.HTTP_11, persistence=Persistence.DEFAULT
    )
    silent = has_no_body(method, head.status)
    writer = BodyWriter(framing, head.length, silent=silent)
    written = rendered + writer.frame(taken.body) + writer.finish(taken.trailers or [])
    again = read_answers([written], method, MESH_LIMITS)
    if head.status < 200 and head.status != 101:
        assert again.ending == "broken"
    else:
        assert again.ending == ""
    one = again.taken[0]
    assert one.head == head
    assert (one.body, one.trailers or []) == (taken.body, taken.trailers or [])
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=H11_LIMIT)
    upgrade = [(b"connection", b"upgrade"), (b"upgrade", b"x")] if head.status == 101 else []
    client.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a"), *upgrade]))
    client.send(h11.EndOfMessage())
    client.receive_data(written)
    event = client.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert event.status_code == head.status
    if isinstance(event, h11.Response):
        assert _h11_body(client) == taken.body
        assert client.trailing_data[0] == b""


def _h11_body(connection: h11.Connection) -> bytes:
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    return body
