"""Where a request leads: what the routes say of it, done to its head. Nothing is sent here."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from node_proxy.dataplane.caller import Caller
from node_proxy.dataplane.http.message import Fields, RequestHead
from node_proxy.dataplane.http.targets import Target, Targets
from node_proxy.dataplane.reason import INVALID_BACKEND, NO_ROUTE, Reason
from node_proxy.dataplane.tables import Route, Tables
from registry.model.identity import WorkloadIdentity
from registry.rules.paths import forwardable
from registry.rules.routing import (
    Backend,
    Cors,
    HeaderChange,
    HttpCall,
    RouteMatch,
    RoutingRule,
    allow_origin,
    answer_preflight,
    change_headers,
    choose_backend,
    choose_mirrors,
    is_preflight,
    location,
    rewrite,
)

# What frames a message, or belongs to one connection, is no operator's to change either: it is made anew from
# what the message is. The host is changed by a rewrite.
_FRAMING: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Bytes of a target whose spelling is remembered: a thousand of these are no memory to speak of.
MAX_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """An answer that no endpoint is asked for; a redirect, which refuses nothing, has no `reason`."""

    status: int
    reason: Reason | None = None
    fields: tuple[tuple[bytes, bytes], ...] = ()
    detail: str = ""
    grpc_status: int | None = None
    route: str = ""


# Not frozen: there is one for each request, and that would be most of what it costs.
@dataclass(slots=True)
class Led:
    """A request that leads to `target`, as `head` says it there; `rule` led it, None if none is attached.

    `mirrors` get copies. `changes` and `cors` are for the answer.
    """

    target: Target
    head: RequestHead
    rule: RoutingRule | None = None
    mirrors: tuple[Backend, ...] = ()
    changes: tuple[HeaderChange, ...] = ()
    cors: Cors | None = None

    @property
    def route(self) -> str:
        """``namespace/name`` of the route; empty if none is attached."""
        return self.rule.route if self.rule is not None else ""

    def answer_fields(self, request: Fields, answer: Fields) -> Fields:
        """Give the header of an endpoint's answer as the caller gets it."""
        if self.changes:
            answer = _change(answer, self.changes)
        return allow_origin(self.cors, request, answer) if self.cors is not None else answer


def call_of(request: RequestHead) -> HttpCall:
    """Give a request as routes see it."""
    return HttpCall.read(request.method, request.authority, request.target, request.fields)


def lead(
    tables: Tables,
    targets: Targets,
    rng: random.Random,
    *,
    called: Route,
    caller: Caller,
    request: RequestHead,
) -> Led | LocalAnswer:
    """Say where a request to the port `called` leads.

    Args:
        tables: those in force.
        targets: made of them.
        rng: draws by weight.
        called: the service port.
        caller: who calls.
        request: what it is; it is not changed.
    """
    namespace = caller.identity.namespace if isinstance(caller.identity, WorkloadIdentity) else None
    table = tables.requests(called, namespace)
    if table is None:
        target = targets.find(tables, called.service, called.port)
        if target is None:
            # Withdrawn since the connection was made.
            return LocalAnswer(404, Reason(NO_ROUTE))
        return Led(target, _to_send(request, request.authority, request.target, request.fields))
    match = table.match(call_of(request))
    if match is None:
        return LocalAnswer(404, Reason(NO_ROUTE))
    return _by_rule(tables, targets, rng, match, request)


def _by_rule(
    tables: Tables, targets: Targets, rng: random.Random, match: RouteMatch, request: RequestHead
) -> Led | LocalAnswer:
    rule = match.rule
    if answer := _answered_by(match, request):
        return answer
    backend = choose_backend(rule, rng)
    target = targets.find(tables, backend.service, backend.port) if backend is not None else None
    if backend is None or target is None:
        return LocalAnswer(500, Reason(INVALID_BACKEND), route=rule.route)
    authority, path, fields = request.authority, request.target, request.fields
    if changes := rule.request_headers + backend.request_headers:
        fields = _change(fields, changes)
    if change := backend.rewrite or rule.rewrite:
        authority, path = rewrite(authority, path, match, change)
    mirrors = rule.mirrors + backend.mirrors
    return Led(
        target,
        _to_send(request, authority, path, fields),
        rule,
        choose_mirrors(mirrors, rng) if mirrors else (),
        rule.response_headers + backend.response_headers,
        rule.cors,
    )


def _answered_by(match: RouteMatch, request: RequestHead) -> LocalAnswer | None:
    """Give the answer that a rule is, if it is one: to a preflight request, or where to go instead."""
    cors, redirect, route = match.rule.cors, match.rule.redirect, match.rule.route
    if cors is not None and is_preflight(request.method, request.fields):
        return LocalAnswer(204, fields=tuple(answer_preflight(cors, request.fields)), route=route)
    if redirect is None:
        return None
    where = location(
        match, redirect, scheme=request.scheme, authority=request.authority, target=request.target
    )
    return LocalAnswer(redirect.status, fields=((b"location", where),), route=route)


def _change(fields: Fields, changes: tuple[HeaderChange, ...]) -> Fields:
    return [each for each in change_headers(fields, changes) if each[0] not in _FRAMING]


def _to_send(request: RequestHead, authority: bytes, target: bytes, fields: Fields) -> RequestHead:
    """Give the head of what is sent: the path in its one spelling, all else as the values say."""
    target = _forwardable(target) if len(target) <= MAX_REMEMBERED else _forwardable.__wrapped__(target)
    return request.changed(target=target, authority=authority, fields=fields)


# Few paths are asked for again and again; a query makes most others what they are.
@lru_cache(maxsize=1024)
def _forwardable(target: bytes) -> bytes:
    return forwardable(target.decode("latin-1")).encode("ascii")
