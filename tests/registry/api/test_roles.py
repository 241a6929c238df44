"""What a viewer may do: every route of the application is tried, so that a new one cannot be forgotten."""

import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from registry.api.auth import new_administrator
from registry.model.administrator import Administrator, AdministratorSpec, Role
from registry.model.enrolment import JoinToken, SealedKey
from registry.model.parse import parse_as, render
from registry.store.memory import MemoryStore
from tests.registry.api.mesh import signed
from tests.registry.ca.material import START

# Nobody's in particular: what a joiner or a node calls, and load balancers.
PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/ca/bundle"),
    ("POST", "/v1/join"),
    ("POST", "/v1/certificates"),
    ("POST", "/v1/etcd-certificates"),
}
# Questions too long for an address.
QUESTIONS = {
    ("POST", "/v1/authz/check"),
    ("POST", "/v1/authz/diff"),
    ("POST", "/v1/authz/lint"),
    ("POST", "/v1/routes/explain"),
}
ADMINS_TO_SEE = {("GET", "/v1/administrators")}

TOKEN = {"node": "evil", "identities": ["default/web"]}
SERVICE = {
    "apiVersion": "nodemesh/v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"selector": {"app": "web"}, "identities": ["default/web"], "ports": [{"port": 80}]},
}
# What would do something if it were let through.
BODIES = {
    "/v1/tokens": TOKEN,
    "/v1/administrators": {"name": "mallory", "role": "admin"},
    "/v1/resources/services/default/web": SERVICE,
    "/v1/ca/rotation": {"root": True},
    "/v1/ca/revocations": {"kind": "node", "value": "web-1"},
    "/v1/nodes/web-1/allow": {"identities": ["default/db"]},
    "/v1/nodes/web-1/forbid": {"identities": ["default/web"]},
}
VALUES = {
    "plural": "services",
    "namespace": "default",
    "name": "web",
    "node": "web-1",
    "decision": "d1",
    "trust_domain": "other.test",
}


def calls(app: Starlette) -> Iterator[tuple[str, str]]:
    """Every method of every route, as it is declared."""
    for route in app.routes:
        assert isinstance(route, Route)
        assert route.methods
        for method in sorted(route.methods):
            yield method, route.path


def is_known(call: tuple[str, str], among: set[tuple[str, str]]) -> bool:
    method, path = call
    return ("GET" if method == "HEAD" else method, path) in among


