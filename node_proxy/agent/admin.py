"""The agent's own pages, on loopback: /healthz, /readyz, /metrics, /config."""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

import hypercorn
from hypercorn.trio import serve
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminPages:
    """What the pages show.

    Args:
        missing: what keeps this node from being ready, in words; empty when it is.
        metrics: everything in Prometheus' text format.
        config: what is in force, as JSON.
    """

    missing: Callable[[], list[str]]
    metrics: Callable[[], bytes]
    config: Callable[[], bytes]


def admin_app(pages: AdminPages) -> Starlette:
    """Make the ASGI application."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        missing = pages.missing()
        text = "".join(f"{line}\n" for line in missing) or "ok\n"
        return PlainTextResponse(text, status_code=503 if missing else 200)

    async def metrics(_: Request) -> Response:
        return Response(pages.metrics(), media_type=CONTENT_TYPE_LATEST)

    async def config(_: Request) -> Response:
        return Response(pages.config(), media_type="application/json")

    handlers = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics, "/config": config}
    return Starlette(routes=[Route(path, handler) for path, handler in handlers.items()])


async def serve_admin(app: Starlette, listener: socket.socket) -> None:
    """Serve on a socket that listens already, until cancelled; the socket stays the caller's."""
    config = hypercorn.Config()
    # hypercorn closes what it is given.
    config.bind = [f"fd://{listener.dup().detach()}"]
    config.errorlog = logging.getLogger("node_proxy.agent.admin")
    await serve(app, config)  # type: ignore[arg-type]
