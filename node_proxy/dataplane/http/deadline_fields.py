"""How long a caller still waits, as it says in a request's header. Pure.

gRPC says it in ``grpc-timeout``, all others in ``nodemesh-timeout``, in whole milliseconds. The value is what
is left when the request is sent; clocks of different hosts are never compared.
"""

import re
from typing import Final

from node_proxy.dataplane.http.grpc import is_grpc
from node_proxy.dataplane.http.message import Fields

GRPC_TIMEOUT: Final = b"grpc-timeout"
MESH_TIMEOUT: Final = b"nodemesh-timeout"

# gRPC allows eight digits; so many milliseconds are 27 hours.
_GRPC: Final = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_MILLISECONDS: Final = re.compile(rb"[0-9]{1,8}\Z")
_SECONDS_EACH: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_VALUE: Final = 99_999_999


def read_deadline(fields: Fields) -> float | None:
    """Give how many seconds the caller still waits, by the smaller of what it says; None if it says nothing.

    A value out of form says nothing: it is dropped when the request is sent on (`with_deadline`).
    """
    found: float | None = None
    for name, value in fields:
        seconds: float | None
        if name == MESH_TIMEOUT:
            seconds = int(value) / 1000 if _MILLISECONDS.match(value) else None
        elif name == GRPC_TIMEOUT:
            seconds = parse_grpc_timeout(value)
        else:
            continue
        if seconds is not None and (found is None or seconds < found):
            found = seconds
    return found


def with_deadline(fields: Fields, seconds: float | None) -> Fields:
    """Give `fields` that say `seconds`, in gRPC's words to gRPC, and nothing else of deadlines.

    None means that nobody waits for a limited time.
    """
    kept = [each for each in fields if each[0] not in (MESH_TIMEOUT, GRPC_TIMEOUT)]
    if seconds is None:
        return kept
    if is_grpc(fields):
        kept.append((GRPC_TIMEOUT, render_grpc_timeout(seconds)))
    else:
        # At least one: 0 would be over before it began, and that is for whoever measures the time to say.
        milliseconds = min(max(int(seconds * 1000), 1), _MAX_VALUE)
        kept.append((MESH_TIMEOUT, b"%d" % milliseconds))
    return kept


def parse_grpc_timeout(value: bytes) -> float | None:
    """Read ``grpc-timeout`` in seconds; None when it is out of form."""
    match = _GRPC.match(value)
    return None if match is None else int(match[1]) * _SECONDS_EACH[match[2]]


def render_grpc_timeout(seconds: float) -> bytes:
    """Give ``grpc-timeout``, rounded down, in the finest of gRPC's units that eight digits allow."""
    for unit, scale in ((b"u", 1e6), (b"m", 1e3), (b"S", 1.0)):
        amount = int(seconds * scale)
        if amount <= _MAX_VALUE:
            return b"%d%s" % (max(amount, 1), unit)
    return b"%d%s" % (min(int(seconds / 3600), _MAX_VALUE), b"H")
