"""What the rules are asked about: one connection, or one HTTP request in it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from registry.model.identity import Identity


class Repeated(str):
    """The value of a header that came several times: joined as RFC 9110 section 5.3 says, and `each`.

    Servers read it joined, or take the first of them, or the last: a rule must let in none that any of them
    would take for another.
    """

    __slots__ = ("each",)

    each: tuple[str, ...]

    def __new__(cls, each: Sequence[str]) -> "Repeated":
        """Join the values."""
        value = super().__new__(cls, ",".join(each))
        value.each = tuple(each)
        return value


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request as its caller sent it; the names in `headers` are in lower case.

    `path` may still have its query: the rules normalise it themselves (`registry.rules.paths`). A header that
    came several times is `Repeated`.
    """

    method: str
    path: str
    host: str
    # A mapping has no hash; requests that differ in their headers alone may share one.
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


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
        opening: it is a connection over which requests come that are judged one by one: may any be allowed?
            Without `http`.
    """

    source: Identity | None
    port: int
    source_ip: str | None = None
    remote_ip: str | None = None
    destination_ip: str | None = None
    sni: str | None = None
    http: HttpRequest | None = None
    opening: bool = False

    def asking(self, http: HttpRequest) -> "AuthRequest":
        """Give the question about a request that comes over this connection."""
        # Not `replace`, which would be a quarter of what a request costs here.
        return AuthRequest(
            self.source,
            self.port,
            self.source_ip,
            self.remote_ip,
            self.destination_ip,
            self.sni,
            http,
        )
