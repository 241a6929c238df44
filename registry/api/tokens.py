"""Join tokens."""

from datetime import timedelta
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from registry.api.auth import Administrators
from registry.api.bodies import Answer, Asked, answer, decode, read_body
from registry.ca.enrolment import MAX_TTL, Registrar
from registry.clock import format_time


class TokenAsked(Asked, frozen=True, kw_only=True):
    """Which nodes (a name or shell pattern), which identities, how long, how often."""

    node: str
    identities: tuple[str, ...] = ()
    ttl_seconds: Annotated[int, Meta(ge=1, le=int(MAX_TTL.total_seconds()))] = 3600
    uses: int = 1
    require_approval: bool = False


class TokenAnswer(Answer, frozen=True, kw_only=True):
    """The token, whole, this once."""

    id: str
    token: str
    expires_at: str


class TokenHandlers:
    """``/v1/tokens``."""

    def __init__(self, *, registrar: Registrar, administrators: Administrators) -> None:
        self._registrar = registrar
        self._administrators = administrators

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        return [Route("/v1/tokens", self._administrators.only(self.create), methods=["POST"])]

    async def create(self, request: Request, _administrator: str) -> Response:
        """Make a join token."""
        asked = decode(await read_body(request), TokenAsked)
        made = await self._registrar.create_token(
            pattern=asked.node,
            identities=asked.identities,
            ttl=timedelta(seconds=asked.ttl_seconds),
            uses=asked.uses,
            require_approval=asked.require_approval,
        )
        return answer(
            TokenAnswer(id=made.text.id, token=str(made.text), expires_at=format_time(made.expires))
        )
