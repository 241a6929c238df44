"""Who may use the operators' part of the API: bearers of an administrator's token.

There is no throttle on failed attempts: a token has 256 random bits, so nothing is gained by trying, while
a lock-out by address would let one host behind a gateway shut out the operator behind the same one.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from hashlib import sha256

import structlog
from starlette.requests import Request
from starlette.responses import Response

from registry.errors import InvalidResource, Unauthenticated
from registry.model.administrator import Administrator, AdministratorSpec
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
from registry.store.base import Put, Store

_FOLDER = "administrators/"

_log = structlog.get_logger()

Handler = Callable[[Request], Awaitable[Response]]
# Takes the administrator's name, so that a handler cannot be mounted without the check.
AdministratorHandler = Callable[[Request, str], Awaitable[Response]]


def new_administrator(name: str) -> tuple[str, Put]:
    """Make an administrator's token, and the write that makes it known."""
    token = secrets.token_urlsafe(32)
    resource = Administrator(
        api_version=NODEMESH,
        kind=Administrator.KIND,
        metadata=Metadata(name=name, namespace=ROOT_NAMESPACE),
        spec=AdministratorSpec(token_sha256=_hash(token)),
    )
    return token, Put(keys.render(keys.AdministratorKey(name)), render(resource))


def bearer_token(request: Request) -> str:
    """Take the bearer token from a request's Authorization header.

    Raises:
        Unauthenticated: there is none.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("an `Authorization: Bearer` header is expected")
    return token.strip()


class Administrators:
    """Knows administrators by their tokens' hashes, read anew for each request: removal is immediate."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def only(self, handler: AdministratorHandler) -> Handler:
        """Give a handler that lets administrators through and refuses everybody else."""

        async def guarded(request: Request) -> Response:
            return await handler(request, await self.authenticate(request))

        return guarded

    async def authenticate(self, request: Request) -> str:
        """Give the name of the administrator who asks.

        Raises:
            Unauthenticated: no token, or none that is known.
        """
        shown = _hash(bearer_token(request)).encode()
        listing = await self._store.list(_FOLDER)
        name = None
        for item in listing.items:
            try:
                known = parse_as(Administrator, item.value, where=item.key).spec.token_sha256
            except InvalidResource as error:
                # One damaged entry must not shut all the others out.
                _log.error("administrator unreadable", reason=error.describe())
                continue
            if hmac.compare_digest(shown, known.encode()):
                name = item.key.removeprefix(_FOLDER)
        if name is None:
            raise Unauthenticated("this token is no administrator's")
        return name


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()
