"""What would change for the calls that nodes recorded, if other resources were stored. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from registry.api.authz_answers import ChangeAnswer, DiffAnswer, ask, outcome_of, side
from registry.api.authz_view import MeshView, Recorded, recorded_request
from registry.errors import InvalidResource
from registry.rules import AuthRequest, Decision


@dataclass(slots=True)
class _Call:
    """One sort of call, however it was answered: how often, and when last."""

    node: str
    destination: str
    request: AuthRequest
    source: str
    count: int = 0
    last_seen: str = ""


def compare(stored: MeshView, changed: MeshView, *, revision: int) -> DiffAnswer:
    """Ask the rules before and after about every recorded call.

    The answer before is that of what is stored now, not the recorded one: an edit made meanwhile is not the
    candidates' doing.
    """
    calls, unreadable = _calls(stored)
    changes = []
    skipped = unreadable
    for call in calls:
        before = _decide(stored, call)
        after = _decide(changed, call)
        if before is None or after is None:
            skipped += 1
        elif outcome_of(before) is not outcome_of(after):
            changes.append(_change(call, before, after))
    changes.sort(key=lambda each: (each.after.outcome, -each.count, each.destination, each.source, each.node))
    return DiffAnswer(
        revision=revision,
        replayed=len(calls) + unreadable - skipped,
        skipped=skipped,
        changes=tuple(changes),
    )


def _calls(view: MeshView) -> tuple[list[_Call], int]:
    """Give the calls that reached a workload, each once, and how many cannot be read."""
    calls: dict[tuple[str, str, AuthRequest], _Call] = {}
    unreadable = 0
    for recorded in _answered_by_policies(view):
        record = recorded.record
        try:
            request = recorded_request(record)
        except InvalidResource:
            unreadable += 1
            continue
        key = (recorded.node, record.destination, request)
        call = calls.setdefault(key, _Call(recorded.node, record.destination, request, record.source))
        call.count += record.count
        call.last_seen = max(call.last_seen, record.last_seen)
    return list(calls.values()), unreadable


def _answered_by_policies(view: MeshView) -> Iterator[Recorded]:
    return (recorded for recorded in view.decisions() if recorded.record.destination)


def _decide(view: MeshView, call: _Call) -> Decision | None:
    target = view.target(call.node, call.destination, call.request.port)
    return None if target is None else ask(view, target, call.request)[0].decision


def _change(call: _Call, before: Decision, after: Decision) -> ChangeAnswer:
    return ChangeAnswer(
        node=call.node,
        source=call.source,
        source_ip=call.request.source_ip or "",
        destination=call.destination,
        port=call.request.port,
        count=call.count,
        last_seen=call.last_seen,
        before=side(before),
        after=side(after),
    )
