import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import trio

from node_proxy.agent.admin import AdminPages, admin_app, serve_admin


@asynccontextmanager
async def pages(missing: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the pages on loopback; gives a client of theirs."""
    app = admin_app(
        AdminPages(missing=lambda: missing, metrics=lambda: b"x_total 1\n", config=lambda: b'{"a": 1}')
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            nursery.start_soon(serve_admin, app, listener)
            yield client
            nursery.cancel_scope.cancel()


async def test_pages() -> None:
    """Each page answers in its own type."""
    async with pages([]) as client:
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).status_code == 200
        metrics = await client.get("/metrics")
        assert metrics.text == "x_total 1\n"
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert (await client.get("/config")).json() == {"a": 1}
        assert (await client.get("/elsewhere")).status_code == 404
        assert (await client.post("/config")).status_code == 405


async def test_not_ready() -> None:
    """What is missing for readiness is listed, line by line; the process is healthy all the same."""
    async with pages(["no state yet", "worker 0 is not running"]) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.text == "no state yet\nworker 0 is not running\n"
        assert (await client.get("/healthz")).status_code == 200
