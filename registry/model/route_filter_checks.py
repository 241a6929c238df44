"""What the filters of a route may still get wrong by themselves. Pure."""

import enum
import re
from collections.abc import Iterator, Sequence
from typing import Final

from registry.model.fields import show
from registry.model.gateway_checks import mirror_problems, modifier_problems
from registry.model.grpc_route import GRPCFilterType, GRPCRouteFilter
from registry.model.http_match_checks import path_problems
from registry.model.http_route import (
    Cors,
    FilterType,
    HTTPRouteFilter,
    PathModifier,
    PathModifierType,
    RequestRedirect,
    UrlRewrite,
)
from registry.model.problem import Problem, repeated_problems

# The field that belongs to each type, as people write it.
_FIELDS: Final = {
    FilterType.REQUEST_HEADER_MODIFIER: "requestHeaderModifier",
    FilterType.RESPONSE_HEADER_MODIFIER: "responseHeaderModifier",
    FilterType.REQUEST_MIRROR: "requestMirror",
    FilterType.REQUEST_REDIRECT: "requestRedirect",
    FilterType.URL_REWRITE: "urlRewrite",
    FilterType.CORS: "cors",
}
_GRPC_FIELDS: Final = {
    GRPCFilterType.REQUEST_HEADER_MODIFIER: "requestHeaderModifier",
    GRPCFilterType.RESPONSE_HEADER_MODIFIER: "responseHeaderModifier",
    GRPCFilterType.REQUEST_MIRROR: "requestMirror",
}
# RFC 9110 section 15.4: what leads elsewhere. 300, 304 and 305 are something else.
_REDIRECTS: Final = (301, 302, 303, 307, 308)
# RFC 9110 section 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# RFC 6454 section 6.2, with Gateway API's * for the first labels of the host.
_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:[0-9]{1,5})?\Z",
    re.IGNORECASE,
)
# As many as Gateway API lets be listed.
_MAX_LISTED: Final = 64


class FilterPlace(enum.Enum):
    """Where filters stand: at a rule, or at one backend, whose requests they change."""

    RULE = "rule"
    BACKEND = "backend"


def http_filter_problems(
    filters: Sequence[HTTPRouteFilter], path: str, namespace: str, place: FilterPlace
) -> Iterator[Problem]:
    """Find what is wrong with the filters of an HTTPRoute."""
    # Copies may go to several places; of all else the second would undo the first.
    kinds = [each.type.value for each in filters if each.type is not FilterType.REQUEST_MIRROR]
    yield from _repeated_types([each.type.value for each in filters], kinds, path)
    types = {each.type for each in filters}
    if {FilterType.REQUEST_REDIRECT, FilterType.URL_REWRITE} <= types:
        yield Problem(path, "hold a redirect and a rewrite, of which only one can be", "keep one of them")
    for i, each in enumerate(filters):
        at = f"{path}[{i}]"
        if place is FilterPlace.BACKEND and each.type in (FilterType.REQUEST_REDIRECT, FilterType.CORS):
            yield Problem(
                f"{at}.type", f"{each.type.value} is not for one backend", "write it under the rule's filters"
            )
        yield from _fields_of_type(each, each.type.value, _FIELDS[each.type], tuple(_FIELDS.values()), at)
        for name, modifier in (
            ("requestHeaderModifier", each.request_header_modifier),
            ("responseHeaderModifier", each.response_header_modifier),
        ):
            if modifier is not None:
                yield from modifier_problems(modifier, f"{at}.{name}")
        if each.request_mirror is not None:
            yield from mirror_problems(each.request_mirror, f"{at}.requestMirror", namespace)
        if each.request_redirect is not None:
            yield from _redirect(each.request_redirect, f"{at}.requestRedirect")
        if each.url_rewrite is not None:
            yield from _rewrite(each.url_rewrite, f"{at}.urlRewrite")
        if each.cors is not None:
            yield from _cors(each.cors, f"{at}.cors")


def grpc_filter_problems(filters: Sequence[GRPCRouteFilter], path: str, namespace: str) -> Iterator[Problem]:
    """Find what is wrong with the filters of a GRPCRoute."""
    kinds = [each.type.value for each in filters if each.type is not GRPCFilterType.REQUEST_MIRROR]
    yield from _repeated_types([each.type.value for each in filters], kinds, path)
    for i, each in enumerate(filters):
        at = f"{path}[{i}]"
        fields = tuple(_GRPC_FIELDS.values())
        yield from _fields_of_type(each, each.type.value, _GRPC_FIELDS[each.type], fields, at)
        for name, modifier in (
            ("requestHeaderModifier", each.request_header_modifier),
            ("responseHeaderModifier", each.response_header_modifier),
        ):
            if modifier is not None:
                yield from modifier_problems(modifier, f"{at}.{name}")
        if each.request_mirror is not None:
            yield from mirror_problems(each.request_mirror, f"{at}.requestMirror", namespace)


