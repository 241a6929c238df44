"""Whether this replica lives, and whether it can work."""

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from registry.errors import StoreUnavailable
from registry.store import keys
from registry.store.base import Store

# Load balancers ask every few seconds and give up soon.
READY_TIMEOUT = 2.0


class HealthHandlers:
    """``/healthz`` and ``/readyz``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """Give this group's routes."""
        return [Route("/healthz", self.live), Route("/readyz", self.ready)]

    async def live(self, _request: Request) -> Response:
        """Answer: the process serves."""
        return PlainTextResponse("ok")

    async def ready(self, _request: Request) -> Response:
        """Answer when the store does."""
        with trio.move_on_after(READY_TIMEOUT) as scope:
            await self._store.get(keys.render(keys.BundleKey()))
        if scope.cancelled_caught:
            raise StoreUnavailable(f"the store has not answered for {READY_TIMEOUT} seconds")
        return PlainTextResponse("ok")
