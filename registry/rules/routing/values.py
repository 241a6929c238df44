"""Rules as the data path uses them: names resolved, durations in seconds, headers in bytes. Pure values."""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

NO_LIMIT: Final = math.inf


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """`set` replaces what is there, `add` appends, `remove` takes away; names are in lower case."""

    set: tuple[tuple[bytes, bytes], ...] = ()
    add: tuple[tuple[bytes, bytes], ...] = ()
    remove: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Backend:
    """A port of a Service (``namespace/name``) that requests may go to, and changes to those that do.

    They come after the rule's own; a `rewrite` goes before the rule's.

    `known`: the mesh has it. The share of one that it has not is answered with 500.
    """

    service: str
    port: int
    weight: int = 1
    known: bool = True
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    mirrors: tuple["Mirror", ...] = ()
    rewrite: "Rewrite | None" = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where copies of a share (0 to 1) of the requests go."""

    backend: Backend
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class PathChange:
    """A new path; or, if `prefix`, what takes the place of the prefix that matched."""

    value: str
    prefix: bool


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What the backend hears instead: `hostname` is the whole authority."""

    hostname: bytes | None = None
    path: PathChange | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where to go instead; `listener` is the port of the Service that was called."""

    status: int
    listener: int
    scheme: str | None = None
    hostname: str | None = None
    port: int | None = None
    path: PathChange | None = None


class Origin(NamedTuple):
    """Where a page comes from, as browsers tell it; the host in lower case."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Cors:
    """Which origins may read the answers, and what preflight requests are told; `max_age` in seconds.

    `suffixes` are origins whose hosts end so, and have something before it.
    """

    any_origin: bool
    origins: frozenset[Origin]
    suffixes: tuple[Origin, ...]
    credentials: bool
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age: int


@dataclass(frozen=True, slots=True)
class RouteTimeouts:
    """In seconds: `request` is for everything, `backend_request` for one try.

    None says nothing, so that the BackendPolicy decides; NO_LIMIT takes the policy's limit away.
    """

    request: float | None = None
    backend_request: float | None = None


@dataclass(frozen=True, slots=True)
class RouteRetry:
    """`attempts` are tries after the first, `backoff` the least time between two in seconds.

    None leaves it to the BackendPolicy. `codes` are answers that are tried again.
    """

    codes: frozenset[int] = frozenset()
    attempts: int | None = None
    backoff: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RoutingRule:
    """One rule of a route; equal only to itself.

    `route` is ``namespace/name`` of a resource of `kind`, `number` the rule's place in it. `total` is the sum
    of the backends' weights.
    """

    kind: str
    route: str
    number: int
    name: str = ""
    backends: tuple[Backend, ...] = ()
    total: int = 0
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    cors: Cors | None = None
    timeouts: RouteTimeouts = RouteTimeouts()
    retry: RouteRetry | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RouteMatch:
    """The rule for a request, by its match of this `number`.

    `prefix` is the path prefix that matched, in its one spelling without the slash at its end; None where the
    match is none of a prefix.
    """

    rule: RoutingRule
    number: int
    prefix: str | None = None
