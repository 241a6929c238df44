"""What administrators decide about nodes, over HTTP."""

import httpx
import pytest

from registry.store.memory import MemoryStore
from tests.registry.api.test_nodes import API, WEB, enrol


@pytest.fixture
async def web_1(admin: httpx.AsyncClient, store: MemoryStore) -> httpx.AsyncClient:
    """Give a client of a mesh in which web-1 is enrolled."""
    await enrol(store, "web-1", WEB)
    return admin


async def test_allow_and_forbid(web_1: httpx.AsyncClient) -> None:
    """Identities are added to an enrolment and taken from it."""
    answer = await web_1.post("/v1/nodes/web-1/allow", json={"identities": ["default/api"]})
    assert answer.json() == {"node": "web-1", "identities": [API, WEB], "changed": True}
    answer = await web_1.post("/v1/nodes/web-1/forbid", json={"identities": ["default/web"]})
    assert answer.json() == {"node": "web-1", "identities": [API], "changed": True}


async def test_revoke(web_1: httpx.AsyncClient) -> None:
    """A revoked node is gone from the list."""
    answer = await web_1.post("/v1/nodes/web-1/revoke", json={"reason": "stolen"})
    assert answer.json() == {"node": "web-1", "enrolled": True}
    assert (await web_1.get("/v1/nodes")).json()["items"] == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("web-2/approve", {}, 404),
        ("web-2/allow", {"identities": ["default/web"]}, 404),
        ("web-1/allow", {"identities": []}, 422),
        ("web-1/allow", {"identities": ["web"]}, 422),
        ("web-1/forbid", {"names": ["default/web"]}, 422),
        ("Web_1/revoke", {"reason": ""}, 422),
        ("web-1/revoke", {"reason": "x" * 201}, 422),
    ],
)
async def test_mistakes(web_1: httpx.AsyncClient, path: str, body: object, status: int) -> None:
    """Whatever is wrong with a request, the status says so, and nothing changes."""
    assert (await web_1.post(f"/v1/nodes/{path}", json=body)).status_code == status
    (node,) = (await web_1.get("/v1/nodes")).json()["items"]
    assert node["identities"] == [WEB]
