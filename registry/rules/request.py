"""What the rules are asked about: one connection, or one HTTP request in it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.model.identity import Identity


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request as its caller sent it; the names in `headers` are in lower case.

    `path` may still have its query: the rules normalise it themselves (`registry.rules.paths`).
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuthRequest:
    """Who wants to reach which port of a workload.

    Args:
        source: the proven caller; None is not authenticated, and a node is not either, since it speaks for
            processes of no workload.
        port: the workload's port.
        source_ip: the address of the calling host, or of the caller where it is known.
        remote_ip: the address of the original client, where somebody trusted has said it; else `source_ip`.
        destination_ip: the address that was called.
        sni: the server name that the caller asked for.
        http: the request, on ports whose HTTP is read.
    """

    source: Identity | None
    port: int
    source_ip: str | None = None
    remote_ip: str | None = None
    destination_ip: str | None = None
    sni: str | None = None
    http: HttpRequest | None = None
