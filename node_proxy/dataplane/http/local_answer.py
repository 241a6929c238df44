"""The answers that the mesh gives itself, instead of a workload: refusals, timeouts, faults. Pure.

All carry ``nodemesh-reason``, by which people and the other proxy tell them from a workload's own. gRPC calls
are answered as gRPC: HTTP says 200, and the status is in a header that nothing follows (Trailers-Only).
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.grpc import (
    CONTENT_TYPE,
    MESSAGE_FIELD,
    STATUS_FIELD,
    is_grpc,
    render_message,
    status_of_http,
)
from node_proxy.dataplane.http.message import Field, RequestHead, ResponseHead
from node_proxy.dataplane.reason import BAD_REQUEST, TIMEOUT, TOO_LARGE, Reason, render_reason

REASON_FIELD: Final = b"nodemesh-reason"
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
# RFC 9111 section 3: some of these may be kept by caches unless told otherwise, as 404 and 501.
_NOT_KEPT: Final = (b"cache-control", b"no-store")
_TOO_LARGE: Final = {413: TOO_LARGE, 414: TOO_LARGE, 431: TOO_LARGE}


def local_answer(
    request: RequestHead,
    status: int,
    reason: Reason,
    *,
    fields: Sequence[Field] = (),
    detail: str = "",
    grpc_status: int | None = None,
) -> tuple[ResponseHead, bytes]:
    """Make an answer to `request`: its head, and the whole of its body.

    Args:
        request: what is answered; gRPC calls are answered as such.
        status: of HTTP.
        reason: becomes ``nodemesh-reason``.
        fields: more of the header, as ``retry-after``.
        detail: for people, a short sentence without anything that a caller sent; the status' phrase if empty.
        grpc_status: instead of the one that belongs to `status`.
    """
    why = detail or phrase(status)
    said = (REASON_FIELD, render_reason(reason).encode("ascii", "replace"))
    if is_grpc(request.fields):
        code = status_of_http(status) if grpc_status is None else grpc_status
        header = [
            (b"content-type", CONTENT_TYPE),
            (STATUS_FIELD, b"%d" % code),
            (MESSAGE_FIELD, render_message(why)),
            said,
            *fields,
        ]
        return ResponseHead(status=200, fields=header, length=0), b""
    body = f"{why}\n".encode()
    head = ResponseHead(status=status, fields=[_TEXT, _NOT_KEPT, said, *fields], length=len(body))
    # What HEAD is answered says how long the body would have been (RFC 9110 section 9.3.2).
    return head, b"" if request.method == b"HEAD" else body


def refusal_answer(
    refused: MessageRefused, *, method: bytes | None = None, fields: Sequence[Field] = ()
) -> tuple[ResponseHead, bytes]:
    """Make the answer to what was refused as no request, or as too large.

    Args:
        refused: says the status, and what was wrong.
        method: if that much could be read.
        fields: likewise; they tell gRPC.
    """
    code = TIMEOUT if refused.status == 408 else _TOO_LARGE.get(refused.status, BAD_REQUEST)
    request = RequestHead(method=method or b"", target=b"", authority=b"", fields=list(fields))
    return local_answer(request, refused.status, Reason(code), detail=refused.detail)


def phrase(status: int) -> str:
    """Give what people call a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"
