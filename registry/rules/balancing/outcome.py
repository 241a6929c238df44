"""How a try at an endpoint ended, as balancing, ejection, the breaker and retries see it. Pure."""

import enum

# gRPC statuses that say that the server is at fault: UNKNOWN is what uncaught exceptions become, DATA_LOSS is
# lost for good; CANCELLED and DEADLINE_EXCEEDED are the caller's own doing as often as not.
_GRPC_SERVER_ERRORS = frozenset({2, 13, 14, 15})


class Outcome(enum.Enum):
    """What a try was good for."""

    SUCCESS = "success"
    # An answer of 500 or above, or a gRPC status that blames the server.
    SERVER_ERROR = "server_error"
    # The connection broke under the request.
    RESET = "reset"
    TIMEOUT = "timeout"
    # No connection came about.
    UNREACHED = "unreached"
    # Ended by its caller, or by us: says nothing of the endpoint.
    ABANDONED = "abandoned"

    # Compared for every request: attributes of the members cost less than sets of them.
    failed: bool
    counts: bool

    def __init__(self, text: str) -> None:
        self.failed = text not in ("success", "abandoned")
        self.counts = text != "abandoned"


def outcome_of(status: int, grpc_status: int | None = None) -> Outcome:
    """Say what an answer was good for; `grpc_status` is that of a gRPC answer."""
    if grpc_status is not None:
        return Outcome.SERVER_ERROR if grpc_status in _GRPC_SERVER_ERRORS else Outcome.SUCCESS
    return Outcome.SERVER_ERROR if status >= 500 else Outcome.SUCCESS
