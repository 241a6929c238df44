"""Answers of the mesh itself."""

import pytest

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.local_answer import local_answer, refusal_answer
from node_proxy.dataplane.http.message import Fields, RequestHead, first
from node_proxy.dataplane.reason import DENIED, RATE_LIMITED, TIMEOUT, Reason


def _request(method: bytes = b"GET", fields: Fields | None = None) -> RequestHead:
    return RequestHead(method, b"/", b"api", fields or [])


def test_text() -> None:
    """An answer says its status, its reason, and a sentence."""
    reason = Reason(DENIED, "prod/only-web")
    head, body = local_answer(_request(), 403, reason, detail="not for you")
    assert head.status == 403
    assert first(head.fields, b"nodemesh-reason") == b"denied; policy=prod/only-web"
    assert body == b"not for you\n"
    assert head.length == len(body)


def test_phrase() -> None:
    """Without a detail the sentence is the status' phrase."""
    assert local_answer(_request(), 504, Reason(TIMEOUT))[1] == b"Gateway Timeout\n"


def test_head() -> None:
    """HEAD is told how long the body would be, and gets none."""
    head, body = local_answer(_request(b"HEAD"), 404, Reason("no_route"))
    assert body == b""
    assert head.length == len(b"Not Found\n")


def test_not_kept_by_caches() -> None:
    """No cache keeps what the mesh said in a workload's place."""
    head, _ = local_answer(_request(), 404, Reason("no_route"))
    assert first(head.fields, b"cache-control") == b"no-store"


@pytest.mark.parametrize(
    ("status", "code"), [(403, b"7"), (404, b"12"), (429, b"8"), (503, b"14"), (504, b"4")]
)
def test_grpc(status: int, code: bytes) -> None:
    """A gRPC call is answered by a header alone: HTTP says 200, gRPC what happened."""
    request = _request(b"POST", [(b"content-type", b"application/grpc+proto")])
    head, body = local_answer(request, status, Reason(DENIED), detail="50% \n off")
    assert (head.status, head.length, body) == (200, 0, b"")
    assert first(head.fields, b"grpc-status") == code
    assert first(head.fields, b"grpc-message") == b"50%25 %0A off"
    assert first(head.fields, b"nodemesh-reason") == b"denied"


def test_more() -> None:
    """What else the header should say is added, and a gRPC status may be chosen."""
    request = _request(b"POST", [(b"content-type", b"application/grpc")])
    head, _ = local_answer(
        request, 429, Reason(RATE_LIMITED), fields=[(b"retry-after", b"1")], grpc_status=14
    )
    assert first(head.fields, b"retry-after") == b"1"
    assert first(head.fields, b"grpc-status") == b"14"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, b"bad_request"),
        (501, b"bad_request"),
        (414, b"too_large"),
        (431, b"too_large"),
        (408, b"timeout"),
    ],
)
def test_refusals(status: int, code: bytes) -> None:
    """What is no request is answered with what was wrong."""
    head, body = refusal_answer(MessageRefused(status, "bad_framing", "two lengths"))
    assert head.status == status
    assert first(head.fields, b"nodemesh-reason") == code
    assert body == b"two lengths\n"
