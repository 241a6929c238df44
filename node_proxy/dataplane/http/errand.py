"""What one request needs on its way, and what there is when nobody answers it."""

import math
from dataclasses import dataclass

from node_proxy.dataplane.balancer import Balancer
from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.http.exchange import ServerExchange
from node_proxy.dataplane.http.kept_body import KeptBody
from node_proxy.dataplane.http.message import RequestHead
from node_proxy.dataplane.http.targets import Plan, Target
from node_proxy.dataplane.http.timers import Timers
from node_proxy.dataplane.http.upstream_key import KeyRing
from node_proxy.dataplane.http.upstreams import Upstreams
from node_proxy.dataplane.reason import Reason
from registry.rules.balancing.keys import NO_KEYS, Keys
from registry.rules.balancing.retrying import Tried


@dataclass(frozen=True, slots=True)
class Means:
    """What all requests of a worker use."""

    context: WorkerContext
    balancer: Balancer
    upstreams: Upstreams
    timers: Timers


@dataclass(slots=True)
class Errand:
    """One request as it is to be sent, and what holds for it.

    `deadline` is of the worker's clock, infinity for none, and the caller's own word if `impatient`. `keys`
    are what its endpoint goes by. A copy has no `exchange`: nobody hears its answer.
    """

    exchange: ServerExchange | None
    head: RequestHead
    target: Target
    plan: Plan
    route: str
    caller: Caller
    reach: KeyRing
    body: KeptBody
    deadline: float = math.inf
    impatient: bool = False
    keys: Keys = NO_KEYS
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why a try, or all of them, gave none; `status` and `reason` are what the caller hears then.

    `again`: the very endpoint may well do better next time. `callers`: the caller's own request broke.
    """

    status: int
    reason: Reason
    detail: str
    tried: Tried
    again: bool = False
    callers: bool = False
