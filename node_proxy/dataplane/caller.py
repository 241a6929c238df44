"""Who a connection or a request of this host speaks for."""

from dataclasses import dataclass

from node_proxy.owners import Process
from registry.model.identity import Identity, parse_identity


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a connection speaks for: the identity, and its text as the pool and the logs use it.

    `process` is who made the caller's socket, where that was asked.
    """

    identity: Identity
    text: str
    process: Process | None = None

    @classmethod
    def of(cls, text: str) -> "Caller":
        """Read a SPIFFE ID that the agent gave."""
        return cls(parse_identity(text), text)


def caller_fields(process: Process | None) -> dict[str, int | str | None]:
    """Give what log lines say of a caller's process; nothing where nobody asked."""
    if process is None:
        return {}
    return {"caller_uid": process.uid, "caller_unit": process.unit or process.cgroup}
