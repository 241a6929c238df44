"""What of a request its endpoint goes by: the key of a hash, and the token of a sticky session. Pure.

A session's cookie carries a token that stands for one endpoint. Nothing is kept here for it, and what a
caller makes up leads to no endpoint that it could not have got anyway.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from registry.model.backend_policy import BalancingPolicy, HashKey, KeyType, LoadBalancing
from registry.model.duration import seconds

Fields = Sequence[tuple[bytes, bytes]]
# Tells endpoints apart, and says no address to those who read the cookie.
_TOKEN_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Keys:
    """`hashed` is what the ring is asked for; `sticky` what came in the session's cookie; None for absent."""

    hashed: bytes | None = None
    sticky: bytes | None = None


NO_KEYS: Final = Keys()


def find_keys(balancing: LoadBalancing, fields: Fields, source: bytes) -> Keys:
    """Find the keys of a request.

    Args:
        balancing: the policy of the service.
        fields: the request's, names in lower case.
        source: the caller: its address, or else its identity.
    """
    session = balancing.sticky_session
    if session is None and balancing.hash_on is None:
        return NO_KEYS
    if session is not None:
        found = _find(session.key, fields, source)
        if keeps_by_cookie(balancing):
            hashed = _find(balancing.hash_on, fields, source) if balancing.hash_on is not None else None
            return Keys(hashed, found)
        if found is not None:
            return Keys(found)
    return Keys(_find(balancing.hash_on, fields, source)) if balancing.hash_on is not None else NO_KEYS


def goes_by_hash(balancing: LoadBalancing) -> bool:
    """Whether a hash says which endpoint a request goes to."""
    return balancing.policy is BalancingPolicy.RING_HASH or (
        balancing.sticky_session is not None and not keeps_by_cookie(balancing)
    )


def keeps_by_cookie(balancing: LoadBalancing) -> bool:
    """Whether a cookie of ours keeps callers with their endpoints."""
    session = balancing.sticky_session
    return session is not None and session.key.type is KeyType.COOKIE


@lru_cache(maxsize=4096)
def token_of(at: str) -> bytes:
    """Give the token of the endpoint at ``address:port``."""
    return blake2b(at.encode(), digest_size=_TOKEN_BYTES, person=b"nodemesh-sticky").hexdigest().encode()


def session_cookie(balancing: LoadBalancing, at: str, keys: Keys) -> bytes | None:
    """Give the value of the ``set-cookie`` field that keeps a caller with an endpoint; None if none is due.

    Args:
        balancing: the policy of the service.
        at: the endpoint that has answered, ``address:port``.
        keys: what the request came with.
    """
    session = balancing.sticky_session
    if session is None or not keeps_by_cookie(balancing) or session.key.name is None:
        return None
    token = token_of(at)
    if keys.sticky == token:
        return None
    # Not for scripts, and not for other sites' requests: nobody but the browser has use for it.
    life = b"" if session.ttl is None else b"; Max-Age=%d" % max(1, round(seconds(session.ttl)))
    return b"%s=%s; Path=/%s; HttpOnly; SameSite=Lax" % (session.key.name.encode(), token, life)


def _find(key: HashKey, fields: Fields, source: bytes) -> bytes | None:
    match key.type:
        case KeyType.SOURCE:
            return source or None
        case KeyType.HEADER:
            wanted = (key.name or "").lower().encode()
            return b",".join(_values(fields, wanted)) or None
        case KeyType.COOKIE:
            return _cookie(_values(fields, b"cookie"), (key.name or "").encode())


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for each, value in fields if each == name]


def _cookie(values: Iterable[bytes], name: bytes) -> bytes | None:
    """Find a cookie (RFC 6265 section 4.2); the first of its name counts."""
    for value in values:
        for pair in value.split(b";"):
            each, _, content = pair.partition(b"=")
            if each.strip() == name:
                return content.strip().strip(b'"') or None
    return None
