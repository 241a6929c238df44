"""Who gets in, and what the others are told."""

import httpx
import pytest

from registry.api.auth import new_administrator
from registry.store.memory import MemoryStore
from tests.fakes.signers import MeshKeys
from tests.registry.api.mesh import signed
from tests.registry.ca.material import START, TRUST_DOMAIN

GUARDED = [
    ("POST", "/v1/tokens"),
    ("GET", "/v1/nodes"),
    ("GET", "/v1/proxy/status"),
    ("GET", "/v1/services"),
    ("GET", "/v1/services/default/web"),
    ("GET", "/v1/resources/services"),
    ("GET", "/v1/resources/services/default/web"),
    ("PUT", "/v1/resources/services/default/web"),
    ("DELETE", "/v1/resources/services/default/web"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer  ", b"Basic YTpi", b"Bearer wrong", b"Bearer \xff"]
)
async def test_refused(admin: httpx.AsyncClient, method: str, path: str, header: bytes | None) -> None:
    """Without an administrator's token every operators' path is closed, before anything else is looked at."""
    del admin.headers["authorization"]
    headers = {} if header is None else {b"authorization": header}
    response = await admin.request(method, path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == "unauthenticated"


async def test_several(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """Each of several administrators is let in, and one who is removed no longer is."""
    token, write = new_administrator("bob", now=START)
    await store.put(write.key, signed(write.key, write.value))
    bob = {"authorization": f"bearer {token}"}
    assert (await admin.get("/v1/nodes")).status_code == 200
    assert (await admin.get("/v1/nodes", headers=bob)).status_code == 200
    await store.delete("administrators/bob")
    assert (await admin.get("/v1/nodes", headers=bob)).status_code == 401


async def test_written_past_us(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """Nobody becomes an administrator by writing to etcd: the authority must have signed it."""
    token, write = new_administrator("mallory", now=START)
    mallory = {"authorization": f"bearer {token}"}
    stranger = MeshKeys(TRUST_DOMAIN, now=START)
    for value in (write.value, stranger.authority.sign(write.key, write.value)):
        await store.put(write.key, value)
        assert (await admin.get("/v1/nodes", headers=mallory)).status_code == 401
    assert (await admin.get("/v1/nodes")).status_code == 200


async def test_damaged_entry(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """An entry that somebody damaged lets nobody in and shuts nobody else out."""
    await store.put("administrators/aaron", b"nonsense: [")
    assert (await admin.get("/v1/nodes")).status_code == 200
    assert (await admin.get("/v1/nodes", headers={"authorization": "Bearer x"})).status_code == 401


async def test_token_not_stored(store: MemoryStore) -> None:
    """The store holds no token, only its hash."""
    token, write = new_administrator("alice", now=START)
    assert token.encode() not in write.value


async def test_no_administrators(anyone: httpx.AsyncClient) -> None:
    """Where there are none nobody is one."""
    response = await anyone.get("/v1/nodes", headers={"authorization": "Bearer x"})
    assert response.status_code == 401
