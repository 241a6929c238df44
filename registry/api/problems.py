"""Errors become RFC 9457 problem documents here, and nowhere else."""

from http import HTTPStatus

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import InvalidResource, RegistryError, StoreUnavailable, Unauthenticated

_log = structlog.get_logger()


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document; the last four members come with a resource that does not parse."""

    type: str
    title: str
    status: int
    detail: str
    where: str | msgspec.UnsetType = msgspec.UNSET
    path: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    mend: str | msgspec.UnsetType = msgspec.UNSET


def describe(error: RegistryError) -> Problem:
    """Give the document for an error."""
    problem = _problem(error.status, error.title, str(error))
    if isinstance(error, InvalidResource):
        return msgspec.structs.replace(
            problem, where=error.where, path=error.path, reason=error.reason, mend=error.mend
        )
    return problem


def _problem(status: int, title: str, detail: str) -> Problem:
    return Problem(
        type="urn:nodemesh:problem:" + title.replace(" ", "-").replace("'", ""),
        title=title,
        status=status,
        detail=detail,
    )


def _respond(problem: Problem, headers: dict[str, str]) -> Response:
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


async def on_registry_error(request: Request, error: Exception) -> Response:
    """Answer for an error raised on purpose, and log what an operator may want to know of."""
    assert isinstance(error, RegistryError)  # noqa: S101 - registered for this type alone
    client = request.client.host if request.client else ""
    facts = {"method": request.method, "path": request.url.path, "client": client, "detail": str(error)}
    headers = {}
    if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        _log.warning("request refused", status=error.status, **facts)
    elif error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request failed", status=error.status, **facts)
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, StoreUnavailable):
        headers["retry-after"] = "1"
    return _respond(describe(error), headers)


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Answer for what Starlette refuses by itself: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type alone
    title = HTTPStatus(error.status_code).phrase.lower()
    return _respond(_problem(error.status_code, title, error.detail), dict(error.headers or {}))


class BugBarrier:
    """The one catch around a request: a bug costs that request, is logged, and tells the caller nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting_start)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("bug while answering a request", method=scope["method"], path=scope["path"])
            if started:
                # Half an answer cannot be taken back: the server must cut the connection.
                raise
            await _respond(_problem(500, "internal error", "see the registry's log"), {})(
                scope, receive, send
            )
