"""Which backend a request goes to, and changed how: Gateway API's rules as pure functions."""

from registry.rules.routing.attachment import attaches, may_attach, parent_of
from registry.rules.routing.backends import choose_backend, choose_mirrors, choose_weighted
from registry.rules.routing.book import RouteBook
from registry.rules.routing.call import Field, Fields, HttpCall
from registry.rules.routing.cors import allow_origin, answer_preflight, is_preflight
from registry.rules.routing.explain import MatchVerdict, RouteExplanation, RouteMiss, explain_route
from registry.rules.routing.filters import change_headers, change_path, rewrite
from registry.rules.routing.lint import lint_routes
from registry.rules.routing.matching import compile_matches
from registry.rules.routing.redirect import location
from registry.rules.routing.table import RouteTable
from registry.rules.routing.values import (
    NO_LIMIT,
    Backend,
    Cors,
    HeaderChange,
    Mirror,
    PathChange,
    Redirect,
    Rewrite,
    RouteMatch,
    RouteRetry,
    RouteTimeouts,
    RoutingRule,
)

__all__ = [
    "NO_LIMIT",
    "Backend",
    "Cors",
    "Field",
    "Fields",
    "HeaderChange",
    "HttpCall",
    "MatchVerdict",
    "Mirror",
    "PathChange",
    "Redirect",
    "Rewrite",
    "RouteBook",
    "RouteExplanation",
    "RouteMatch",
    "RouteMiss",
    "RouteRetry",
    "RouteTable",
    "RouteTimeouts",
    "RoutingRule",
    "allow_origin",
    "answer_preflight",
    "attaches",
    "change_headers",
    "change_path",
    "choose_backend",
    "choose_mirrors",
    "choose_weighted",
    "compile_matches",
    "explain_route",
    "is_preflight",
    "lint_routes",
    "location",
    "may_attach",
    "parent_of",
    "rewrite",
]
