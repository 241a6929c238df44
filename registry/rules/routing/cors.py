"""CORS: which preflight requests are answered, and what browsers are told. Pure.

The rule alone decides: what a workload says of CORS itself is taken out of its answers.
Source: the Fetch standard, section "CORS protocol"; GEP-1767.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from registry.model.http_route import Cors as CorsFilter
from registry.rules.routing.call import Fields
from registry.rules.routing.values import Cors, Origin

_ORIGIN: Final = b"origin"
_ASKED_METHOD: Final = b"access-control-request-method"
_ASKED_HEADERS: Final = b"access-control-request-headers"
_FAMILY: Final = b"access-control-"
_CREDENTIALS: Final = frozenset({b"cookie", b"authorization"})
_PORTS: Final = {"http": 80, "https": 443}
# Told to scripts without being exposed, or never.
_NOT_EXPOSED: Final = frozenset({b"set-cookie", b"vary"})


def compile_cors(said: CorsFilter) -> Cors:
    """Make a filter ready."""
    exact: list[Origin] = []
    suffixes: list[Origin] = []
    for text in said.allow_origins:
        origin = _read_origin(text)
        if origin is None:
            continue
        if origin.host.startswith("*"):
            suffixes.append(Origin(origin.scheme, origin.host[1:], origin.port))
        else:
            exact.append(origin)
    return Cors(
        any_origin="*" in said.allow_origins,
        origins=frozenset(exact),
        suffixes=tuple(suffixes),
        credentials=said.allow_credentials,
        methods=said.allow_methods,
        headers=said.allow_headers,
        exposed=said.expose_headers,
        max_age=said.max_age,
    )


def is_preflight(method: bytes, fields: Fields) -> bool:
    """Whether a request asks only whether another may be made."""
    return (
        method == b"OPTIONS"
        and _first(fields, _ORIGIN) is not None
        and _first(fields, _ASKED_METHOD) is not None
    )


def answer_preflight(cors: Cors, fields: Fields) -> Fields:
    """Give the header of the answer, 204 without a body; without permission when the origin has none."""
    answer = list(_permission(cors, fields))
    if not answer:
        return _varying(cors)
    if cors.methods:
        answer.append((b"access-control-allow-methods", _listed(cors.methods, _first(fields, _ASKED_METHOD))))
    if cors.headers:
        asked = _first(fields, _ASKED_HEADERS)
        if asked is not None or "*" not in cors.headers:
            answer.append((b"access-control-allow-headers", _listed(cors.headers, asked)))
    answer.append((b"access-control-max-age", b"%d" % cors.max_age))
    return [*answer, *_varying(cors)]


def allow_origin(cors: Cors, request: Fields, answer: Fields) -> Fields:
    """Give the header of an answer with what `cors` says of the request's origin, instead of what it said."""
    kept = [field for field in answer if not field[0].startswith(_FAMILY)]
    permission = list(_permission(cors, request))
    if permission and cors.exposed:
        exposed = ", ".join(cors.exposed).encode("latin-1")
        if "*" in cors.exposed and _has_credentials(request):
            names = dict.fromkeys(name for name, _ in kept if name not in _NOT_EXPOSED)
            exposed = b", ".join(names)
        if exposed:
            permission.append((b"access-control-expose-headers", exposed))
    return [*kept, *permission, *_varying(cors)]


def _permission(cors: Cors, request: Fields) -> Iterator[tuple[bytes, bytes]]:
    """Give the fields that let the origin in; nothing if it has no permission."""
    origin = _first(request, _ORIGIN)
    if origin is None or not _is_allowed(cors, origin):
        return
    if not cors.credentials:
        if not _has_credentials(request):
            yield b"access-control-allow-origin", b"*" if cors.any_origin else origin
    elif origin != b"null":
        # Anybody can make a page whose origin is "null": with credentials it would be everybody's.
        yield b"access-control-allow-origin", origin
        yield b"access-control-allow-credentials", b"true"


def _is_allowed(cors: Cors, text: bytes) -> bool:
    if cors.any_origin:
        return True
    origin = _read_origin(text.decode("latin-1"))
    if origin is None:
        return False
    return origin in cors.origins or any(
        (each.scheme, each.port) == (origin.scheme, origin.port)
        and origin.host.endswith(each.host)
        and len(origin.host) > len(each.host)
        for each in cors.suffixes
    )


def _read_origin(text: str) -> Origin | None:
    """Read an origin, the port of its scheme filled in; None if it is none."""
    scheme, mark, rest = text.partition("://")
    if not mark or any(character in rest for character in "/?#@\\ "):
        return None
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        return None
    scheme = scheme.lower()
    if not parts.hostname or scheme not in _PORTS:
        return None
    return Origin(scheme, parts.hostname, port or _PORTS[scheme])


def _listed(names: tuple[str, ...], asked: bytes | None) -> bytes:
    if "*" in names:
        # The wildcard itself means nothing to older browsers, nor where there are credentials.
        return asked or b"*"
    return ", ".join(names).encode("latin-1")


def _has_credentials(request: Fields) -> bool:
    return any(name in _CREDENTIALS for name, _ in request)


def _varying(cors: Cors) -> Fields:
    """Tell caches that the answer is not the same for all origins."""
    return [] if cors.any_origin and not cors.credentials else [(b"vary", b"origin")]


def _first(fields: Fields, name: bytes) -> bytes | None:
    for each, value in fields:
        if each == name:
            return value
    return None
