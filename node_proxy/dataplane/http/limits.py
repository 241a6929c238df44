"""What one HTTP connection may cost: bounds of messages and of patience. Pure.

Each bound is answered with the status that its comment names; `MessageRefused.reason` says which was met, and
the reasons in LIMIT_REASONS are counted as limits reached.
"""

from dataclasses import dataclass

# Reasons of `MessageRefused` that name a limit; all others name a fault.
HEAD_TOO_LARGE = "head_too_large"
TARGET_TOO_LONG = "target_too_long"
TOO_MANY_FIELDS = "too_many_fields"
TRAILERS_TOO_LARGE = "trailers_too_large"
CHUNK_LINE_TOO_LONG = "chunk_line_too_long"
HEAD_TIMEOUT = "head_timeout"
# Of HTTP/2: requests at once, and frames that cost more to receive than to send.
TOO_MANY_STREAMS = "too_many_streams"
TOO_MUCH_CONTROL = "too_much_control"
LIMIT_REASONS = frozenset(
    {
        HEAD_TOO_LARGE,
        TARGET_TOO_LONG,
        TOO_MANY_FIELDS,
        TRAILERS_TOO_LARGE,
        CHUNK_LINE_TOO_LONG,
        HEAD_TIMEOUT,
        TOO_MANY_STREAMS,
        TOO_MUCH_CONTROL,
    }
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one HTTP connection; the defaults are for workloads of a mesh, not for the open Internet.

    Args:
        head_bytes: of a start line and its header together; beyond is 431. Envoy takes 60 KiB, nginx 32.
        fields: of one header; beyond is 431. Envoy's 100, and room for what proxies add.
        target_bytes: of a request's target; beyond is 414. Twice what nginx takes: queries carry tokens.
        chunk_line_bytes: of a chunk's size with its extensions, which only attackers use; beyond is 400.
        trailer_bytes: of all trailers together; beyond is 431. gRPC's messages are percent-encoded in them.
        informational: answers of 1xx before one final answer. Nobody sends more than a few.
        head_seconds: for a whole head, from its first byte; beyond is 408. Stops who sends a byte at a time.
        idle_seconds: between requests; then the connection is closed. nginx's 75.
        linger_seconds: that a connection which was closed early is still read, so that its last answer is not
            destroyed by a reset (RFC 9112 section 9.6).
        linger_bytes: that are read then, or of a body that no handler wanted, before it is closed anyway.
    """

    head_bytes: int = 64 * 1024
    fields: int = 128
    target_bytes: int = 16 * 1024
    chunk_line_bytes: int = 1024
    trailer_bytes: int = 16 * 1024
    informational: int = 32
    head_seconds: float = 15.0
    idle_seconds: float = 75.0
    linger_seconds: float = 2.0
    linger_bytes: int = 256 * 1024


# For connections to another proxy of the mesh: what that let through, and what it adds itself. Else a message
# that is as large as it may be would be refused half way.
MESH_LIMITS = HttpLimits(
    head_bytes=HttpLimits().head_bytes + 16 * 1024,
    fields=HttpLimits().fields + 32,
)
