"""Administrators over HTTP: made, listed, removed, and who one is."""

from collections.abc import Awaitable, Callable

import httpx
import pytest
from structlog.testing import capture_logs

from registry.store.base import KeyIs, Write
from registry.store.memory import MemoryStore
from tests.registry.ca.material import SetClock

PATH = "/v1/administrators"


class Interrupted(MemoryStore):
    """Lets something happen just before the next commit."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], Awaitable[object]] | None = None

    async def commit(self, conditions: list[KeyIs], writes: list[Write]) -> int | None:  # type: ignore[override]
        """Commit, after what was to happen before."""
        if self.before is not None:
            happening, self.before = self.before, None
            await happening()
        return await super().commit(conditions, writes)


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


async def create(client: httpx.AsyncClient, name: str, role: str) -> dict[str, str]:
    """Make an administrator; gives the headers of its requests."""
    made = await client.post(PATH, json={"name": name, "role": role})
    assert made.status_code == 200, made.text
    assert (made.json()["name"], made.json()["role"]) == (name, role)
    return {"authorization": f"Bearer {made.json()['token']}"}


async def test_made_and_removed(admin: httpx.AsyncClient) -> None:
    """A new administrator's token counts at once, with its role, and no more once it is removed."""
    for name, role in (("bob", "admin"), ("victor", "viewer")):
        headers = await create(admin, name, role)
        asked = await admin.get("/v1/whoami", headers=headers)
        assert asked.json() == {"name": name, "role": role}
        assert (await admin.delete(f"{PATH}/{name}")).json() == {"name": name}
        assert (await admin.get("/v1/whoami", headers=headers)).status_code == 401


async def test_listed(admin: httpx.AsyncClient, clock: SetClock) -> None:
    """Everyone is listed by name, with role and since when."""
    clock.advance(seconds=60)
    await create(admin, "victor", "viewer")
    assert (await admin.get(PATH)).json() == {
        "items": [
            {"name": "alice", "role": "admin", "createdAt": "2026-03-01T12:00:00Z"},
            {"name": "victor", "role": "viewer", "createdAt": "2026-03-01T12:01:00Z"},
        ],
        "remarks": [],
    }


async def test_forged_entries(admin: httpx.AsyncClient, store: Interrupted) -> None:
    """An entry that nobody signed is told of apart, and can be removed."""
    await store.put("administrators/mallory", b"nonsense: [")
    seen = (await admin.get(PATH)).json()
    assert [each["name"] for each in seen["items"]] == ["alice"]
    assert "administrators/mallory" in seen["remarks"][0]
    assert (await admin.delete(f"{PATH}/mallory")).status_code == 200
    assert (await admin.get(PATH)).json()["remarks"] == []


async def test_the_token_is_nowhere_else(admin: httpx.AsyncClient, store: Interrupted) -> None:
    """The token is in the answer alone: neither in the store nor in the log."""
    with capture_logs() as logs:
        headers = await create(admin, "bob", "admin")
    token = headers["authorization"].removeprefix("Bearer ")
    assert token.encode() not in b"".join(item.value for item in (await store.list("")).items)
    assert token not in str(logs)
    assert [
        (each["event"], each["name"], each["role"], each["administrator"]) for each in logs if "name" in each
    ] == [("administrator created", "bob", "admin", "alice")]


@pytest.mark.parametrize("role", ["admin", "viewer"])
async def test_a_name_is_taken_once(admin: httpx.AsyncClient, store: Interrupted, role: str) -> None:
    """No role is changed, and no token replaced, by making the same name again."""
    before = await store.get("administrators/alice")
    taken = await admin.post(PATH, json={"name": "alice", "role": role})
    assert (taken.status_code, "alice already" in taken.json()["detail"]) == (409, True)
    assert await store.get("administrators/alice") == before


@pytest.mark.parametrize(
    "body",
    [
        {"name": "bob"},
        {"name": "bob", "role": "root"},
        {"name": "Bob", "role": "admin"},
        {"name": "a/b", "role": "admin"},
        {"name": "", "role": "admin"},
        {"name": "bob", "role": "admin", "tokenSha256": "0" * 64},
    ],
)
async def test_what_is_no_administrator(admin: httpx.AsyncClient, body: dict[str, str]) -> None:
    """A body that misses the role, or says what is none, makes nobody."""
    assert (await admin.post(PATH, json=body)).status_code == 422
    assert len((await admin.get(PATH)).json()["items"]) == 1


async def test_nobody_removes_themselves(admin: httpx.AsyncClient) -> None:
    """The last admin, or any, is not removed by their own hand."""
    refused = await admin.delete(f"{PATH}/alice")
    assert (refused.status_code, "another admin" in refused.json()["detail"]) == (409, True)
    assert (await admin.get("/v1/whoami")).status_code == 200


async def test_two_remove_each_other(admin: httpx.AsyncClient, store: Interrupted) -> None:
    """Of two admins who remove each other at the same moment one remains."""
    bob = await create(admin, "bob", "admin")
    store.before = lambda: admin.delete(f"{PATH}/alice", headers=bob)
    assert (await admin.delete(f"{PATH}/bob")).status_code == 409
    assert [each["name"] for each in (await admin.get(PATH, headers=bob)).json()["items"]] == ["bob"]


async def test_removed_while_making_another(admin: httpx.AsyncClient, store: Interrupted) -> None:
    """An admin who is removed meanwhile leaves no successor behind."""
    bob = await create(admin, "bob", "admin")
    store.before = lambda: admin.delete(f"{PATH}/bob")
    assert (await admin.post(PATH, json={"name": "heir", "role": "admin"}, headers=bob)).status_code == 409
    assert await store.get("administrators/heir") is None


async def test_nobody_of_that_name(admin: httpx.AsyncClient) -> None:
    """Removing who is not there is said to be so."""
    assert (await admin.delete(f"{PATH}/nobody")).status_code == 404


async def test_a_viewer_makes_nobody(admin: httpx.AsyncClient, store: Interrupted) -> None:
    """A viewer gets no further by any way: not as an admin, not as another viewer, not by a join token."""
    viewer = await create(admin, "victor", "viewer")
    before = await store.list("")
    for path, body in (
        (PATH, {"name": "victor", "role": "admin"}),
        (PATH, {"name": "mallory", "role": "admin"}),
        (PATH, {"name": "mallory", "role": "viewer"}),
        ("/v1/tokens", {"node": "evil", "identities": ["default/web"]}),
    ):
        assert (await admin.post(path, json=body, headers=viewer)).status_code == 403
    for name in ("alice", "victor"):
        assert (await admin.delete(f"{PATH}/{name}", headers=viewer)).status_code == 403
    assert (await admin.get(PATH, headers=viewer)).status_code == 403
    assert await store.list("") == before
