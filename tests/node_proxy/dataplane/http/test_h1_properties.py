"""What holds for every HTTP/1.1 message and for every cut of its bytes."""

from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.h1_body import ChunkedBody, Framing
from node_proxy.dataplane.http.h1_syntax import CONNECTION_FIELDS
from node_proxy.dataplane.http.h1_writer import BodyWriter, Persistence, render_request, render_response
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.message import RequestHead, ResponseHead, Version, says_length
from tests.fuzz.h1_oracle import cut, judge_answers, judge_requests, read_answers, read_requests
from tests.node_proxy.dataplane.http.corpus import answer_cases, request_cases

TOKEN = st.text("!#$%&'*+-.^_`|~09abz", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=30).map(
    lambda raw: bytes(each for each in raw if each == 9 or (each >= 32 and each != 127)).strip(b" \t")
)
FIELDS = st.lists(st.tuples(TOKEN.filter(lambda name: name not in CONNECTION_FIELDS), VALUE), max_size=8)
TARGET = st.text("/?=&%._~-:@!$'()*+,;az09", max_size=30).map(lambda text: b"/" + text.encode())
AUTHORITY = st.sampled_from([b"", b"a", b"a.example:8080", b"[fd00::1]", b"[fd00::1]:80", b"my_service"])
BODY = st.binary(max_size=200)
CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)
REQUESTS = st.builds(
    RequestHead,
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"]),
    target=TARGET,
    authority=AUTHORITY,
    fields=FIELDS,
    trailers=st.booleans(),
)
SHORT_REQUESTS = [case.sent for case in request_cases() if len(case.sent) < 2000]
SHORT_ANSWERS = [case.sent for case in answer_cases() if len(case.sent) < 2000]


@given(st.lists(st.tuples(REQUESTS, BODY, st.booleans(), FIELDS), min_size=1, max_size=4), CUTS)
def test_requests_come_back(
    messages: list[tuple[RequestHead, bytes, bool, list[tuple[bytes, bytes]]]], cuts: list[int]
) -> None:
    """Requests that were written one behind the other are read as they were, however they are cut."""
    written = b""
    for head, body, known, trailers in messages:
        head.length = len(body) if known else None
        rendered, framing = render_request(head)
        writer = BodyWriter(framing, head.length)
        written += rendered + writer.frame(body) + writer.finish(trailers)
    outcome = read_requests(cut(written, cuts))
    assert outcome.ending == ""
    assert len(outcome.taken) == len(messages)
    for taken, (head, body, known, trailers) in zip(outcome.taken, messages, strict=True):
        assert (taken.head, taken.body) == (head, body)
        assert taken.trailers == ([] if known else trailers)
        assert taken.keep_alive


@given(
    st.sampled_from([200, 204, 206, 299, 304, 404, 500, 599]),
    FIELDS,
    BODY,
    st.booleans(),
    FIELDS,
    st.sampled_from([b"GET", b"HEAD"]),
    st.sampled_from(list(Persistence)),
    CUTS,
)
def test_answers_come_back(
    status: int,
    fields: list[tuple[bytes, bytes]],
    body: bytes,
    known: bool,
    trailers: list[tuple[bytes, bytes]],
    method: bytes,
    persistence: Persistence,
    cuts: list[int],
) -> None:
    """An answer that was written is read as it was, however it is cut."""
    head = ResponseHead(status, fields, len(body) if known else None)
    rendered, framing = render_response(head, method=method, version=Version.HTTP_11, persistence=persistence)
    has_body = framing is not Framing.NONE
    writer = BodyWriter(framing, head.length, silent=not has_body)
    written = rendered + writer.frame(body) + writer.finish(trailers)
    outcome = read_answers(cut(written, cuts), method)
    assert outcome.ending == ""
    (taken,) = outcome.taken
    assert isinstance(taken.head, ResponseHead)
    assert (taken.head.status, taken.head.fields) == (status, fields)
    if says_length(method, status) or status != 204:
        assert taken.head.length == head.length
    assert taken.body == (body if has_body else b"")
    assert taken.trailers == (trailers if framing is Framing.CHUNKED else [])
    assert taken.keep_alive == (persistence is not Persistence.CLOSE)


@given(st.lists(st.sampled_from(SHORT_REQUESTS), min_size=1, max_size=3), st.data(), CUTS)
def test_whatever_callers_send(seeds: list[bytes], data: st.DataObject, cuts: list[int]) -> None:
    """Of whatever comes the same is taken in each cut, and means the same to everybody behind us."""
    judge_requests(_spoil(b"".join(seeds), data), cuts)


@given(st.sampled_from(SHORT_ANSWERS), st.data(), st.sampled_from([b"GET", b"HEAD"]), CUTS)
def test_whatever_workloads_answer(seed: bytes, data: st.DataObject, method: bytes, cuts: list[int]) -> None:
    """So it is with answers."""
    judge_answers(_spoil(seed, data), method, cuts)


def _spoil(raw: bytes, data: st.DataObject) -> bytes:
    """Replace some bytes, anywhere."""
    spoiled = bytearray(raw)
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(spoiled)))
        length = data.draw(st.integers(0, 3))
        spoiled[position : position + length] = data.draw(st.binary(max_size=4))
    return bytes(spoiled)


@given(st.lists(BODY.filter(bool), max_size=8), FIELDS, CUTS)
def test_chunks_come_back(pieces: list[bytes], trailers: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """A body in chunks is the same however they were made and cut, and nothing behind it is used up."""
    writer = BodyWriter(Framing.CHUNKED, None)
    written = b"".join(writer.frame(each) for each in pieces) + writer.finish(trailers)
    chunks = ChunkedBody(HttpLimits())
    body, left = b"", b""
    for piece in cut(written + b"next", cuts):
        data, used = chunks.decode(left + piece)
        body += data
        left = (left + piece)[used:]
    assert (body, chunks.trailers, chunks.ended, left) == (b"".join(pieces), trailers, True, b"next")
