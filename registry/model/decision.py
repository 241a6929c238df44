"""NodeDecisions: what a node's proxy decided lately, many decisions of one sort as one entry."""

import enum
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from registry.model.resource import Resource, Strict

# Some 400 bytes each: a node's value stays near 100 KiB, a fifteenth of what etcd takes.
MAX_DECISIONS: Final = 256
# Enough to find the latest refusals of a caller that tries again and again by what its log says.
MAX_IDS: Final = 8

Count = Annotated[int, Meta(ge=1)]
Ids = Annotated[tuple[str, ...], Meta(max_length=MAX_IDS)]


class Outcome(enum.Enum):
    """What was decided."""

    PERMITTED = "permitted"
    DENIED = "denied"

    # That of an Enum is a function in Python, and what is decided is counted by it for each request.
    __hash__ = object.__hash__


class RecordedRequest(Strict, frozen=True, kw_only=True):
    """A request that was decided upon, cut to some length; its query and its header may hold secrets."""

    method: str
    host: str
    path: str


class DecisionRecord(Strict, frozen=True, kw_only=True):
    """Decisions that differ in nothing but their time, and those of requests in what the last one asked for.

    `reason` is the code that `nodemesh-reason` carries, ``permitted`` for a permit. `policy` is
    ``namespace/name``, empty when the mesh's defaults decided. `source` is the identity the peer proved,
    `source_ip` where its connection came from, `remote_ip` the original caller's address. `destination` is
    ``namespace/name`` of the workload, empty when none has the port. Times are RFC 3339 in UTC. `ids` are the
    latest, oldest first; of permits the last one is kept. `request` is the last one; `opening`: they were
    about connections over which requests come that are decided upon one by one.
    """

    outcome: Outcome
    reason: str
    source: str
    port: int
    count: Count
    first_seen: str
    last_seen: str
    policy: str = ""
    source_ip: str = ""
    remote_ip: str = ""
    destination_ip: str = ""
    sni: str = ""
    destination: str = ""
    ids: Ids = ()
    request: RecordedRequest | None = None
    opening: bool = False


class NodeDecisionsSpec(Strict, frozen=True, kw_only=True):
    """The newest first."""

    decisions: Annotated[tuple[DecisionRecord, ...], Meta(max_length=MAX_DECISIONS)] = ()


class NodeDecisions(Resource, frozen=True, kw_only=True):
    """What a node decided lately; written by the node, under its lease."""

    KIND: ClassVar[str] = "NodeDecisions"
    PLURAL: ClassVar[str] = "nodedecisions"

    spec: NodeDecisionsSpec