def changes_prefix(each: HTTPRouteFilter) -> bool:
    """Whether a filter replaces the prefix that matched."""
    changes = (
        each.request_redirect.path if each.request_redirect is not None else None,
        each.url_rewrite.path if each.url_rewrite is not None else None,
    )
    return any(
        change is not None and change.type is PathModifierType.REPLACE_PREFIX_MATCH for change in changes
    )


def _repeated_types(all_types: Sequence[str], single: Sequence[str], path: str) -> Iterator[Problem]:
    for kind in dict.fromkeys(single):
        places = [i for i, each in enumerate(all_types) if each == kind]
        if len(places) > 1:
            yield Problem(
                f"{path}[{places[1]}].type",
                f"{kind} is already there in {path}[{places[0]}]",
                "write both as one",
            )


def _fields_of_type(
    each: HTTPRouteFilter | GRPCRouteFilter, kind: str, wanted: str, fields: Sequence[str], path: str
) -> Iterator[Problem]:
    for name in fields:
        given = getattr(each, _attribute(name)) is not None
        if name == wanted and not given:
            yield Problem(f"{path}.{name}", f"is missing, and type is {kind}", f"write {name}")
        elif name != wanted and given:
            yield Problem(f"{path}.{name}", f"stands beside type {kind}", "write one filter for each of them")


def _attribute(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def _redirect(redirect: RequestRedirect, path: str) -> Iterator[Problem]:
    if redirect.status_code not in _REDIRECTS:
        yield Problem(
            f"{path}.statusCode",
            f"{redirect.status_code} leads nowhere",
            f"write one of {', '.join(map(str, _REDIRECTS))}",
        )
    if redirect.path is not None:
        yield from _path_modifier(redirect.path, f"{path}.path")
    if (redirect.scheme, redirect.hostname, redirect.path, redirect.port) == (None, None, None, None):
        yield Problem(
            path,
            "changes nothing, so that callers would go in circles",
            "write scheme, hostname, path or port",
        )


def _rewrite(rewrite: UrlRewrite, path: str) -> Iterator[Problem]:
    if rewrite == UrlRewrite():
        yield Problem(path, "changes nothing", "write hostname or path")
    if rewrite.path is not None:
        yield from _path_modifier(rewrite.path, f"{path}.path")


def _path_modifier(modifier: PathModifier, path: str) -> Iterator[Problem]:
    given = {
        "replaceFullPath": modifier.replace_full_path,
        "replacePrefixMatch": modifier.replace_prefix_match,
    }
    full = modifier.type is PathModifierType.REPLACE_FULL_PATH
    wanted = "replaceFullPath" if full else "replacePrefixMatch"
    for name, value in given.items():
        if name == wanted and value is None:
            yield Problem(f"{path}.{name}", f"is missing, and type is {modifier.type.value}", f"write {name}")
        elif name != wanted and value is not None:
            yield Problem(f"{path}.{name}", f"stands beside type {modifier.type.value}", "keep one of them")
        elif value:
            yield from path_problems(value, f"{path}.{name}")
    if full and modifier.replace_full_path == "":
        yield Problem(f"{path}.replaceFullPath", "is empty", "write /, or another path")


def _cors(cors: Cors, path: str) -> Iterator[Problem]:
    if not cors.allow_origins:
        yield Problem(f"{path}.allowOrigins", "is empty, so that no origin is allowed", "write at least one")
    for i, origin in enumerate(cors.allow_origins):
        if origin != "*" and not _ORIGIN.match(origin):
            yield Problem(
                f"{path}.allowOrigins[{i}]",
                f"{show(origin)} is no origin",
                "write one as in https://app.example.com, https://*.example.com, or *",
            )
    lists = (
        ("allowOrigins", cors.allow_origins),
        ("allowMethods", cors.allow_methods),
        ("allowHeaders", cors.allow_headers),
        ("exposeHeaders", cors.expose_headers),
    )
    for name, values in lists:
        if len(values) > _MAX_LISTED:
            yield Problem(f"{path}.{name}", f"holds {len(values)}, more than {_MAX_LISTED}")
        if "*" in values and len(values) > 1:
            yield Problem(f"{path}.{name}", "holds * beside others, which it stands for", "write * alone")
        yield from repeated_problems([value.lower() for value in values], f"{path}.{name}", "")
        for i, value in enumerate(values):
            if name != "allowOrigins" and not _TOKEN.match(value):
                yield Problem(f"{path}.{name}[{i}]", f"{show(value)} is no name", "write letters and dashes")