async def send(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    """Call a route with everything filled in."""
    path = re.sub(r"\{(\w+)\}", lambda match: VALUES[match[1]], path)
    return await client.request(
        method, path, json=BODIES.get(path, {}) if method in {"POST", "PUT"} else None
    )


@pytest.fixture
async def viewer(admin: httpx.AsyncClient, store: MemoryStore) -> httpx.AsyncClient:
    """Give a client that shows a viewer's token, in a mesh where there is something to see and to change."""
    enrolled = await admin.post("/v1/tokens", json=TOKEN)
    written = await admin.put("/v1/resources/services/default/web", json=SERVICE)
    assert (enrolled.status_code, written.status_code) == (200, 200)
    made = await admin.post("/v1/administrators", json={"name": "victor", "role": "viewer"})
    admin.headers["authorization"] = f"Bearer {made.json()['token']}"
    return admin


async def test_every_route_asks_who_it_is(app: Starlette, anyone: httpx.AsyncClient) -> None:
    """Without a token only what is known to be public answers otherwise than with 401."""
    let_in = {
        call
        for call in calls(app)
        if not is_known(call, PUBLIC) and (await send(anyone, *call)).status_code != 401
    }
    assert let_in == set()


async def test_a_viewer_only_reads(app: Starlette, viewer: httpx.AsyncClient) -> None:
    """What is neither GET nor HEAD is refused to a viewer with 403, but for the known questions."""
    refused = {call for call in calls(app) if (await send(viewer, *call)).status_code == 403}
    expected = {
        call
        for call in calls(app)
        if not is_known(call, PUBLIC | QUESTIONS)
        and (call[0] not in {"GET", "HEAD"} or is_known(call, ADMINS_TO_SEE))
    }
    assert refused == expected


async def test_nothing_is_changed(app: Starlette, viewer: httpx.AsyncClient, store: MemoryStore) -> None:
    """After a viewer has called everything there is, the store is as it was."""
    before = await store.list("")
    for call in calls(app):
        await send(viewer, *call)
    assert await store.list("") == before


async def test_an_admin_would_have_changed_it(
    app: Starlette, admin: httpx.AsyncClient, store: MemoryStore
) -> None:
    """The same calls with an admin's token are not refused, and do change the store."""
    before = await store.list("")
    answers = {call: (await send(admin, *call)).status_code for call in calls(app)}
    assert 403 not in answers.values()
    assert answers["POST", "/v1/tokens"] == answers["POST", "/v1/administrators"] == 200
    assert await store.list("") != before


@pytest.mark.parametrize("as_viewer", [True, False])
async def test_no_secret_is_told(
    app: Starlette,
    viewer: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    store: MemoryStore,
    as_viewer: bool,
) -> None:
    """No answer that is read holds a token's hash or anything of a sealed key, for whatever role."""
    if not as_viewer:
        token, write = new_administrator("root", now=START)
        await store.put(write.key, signed(write.key, write.value))
        viewer.headers["authorization"] = f"Bearer {token}"
    secrets = [
        parse_as(Administrator, item.value, where=item.key).spec.token_sha256
        for item in (await store.list("administrators/")).items
    ]
    secrets += [
        parse_as(JoinToken, item.value, where=item.key).spec.secret_sha256
        for item in (await store.list("tokens/")).items
    ]
    sealed = [
        parse_as(SealedKey, item.value, where=item.key).spec for item in (await store.list("ca/keys/")).items
    ]
    secrets += [part for spec in sealed for part in (spec.ciphertext, spec.nonce)]
    assert len(secrets) >= 5
    for call in calls(app):
        if call[0] == "GET" or is_known(call, QUESTIONS):
            text = (await send(viewer, *call)).text
            assert not [secret for secret in secrets if secret in text]


async def test_the_role_that_is_needed_is_named(viewer: httpx.AsyncClient) -> None:
    """The refusal is a problem that says which role it takes, and which one has."""
    refused = await viewer.post("/v1/tokens", json=TOKEN)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == (
        "POST /v1/tokens needs the role admin, and victor has the role viewer; ask an admin of this mesh"
    )


async def test_before_the_body_is_read(viewer: httpx.AsyncClient) -> None:
    """A viewer is refused whatever the body says."""
    assert (await viewer.post("/v1/tokens", content=b"{")).status_code == 403


async def test_from_before_there_were_roles(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """A record without a role is an admin's, and an admin's record says nothing of it."""
    token, write = new_administrator("old", now=START)
    resource = parse_as(Administrator, write.value, where=write.key)
    old = Administrator(
        api_version=resource.api_version,
        kind=resource.kind,
        metadata=resource.metadata,
        spec=AdministratorSpec(token_sha256=resource.spec.token_sha256),
    )
    value = render(old)
    assert b"role" not in value + write.value
    await store.put(write.key, signed(write.key, value))
    asked = await admin.get("/v1/whoami", headers={"authorization": f"Bearer {token}"})
    assert asked.json() == {"name": "old", "role": "admin"}


async def test_a_role_is_signed(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """Whoever writes another role into etcd makes no admin of a viewer: the signature no longer holds."""
    token, write = new_administrator("victor", now=START, role=Role.VIEWER)
    value = signed(write.key, write.value)
    await store.put(write.key, value.replace(b'"role":"viewer",', b""))
    asked = await admin.get("/v1/whoami", headers={"authorization": f"Bearer {token}"})
    assert (b'"role":"viewer",' in value, asked.status_code) == (True, 401)
