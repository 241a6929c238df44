"""The text of the ``nodemesh-reason`` header: why a stream was refused, in a form both ends can log.

Pure. What a peer sent is read strictly: it ends up in logs, and none of it in a metric's label but the
code, which must be one of ours.
"""

import re
from dataclasses import dataclass

# What stands for the policy when the mesh's defaults decided.
MESH_DEFAULT = "mesh-default"

DENIED = "denied"
NO_WORKLOAD = "no_workload"
DIAL_FAILED = "dial_failed"
BAD_AUTHORITY = "bad_authority"
NOT_THIS_HOST = "not_this_host"
# To callers that come past the mesh, who get a reset and no header.
PLAINTEXT_REFUSED = "plaintext"
NOT_REDIRECTED = "not_redirected"
# The code that stands for whatever a peer says that is none of ours.
OTHER = "refused"
# Of a connection or of a request: nowhere to go, and too much at once.
NO_ENDPOINT = "no_endpoint"
RATE_LIMITED = "rate_limited"
BREAKER_OPEN = "breaker_open"
OVERFLOW = "overflow"
TIMEOUT = "timeout"
# Of requests: what the routes say, what was wrong with them, and what became of them upstream.
NO_ROUTE = "no_route"
INVALID_BACKEND = "invalid_backend"
FAULT = "fault"
BAD_REQUEST = "bad_request"
TOO_LARGE = "too_large"
UPSTREAM_RESET = "upstream_reset"
UPSTREAM_INVALID = "upstream_invalid"
INTERNAL_ERROR = "internal_error"
CODES = frozenset(
    {
        DENIED,
        NO_WORKLOAD,
        DIAL_FAILED,
        BAD_AUTHORITY,
        NOT_THIS_HOST,
        NO_ENDPOINT,
        RATE_LIMITED,
        BREAKER_OPEN,
        OVERFLOW,
        TIMEOUT,
        NO_ROUTE,
        INVALID_BACKEND,
        FAULT,
        BAD_REQUEST,
        TOO_LARGE,
        UPSTREAM_RESET,
        UPSTREAM_INVALID,
        INTERNAL_ERROR,
    }
)

# Enough of a peer's words to recognise them, not enough to fill a disk.
MAX_SHOWN = 256

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HEADER = re.compile(
    r"(?P<code>[a-z_]{1,32})"
    rf"(?:; policy=(?P<policy>{_LABEL}/{_LABEL}|{MESH_DEFAULT}))?"
    r"(?:; id=(?P<decision>[0-9a-f]{8}-[0-9a-f]{1,16}))?\Z"
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a stream was refused: a code, the policy that decided it if one did, and the decision's id.

    `policy` is ``namespace/name``, or MESH_DEFAULT; empty when no policy was asked.
    """

    code: str
    policy: str = ""
    decision: str = ""


def render_reason(reason: Reason) -> str:
    """Give the header's value."""
    policy = f"; policy={reason.policy}" if reason.policy else ""
    decision = f"; id={reason.decision}" if reason.decision else ""
    return f"{reason.code}{policy}{decision}"


def parse_reason(text: str) -> Reason:
    """Read what a peer sent; what is not exactly of our form is the code OTHER and nothing else."""
    match = _HEADER.match(text)
    if match is None or match["code"] not in CODES:
        return Reason(OTHER)
    return Reason(match["code"], match["policy"] or "", match["decision"] or "")
