"""Which endpoint takes a connection: how loaded each is, and which have failed lately."""

from collections import defaultdict
from collections.abc import Set as AbstractSet

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.ejection import Ejections
from node_proxy.dataplane.tables import Route
from node_proxy.snapshot import Endpoint
from registry.rules import pick


class Balancer:
    """The endpoints as this worker has found them."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._ejections = Ejections()
        self._loads: defaultdict[tuple[str, int], int] = defaultdict(int)

    def choose(self, route: Route, tried: AbstractSet[Endpoint]) -> Endpoint | None:
        """Pick an endpoint that was not tried: healthy, not ejected, the less loaded of two."""
        now = self._context.clock()
        return pick(
            route.endpoints,
            load=lambda endpoint: self._loads.get((endpoint.address, endpoint.port), 0),
            rng=self._context.rng,
            exclude=tried,
            ejected=lambda endpoint: self._ejections.ejected(endpoint, now),
        )

    def ejected(self, endpoint: Endpoint) -> bool:
        """Whether an endpoint is passed over now."""
        return self._ejections.ejected(endpoint, self._context.clock())

    def load(self, endpoint: Endpoint, change: int) -> None:
        """Count a connection to an endpoint, or its end."""
        key = (endpoint.address, endpoint.port)
        self._loads[key] += change
        if not self._loads[key]:
            del self._loads[key]

    @property
    def loaded(self) -> int:
        """How many connections are counted."""
        return sum(self._loads.values())

    def failed(self, endpoint: Endpoint, cause: str) -> None:
        """Eject an endpoint that could not be reached."""
        seconds = self._ejections.failed(endpoint, self._context.clock())
        self._context.telemetry.add(
            telemetry.ENDPOINT_EJECTIONS, node=endpoint.node, workload=endpoint.workload
        )
        self._context.log.warning(
            "endpoint ejected",
            node=endpoint.node,
            workload=endpoint.workload,
            address=endpoint.at,
            cause=cause,
            seconds=seconds,
        )

    def reached(self, endpoint: Endpoint) -> None:
        """Hold nothing against an endpoint that has accepted."""
        self._ejections.succeeded(endpoint)
