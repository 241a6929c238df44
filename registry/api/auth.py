"""Who may use the operators' part of the API: bearers of an administrator's token, each within its role.

There is no throttle on failed attempts: a token has 256 random bits, so nothing is gained by trying, while
a lock-out by address would let one host behind a gateway shut out the operator behind the same one.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import structlog
from starlette.requests import Request
from starlette.responses import Response

from registry.ca.signed_store import SignedStore
from registry.clock import format_time
from registry.errors import Forbidden, InvalidResource, Unauthenticated
from registry.model.administrator import Administrator, AdministratorSpec, Role
from registry.model.parse import render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
from registry.store.base import KeyIs, KeyValue, Put

FOLDER = "administrators/"
# What never changes anything (RFC 9110 section 9.2.1); all else is an admin's unless a route says otherwise.
_READING = frozenset({"GET", "HEAD"})

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """The administrator who asks. `unchanged` is the condition that it is one still."""

    name: str
    role: Role
    unchanged: KeyIs


Handler = Callable[[Request], Awaitable[Response]]
# They take the administrator, so that a handler cannot be mounted without the check.
AdministratorHandler = Callable[[Request, str], Awaitable[Response]]
CallerHandler = Callable[[Request, Caller], Awaitable[Response]]


def new_administrator(name: str, *, now: datetime, role: Role = Role.ADMIN) -> tuple[str, Put]:
    """Make an administrator's token, and the write that makes it known once the authority has signed it."""
    token = secrets.token_urlsafe(32)
    resource = Administrator(
        api_version=NODEMESH,
        kind=Administrator.KIND,
        metadata=Metadata(name=name, namespace=ROOT_NAMESPACE),
        spec=AdministratorSpec(token_sha256=_hash(token), role=role, created_at=format_time(now)),
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
    """Knows administrators by their tokens' hashes, read anew for each request: removal is immediate.

    Only those that the authority has signed count: nobody becomes one by writing to etcd.
    """

    def __init__(self, signed: SignedStore) -> None:
        self._signed = signed

    def only(self, handler: AdministratorHandler, *, reads: bool = False) -> Handler:
        """Give a handler that lets administrators through, as `guard` does, and is told their names."""

        async def named(request: Request, caller: Caller) -> Response:
            return await handler(request, caller.name)

        return self.guard(named, reads=reads)

    def guard(self, handler: CallerHandler, *, reads: bool = False, admin: bool = False) -> Handler:
        """Give a handler that lets administrators through and refuses everybody else.

        A viewer gets through with GET and HEAD alone: nothing is theirs because somebody forgot a word.

        Args:
            handler: what is guarded.
            reads: it changes nothing, whatever the method: also a viewer's.
            admin: an admin's alone, whatever the method.
        """

        async def guarded(request: Request) -> Response:
            caller = await self.authenticate(request)
            viewers = not admin and (reads or request.method in _READING)
            if caller.role is not Role.ADMIN and not viewers:
                raise Forbidden(
                    f"{request.method} {request.url.path} needs the role {Role.ADMIN.value}, and "
                    f"{caller.name} has the role {caller.role.value}; ask an admin of this mesh"
                )
            return await handler(request, caller)

        return guarded

    async def authenticate(self, request: Request) -> Caller:
        """Give the administrator who asks.

        Raises:
            Unauthenticated: no token, or none that is known.
        """
        shown = _hash(bearer_token(request)).encode()
        listing = await self._signed.list(FOLDER)
        caller = None
        for item in listing.items:
            try:
                known = self.read(item)
            except InvalidResource as error:
                # One damaged entry must not shut all the others out.
                _log.error("administrator unreadable", reason=error.describe())
                continue
            if hmac.compare_digest(shown, known.token_sha256.encode()):
                name = item.key.removeprefix(FOLDER)
                caller = Caller(name, known.role, KeyIs(item.key, item.revision))
        if caller is None:
            raise Unauthenticated("this token is no administrator's")
        return caller

    def read(self, item: KeyValue) -> AdministratorSpec:
        """Read an administrator's entry, against the roots of the last reading.

        Raises:
            InvalidResource: it counts for nothing.
        """
        return self._signed.check(Administrator, item).resource.spec


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()
