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
CODES = frozenset({DENIED, NO_WORKLOAD, DIAL_FAILED, BAD_AUTHORITY, NOT_THIS_HOST})

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
