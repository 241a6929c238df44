"""Redirects: where a caller is told to go instead. Pure."""

from typing import Final

from registry.rules.paths import forwardable
from registry.rules.routing.call import hostname_of
from registry.rules.routing.filters import change_path
from registry.rules.routing.values import Redirect, RouteMatch

_PORTS: Final = {"http": 80, "https": 443}


def location(
    match: RouteMatch, redirect: Redirect, *, scheme: bytes, authority: bytes, target: bytes
) -> bytes:
    """Give the value of ``location`` for a request; the status is `redirect.status`.

    The port is Gateway API's: the one that is given, or else that of the scheme that is given, or else the
    one that was called; not written where it is the scheme's own. The query stays as it is.

    Args:
        match: what the request matched.
        redirect: of the rule.
        scheme: of the request.
        authority: of the request, perhaps with a port; empty if it has none.
        target: path and query of the request.
    """
    if redirect.path is not None:
        target = change_path(target, match.prefix, redirect.path)
    else:
        target = forwardable(target.decode("latin-1")).encode("latin-1")
    if target == b"*":
        target = b"/"
    host = redirect.hostname or hostname_of(authority.decode("latin-1"))
    if not host:
        # HTTP/1.0 has requests without a host: where they were sent is all that is known.
        return target
    chosen = redirect.scheme or scheme.decode("latin-1")
    port = redirect.port
    if port is None:
        port = _PORTS[chosen] if redirect.scheme is not None else redirect.listener
    shown = "" if port == _PORTS.get(chosen) else f":{port}"
    return f"{chosen}://{host}{shown}".encode("latin-1") + target
