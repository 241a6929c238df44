"""What etcd's errors mean to us. Pure: takes gRPC's code name and text, gives our error and the remedy.

etcd tells several faults apart by text alone, and releases differ in the code they put on the same text, so
the text is looked at first (the texts are those of etcd's ``api/v3rpc/rpctypes/error.go``).
"""

from dataclasses import dataclass
from enum import Enum, auto

from registry.errors import Conflict, NotFound, RegistryError, StoreError, StoreForbidden, StoreUnavailable


class Remedy(Enum):
    """What may be done about a fault."""

    NEW_TOKEN = auto()
    """Authenticate again: nothing was done, the token was not accepted."""
    TRY_AGAIN = auto()
    """Try again, on another member; whether anything was done is not known."""
    NONE = auto()
    """Nothing: the answer is final."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong, as the error to raise if nothing helps."""

    remedy: Remedy
    error: RegistryError


# Text, and the sentence for the operator; `{at}` is the member.
_TOKEN_REFUSED = {
    "invalid auth token": "etcd at {at} no longer accepts our token",
    "revision of auth store is old": "etcd at {at} changed its users while we asked",
    "user name is empty": "etcd at {at} wants to know who we are; configure a user or a client certificate",
}
_FORBIDDEN = {
    "authentication failed": "etcd at {at} refuses the user name or the password",
    "user name not found": "etcd at {at} has no user of the name in our client certificate; add it there",
    "permission denied": "etcd at {at} denies permission; grant the user's role the keys under our prefix",
}
_TAKEN = ("user name already exists", "role name already exists")
# What a member that has no users answers to a login.
AUTH_DISABLED = "authentication is not enabled"
_CERTIFICATE_REFUSED = "it wants a client certificate, or refuses ours; see cert, key and the roots it trusts"
# gRPC reports every TLS failure as "unavailable"; the operator needs to know which it was.
_TLS_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is expired or not signed by the configured ca",
    "Hostname Verification": "its certificate is for another name or address",
    "Handshake read failed": "it breaks off the TLS handshake; perhaps it does not speak TLS",
    ": Socket closed": "it closes the connection at once; perhaps it wants TLS, then configure its ca",
    # TLS 1.3 tells a client of the refusal only after its handshake.
    "Unwrap failed": _CERTIFICATE_REFUSED,
    "ALERT_BAD_CERTIFICATE": _CERTIFICATE_REFUSED,
    "ALERT_UNKNOWN_CA": _CERTIFICATE_REFUSED,
    "CERTIFICATE_REQUIRED": _CERTIFICATE_REFUSED,
}
# Ends of a call that say nothing about the request: the connection broke, the member stops, no leader.
_TRANSIENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "INTERNAL", "UNKNOWN"})


def judge(code: str, details: str, *, at: str) -> Fault:
    """Judge a failed call by the name of its gRPC status code and its text; `at` is the member asked."""
    for text, sentence in _TOKEN_REFUSED.items():
        if text in details:
            return Fault(Remedy.NEW_TOKEN, StoreForbidden(sentence.format(at=at)))
    for text, sentence in _FORBIDDEN.items():
        if text in details:
            return Fault(Remedy.NONE, StoreForbidden(sentence.format(at=at)))
    if any(text in details for text in _TAKEN):
        return Fault(Remedy.NONE, Conflict(f"etcd at {at}: {details}"))
    match code:
        case "PERMISSION_DENIED" | "UNAUTHENTICATED":
            return Fault(Remedy.NONE, StoreForbidden(f"etcd at {at} refuses us: {details}"))
        case "OUT_OF_RANGE":
            return Fault(Remedy.NONE, Conflict(f"etcd at {at}: {details}"))
        case "NOT_FOUND":
            return Fault(Remedy.NONE, NotFound(f"etcd at {at}: {details}"))
        case "RESOURCE_EXHAUSTED" if "too many requests" in details:
            return Fault(Remedy.TRY_AGAIN, StoreUnavailable(f"etcd at {at} is overloaded: {details}"))
        case _ if code in _TRANSIENT:
            return Fault(Remedy.TRY_AGAIN, StoreUnavailable(_describe_unavailable(details, at)))
        case _:
            return Fault(Remedy.NONE, StoreError(f"etcd at {at} refuses the request: {details}"))


def judge_watch_end(reason: str, *, at: str) -> Fault:
    """Judge a watch that etcd cancelled, by the reason it gave.

    Old releases say "permission denied" when it is the token that is not accepted.
    """
    fault = judge("UNAVAILABLE", reason, at=at)
    if isinstance(fault.error, StoreForbidden):
        return Fault(Remedy.NEW_TOKEN, fault.error)
    return fault


def _describe_unavailable(details: str, at: str) -> str:
    for text, hint in _TLS_HINTS.items():
        if text in details:
            return f"cannot talk to etcd at {at}: {hint}"
    return f"etcd at {at} does not answer: {details}"
