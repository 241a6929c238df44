"""The decision log of a worker: what was decided since it was last taken, many of one sort as one entry.

Pure. Asked for every connection, so a decision of a sort already seen costs one look-up; the agent takes
what there is every second, keeps it for longer and tells the mesh.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from node_proxy.control import Decided
from registry.model.decision import MAX_IDS, Outcome, RecordedRequest
from registry.model.identity import Identity
from registry.rules import AuthRequest, HttpRequest
from registry.rules.paths import normalise

# Sorts of decisions between two takings, a second apart: some 500 bytes each. More of them in a second is an
# attack or a scan, and the newest are what its victim wants to see.
MAX_SORTS = 1024
# What stands for the port of a workload that does not exist: a caller that tries every port is one sort.
ANY_PORT = 0

# A longer host or path is cut: enough to know it by.
MAX_SHOWN = 256

# Who asked (identity, three addresses, server name), for what (workload, port), and the answer; whether that
# was about a connection over which requests come, or about one of these.
Sort = tuple[
    Identity | None, str | None, str | None, str | None, str | None, str, int, Outcome, str, str, bool, bool
]


@dataclass(slots=True)
class _Entry:
    """Decisions of one sort; `port` and `http` are the last asked for, times are of the worker's clock."""

    port: int
    first: float
    last: float
    count: int
    ids: deque[str]
    http: HttpRequest | None = None


class DecisionLog:
    """Decisions since the last `take`. Times are seconds of the clock that the caller reads."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Sort, _Entry] = OrderedDict()
        self.lost = 0

    def note(
        self,
        source: Identity | None,
        request: AuthRequest,
        *,
        destination: str,
        outcome: Outcome,
        reason: str,
        policy: str,
        decision: str,
        now: float,
    ) -> None:
        """Add a decision.

        Args:
            source: what the peer has proved to be: a node too, which the rules take for nobody. None has
                proved nothing.
            request: what was asked.
            destination: ``namespace/name`` of the workload, empty when there is none.
            outcome: the answer.
            reason: its code.
            policy: who gave it.
            decision: its id.
            now: when.
        """
        sort = (
            source,
            request.source_ip,
            request.remote_ip,
            request.destination_ip,
            request.sni,
            destination,
            request.port if destination else ANY_PORT,
            outcome,
            policy,
            reason,
            request.opening,
            request.http is not None,
        )
        entry = self._entries.get(sort)
        if entry is None:
            if len(self._entries) >= MAX_SORTS:
                self._entries.popitem(last=False)
                self.lost += 1
            keep = 1 if outcome is Outcome.PERMITTED else MAX_IDS
            entry = self._entries[sort] = _Entry(request.port, now, now, 0, deque(maxlen=keep))
        else:
            self._entries.move_to_end(sort)
        entry.port = request.port
        entry.http = request.http
        entry.last = now
        entry.count += 1
        entry.ids.append(decision)

    def take(self, now: float) -> tuple[Decided, ...]:
        """Give what was decided, the latest last, and begin anew."""
        taken, self._entries = self._entries, OrderedDict()
        return tuple(_decided(sort, entry, now) for sort, entry in taken.items())


def identity_text(identity: Identity | None) -> str:
    """Write who has called, as records, log lines and labels do; empty for nobody known."""
    return "" if identity is None else str(identity)


def _decided(sort: Sort, entry: _Entry, now: float) -> Decided:
    source, source_ip, remote_ip, destination_ip, sni, destination, _port, outcome, policy, reason = sort[:10]
    return Decided(
        outcome=outcome,
        reason=reason,
        policy=policy,
        source=identity_text(source),
        source_ip=source_ip or "",
        remote_ip=remote_ip or "",
        destination_ip=destination_ip or "",
        sni=sni or "",
        destination=destination,
        port=entry.port,
        count=entry.count,
        first_ago=now - entry.first,
        last_ago=now - entry.last,
        ids=tuple(entry.ids),
        request=None if entry.http is None else _recorded(entry.http),
        opening=sort[10],
    )


def _recorded(http: HttpRequest) -> RecordedRequest:
    """Give what is kept of a request. What is no text becomes one: it is shown to people."""

    def shown(text: str) -> str:
        return text[:MAX_SHOWN].encode("utf-8", "replace").decode()

    return RecordedRequest(method=shown(http.method), host=shown(http.host), path=shown(normalise(http.path)))
