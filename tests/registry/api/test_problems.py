"""Errors are problem documents, and tell what may be told."""

from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from registry.api.bodies import MAX_BODY
from registry.store.base import KeyValue, Listing
from registry.store.memory import MemoryStore


async def test_no_such_path(anyone: httpx.AsyncClient) -> None:
    """An unknown path is a problem document too."""
    response = await anyone.get("/v2/nodes")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:nodemesh:problem:not-found",
        "title": "not found",
        "status": 404,
        "detail": "Not Found",
    }


async def test_no_such_method(anyone: httpx.AsyncClient) -> None:
    """A wrong method is told which are right."""
    response = await anyone.get("/v1/join")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["title"] == "method not allowed"


@pytest.mark.parametrize(
    ("body", "path", "reason"),
    [
        (b"", "", "truncated"),
        (b"[]", "", "Expected `object`"),
        (b'{"node": 1}', "node", "Expected `str`"),
        (b'{"node": "web-1", "ttl": 5}', "", "unknown field `ttl`"),
        (b'{"node": "web-1", "ttlSeconds": 0}', "ttlSeconds", ">= 1"),
        (b'{"node": "web-1", "identities": ["default/web", 2]}', "identities[1]", "Expected `str`"),
        (b'{"node": "\xff"}', "", "invalid start byte"),
    ],
)
async def test_malformed_body(admin: httpx.AsyncClient, body: bytes, path: str, reason: str) -> None:
    """A malformed body is answered with the field and what is wrong with it."""
    response = await admin.post("/v1/tokens", content=body)
    problem = response.json()
    assert (response.status_code, problem["where"], problem["path"]) == (422, "request body", path)
    assert reason in problem["reason"]


async def test_large_body(admin: httpx.AsyncClient) -> None:
    """A body that says it is too large is refused unread."""
    response = await admin.put("/v1/resources/services/default/web", content=b"x" * (MAX_BODY + 1))
    assert response.status_code == 413
    assert response.json()["title"] == "payload too large"


class Flood(httpx.AsyncByteStream):
    """A body that goes on far beyond the limit; counts what was read of it."""

    def __init__(self) -> None:
        self.sent = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Give itself."""
        return self

    async def __anext__(self) -> bytes:
        """Give some more."""
        if self.sent > 10 * MAX_BODY:
            raise StopAsyncIteration
        self.sent += 1 << 16
        return b"x" * (1 << 16)


async def test_endless_body(admin: httpx.AsyncClient) -> None:
    """A body of no declared length is read no further than the limit."""
    flood = Flood()
    url = "https://registry.test/v1/resources/services/default/web"
    response = await admin.send(httpx.Request("PUT", url, headers=admin.headers, stream=flood))
    assert response.status_code == 413
    assert flood.sent <= MAX_BODY + (1 << 16)


async def test_store_away(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """An outage of the store is said to be one, and when to try again."""
    with store.outage():
        response = await admin.get("/v1/nodes")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


async def test_bug(admin: httpx.AsyncClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug costs one request, is logged with its traceback, and tells the caller nothing."""

    async def stumble(prefix: str, *, revision: int = 0) -> Listing:
        raise ZeroDivisionError("the secret is 42")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(store, "list", stumble)
        response = await admin.get("/v1/nodes")
    assert response.status_code == 500
    assert "42" not in response.text
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["exc_info"]) == (
        "bug while answering a request",
        "error",
        True,
    )
    assert (await admin.get("/v1/nodes")).status_code == 200


async def test_refusals_are_logged(anyone: httpx.AsyncClient) -> None:
    """Who was refused what, and from where, is in the log; what was shown is not."""
    with capture_logs() as logs:
        await anyone.get("/v1/nodes", headers={"authorization": "Bearer s3cret"})
    (entry,) = logs
    assert (entry["event"], entry["status"], entry["path"]) == ("request refused", 401, "/v1/nodes")
    assert entry["client"] == "127.0.0.1"
    assert "s3cret" not in str(entry)


class TestHealth:
    async def test_live(self, anyone: httpx.AsyncClient, store: MemoryStore) -> None:
        """A process that serves is alive, whatever its store does."""
        with store.outage():
            response = await anyone.get("/healthz")
        assert (response.status_code, response.text) == (200, "ok")

    async def test_ready(self, anyone: httpx.AsyncClient, store: MemoryStore) -> None:
        """It is ready while the store answers."""
        assert (await anyone.get("/readyz")).status_code == 200
        with store.outage():
            assert (await anyone.get("/readyz")).status_code == 503

    async def test_slow_store(
        self,
        anyone: httpx.AsyncClient,
        store: MemoryStore,
        monkeypatch: pytest.MonkeyPatch,
        autojump_clock: object,
    ) -> None:
        """A store that does not answer in time is not ready."""

        async def hang(key: str) -> KeyValue | None:
            await trio.sleep_forever()

        monkeypatch.setattr(store, "get", hang)
        response = await anyone.get("/readyz")
        assert response.status_code == 503
        assert "2.0 seconds" in response.json()["detail"]
