"""A request's way through the pure functions of routing, as the forwarder has it, without any network."""

import random

from registry.rules.routing import (
    Backend,
    Fields,
    HttpCall,
    RouteBook,
    RouteMatch,
    allow_origin,
    answer_preflight,
    change_headers,
    choose_backend,
    choose_mirrors,
    is_preflight,
    location,
    rewrite,
)
from tests.registry.rules.routing.cases import Case
from tests.registry.rules.routing.outcome import Outcome


def play(book: RouteBook, case: Case, rng: random.Random) -> Outcome:
    """Route one request."""
    service, port = case.called
    method, authority, target, fields = case.request
    answered = [(name.encode(), value.encode()) for name, value in case.answered.items()]
    table = book.table(service, port, case.caller_namespace)
    if table is None:
        return Outcome(200, f"{service}:{port}", "", authority, target, fields, answered)
    match = table.match(HttpCall.read(method, authority, target, fields))
    if match is None:
        return Outcome(404)
    rule = match.rule
    said = f"{rule.route} {rule.number}"
    if rule.cors is not None and is_preflight(method, fields):
        return Outcome(204, rule=said, answer=answer_preflight(rule.cors, fields))
    if rule.redirect is not None:
        place = location(match, rule.redirect, scheme=b"http", authority=authority, target=target)
        return Outcome(rule.redirect.status, rule=said, answer=[(b"location", place)])
    backend = choose_backend(rule, rng)
    if backend is None or not backend.known:
        return Outcome(500, rule=said)
    return _forward(match, backend, case, answered, rng)


def _forward(
    match: RouteMatch, backend: Backend, case: Case, answered: Fields, rng: random.Random
) -> Outcome:
    rule = match.rule
    _, authority, target, fields = case.request
    if (change := backend.rewrite or rule.rewrite) is not None:
        authority, target = rewrite(authority, target, match, change)
    answer = change_headers(answered, (*rule.response_headers, *backend.response_headers))
    return Outcome(
        200,
        f"{backend.service}:{backend.port}",
        f"{rule.route} {rule.number}",
        authority,
        target,
        change_headers(fields, (*rule.request_headers, *backend.request_headers)),
        answer if rule.cors is None else allow_origin(rule.cors, fields, answer),
        tuple(
            f"{each.service}:{each.port}" for each in choose_mirrors((*rule.mirrors, *backend.mirrors), rng)
        ),
    )
