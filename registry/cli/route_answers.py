"""The registry's answers about routes as typed values."""

from registry.cli.answers import Answer, EndpointView


class RouteMissView(Answer, frozen=True, kw_only=True):
    """A field in the way: what it wants, and what the request has."""

    field: str
    wanted: str = ""
    found: str = ""


class RouteMatchView(Answer, frozen=True, kw_only=True):
    """What one match of one rule says, and why; `chosen`: it decides."""

    kind: str
    route: str
    rule: int
    match: int
    matched: bool
    chosen: bool = False
    name: str = ""
    because: tuple[str, ...] = ()
    misses: tuple[RouteMissView, ...] = ()


class BackendView(Answer, frozen=True, kw_only=True):
    """Where a `share` of 1 of the requests goes; without a `policy` the balancing is the default's."""

    service: str
    port: int
    share: float
    known: bool = True
    weight: int = 1
    balancing: str = ""
    policy: str = ""
    does: tuple[str, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()

    @property
    def usable(self) -> int:
        """How many endpoints take traffic."""
        return sum(endpoint.usable for endpoint in self.endpoints)


class RouteExplainView(Answer, frozen=True, kw_only=True):
    """Where a request goes, and why; `status` 0 means that an endpoint answers."""

    revision: int
    service: str
    port: int
    protocol: str
    source: str = ""
    status: int = 0
    because: str = ""
    authority: str = ""
    target: str = ""
    location: str = ""
    does: tuple[str, ...] = ()
    backends: tuple[BackendView, ...] = ()
    matches: tuple[RouteMatchView, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def well(self) -> bool:
        """Whether the request is answered as its route means it: by an endpoint, or by the route itself."""
        if self.status:
            return self.status < 400
        return all(backend.known and backend.usable for backend in self.backends if backend.share)
