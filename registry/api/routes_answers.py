"""What is asked of and answered by ``/v1/routes``. Pure."""

import msgspec

from registry.api.bodies import Answer, Asked
from registry.api.service_view import EndpointAnswer


class ExplainAsked(Asked, frozen=True, kw_only=True):
    """Where does a request of `from_` to `to` go?

    `from_` is ``namespace/account``, a SPIFFE ID or empty for a caller without an identity, `to`
    ``namespace/name`` of a service, with ``:port`` unless it has one port only. `path` may have a query.
    """

    from_: str = msgspec.field(default="", name="from")
    to: str
    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: dict[str, str] = {}
    candidates: tuple[dict[str, object], ...] = ()


class MissAnswer(Answer, frozen=True, kw_only=True):
    """A field in the way: what it wants, and what the request has."""

    field: str
    wanted: str
    found: str


class MatchAnswer(Answer, frozen=True, kw_only=True):
    """What one match of one rule says: the fields `because` of which it holds, or the `misses`.

    `rule` and `match` are places in the route `route` of `kind`; `chosen`: it decides.
    """

    kind: str
    route: str
    rule: int
    name: str
    match: int
    matched: bool
    chosen: bool
    because: tuple[str, ...]
    misses: tuple[MissAnswer, ...]


class BackendAnswer(Answer, frozen=True, kw_only=True):
    """Where requests may go: `share` of 1 of them, and how one of the endpoints is chosen.

    `policy` is the BackendPolicy in force, empty for the defaults; `known`: the mesh has that port; `does` is
    what is done to the requests that go there alone.
    """

    service: str
    port: int
    weight: int
    share: float
    known: bool
    balancing: str
    policy: str
    does: tuple[str, ...]
    endpoints: tuple[EndpointAnswer, ...]


class RouteExplainAnswer(Answer, frozen=True, kw_only=True):
    """Where a request goes, and why.

    `status` is that of an answer the caller's proxy makes itself; 0 where an endpoint answers. `target` and
    `authority` are what the backend is asked for, `location` where a redirect leads. `does` is all that the
    rule does besides. `matches` are asked in their order, and `because` says why it comes to this.
    """

    revision: int
    source: str
    service: str
    port: int
    protocol: str
    status: int
    because: str
    authority: str
    target: str
    location: str
    does: tuple[str, ...]
    backends: tuple[BackendAnswer, ...]
    matches: tuple[MatchAnswer, ...]
    remarks: tuple[str, ...]
