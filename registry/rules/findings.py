"""What `lint` finds. Pure values."""

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    """ERROR: it does not do what it says. WARNING: most likely it is not meant. INFO: it may be meant."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Check(enum.Enum):
    """What was looked for."""

    SHADOWED = "shadowed"
    UNREACHABLE = "unreachable"
    UNENFORCEABLE = "unenforceable"
    UNKNOWN_REFERENCE = "unknown-reference"
    TOO_WIDE = "too-wide"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the policy ``namespace/name`` of `kind`, at the field `path`, and how to mend it."""

    severity: Severity
    check: Check
    kind: str
    policy: str
    path: str
    message: str
    mend: str
