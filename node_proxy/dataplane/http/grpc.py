"""What gRPC adds to HTTP/2, as far as a proxy must know it: its content type, its statuses. Pure.

Source: gRPC's "PROTOCOL-HTTP2" and "HTTP to gRPC Status Code Mapping".
"""

import enum
from typing import Final

from node_proxy.dataplane.http.message import Fields, first

CONTENT_TYPE: Final = b"application/grpc"
STATUS_FIELD: Final = b"grpc-status"
MESSAGE_FIELD: Final = b"grpc-message"

# A message is for people, and every client keeps it: no longer than a line or two.
MAX_MESSAGE: Final = 512


class GrpcStatus(enum.IntEnum):
    """All statuses that there are."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# Of answers that the mesh makes itself. It says more than gRPC's own table, which is for proxies of which a
# client knows nothing: 429 and 504 would be UNAVAILABLE there, and be tried again at once.
_OF_HTTP: Final = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    408: GrpcStatus.DEADLINE_EXCEEDED,
    413: GrpcStatus.RESOURCE_EXHAUSTED,
    414: GrpcStatus.INTERNAL,
    429: GrpcStatus.RESOURCE_EXHAUSTED,
    431: GrpcStatus.RESOURCE_EXHAUSTED,
    500: GrpcStatus.INTERNAL,
    501: GrpcStatus.UNIMPLEMENTED,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.DEADLINE_EXCEEDED,
    505: GrpcStatus.INTERNAL,
}


def is_grpc(fields: Fields) -> bool:
    """Whether a message is gRPC by its content type. gRPC-Web is not: its clients read HTTP's status."""
    kind = first(fields, b"content-type")
    if kind is None or kind[: len(CONTENT_TYPE)].lower() != CONTENT_TYPE:
        return False
    return kind[len(CONTENT_TYPE) : len(CONTENT_TYPE) + 1] in (b"", b"+", b";", b" ", b"\t")


def status_of_http(status: int) -> GrpcStatus:
    """Give what an answer of ours with an HTTP status is to a gRPC client."""
    return _OF_HTTP.get(status, GrpcStatus.UNKNOWN)


def status_in(fields: Fields) -> GrpcStatus | None:
    """Read the status from trailers, or from the header of an answer that is nothing else (Trailers-Only).

    None when there is none; what is no status is UNKNOWN, as clients take it.
    """
    text = first(fields, STATUS_FIELD)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 2:
        return GrpcStatus.UNKNOWN
    try:
        return GrpcStatus(int(text))
    except ValueError:
        return GrpcStatus.UNKNOWN


def render_message(text: str) -> bytes:
    """Give the value of ``grpc-message``: UTF-8, percent-encoded but for printable ASCII."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.strip().encode("utf-8", "replace")[:MAX_MESSAGE]
    )
