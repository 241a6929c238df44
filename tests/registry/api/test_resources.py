"""Operators' resources over HTTP: each edit is judged first, and made against what the operator has read."""

import json
from typing import Any

import httpx
import pytest

from registry.store.base import KeyIs, Write
from registry.store.memory import MemoryStore

PATH = "/v1/resources/services/default/web"
MESH = "/v1/resources/mesh/nodemesh-system/mesh"
KEY = "services/default/web"


def service(name: str = "web", port: int = 80, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nodemesh/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": port}], "selector": {"app": "web"}} | spec,
    }


def mesh(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "mesh", "namespace": "nodemesh-system"}
    return {"apiVersion": "nodemesh/v1", "kind": "Mesh", "metadata": metadata, "spec": spec}


async def test_round_trip(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """What is written is read back, at the revision at which it was written."""
    put = await admin.put(PATH, json=service())
    assert put.status_code == 200
    got = await admin.get(PATH)
    revision = put.json()["revision"]
    assert put.json() == {"revision": revision, "resource": service(), "created": True}
    assert got.json() == {"revision": revision, "resource": service()}
    assert put.headers["etag"] == got.headers["etag"] == f'"{revision}"'
    item = await store.get(KEY)
    assert item is not None
    assert item.revision == revision


async def test_yaml(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """YAML is taken too, and stored as canonical JSON."""
    text = "apiVersion: nodemesh/v1\nkind: Service\nmetadata: {name: web}\n"
    put = await admin.put(PATH, content=text + "spec: {selector: {app: web}, ports: [{port: 80}]}\n")
    assert put.json()["resource"] == service()
    item = await store.get(KEY)
    assert item is not None
    assert item.value.startswith(b'{"apiVersion":"nodemesh/v1","kind":"Service"')


async def test_change(admin: httpx.AsyncClient) -> None:
    """A change is a later revision, and no creation."""
    first = (await admin.put(PATH, json=service())).json()
    second = (await admin.put(PATH, json=service(port=81))).json()
    assert second["revision"] > first["revision"]
    assert second["created"] is False


async def test_same_again(admin: httpx.AsyncClient) -> None:
    """Writing what is there already is no edit."""
    first = (await admin.put(PATH, json=service())).json()
    again = (await admin.put(PATH, json=service())).json()
    assert again == first | {"created": False}


async def test_judgement(admin: httpx.AsyncClient, store: MemoryStore) -> None:
    """What the controller says of a resource comes with it, as long as it is about what stands there."""
    revision = (await admin.put(PATH, json=service())).json()["revision"]
    spec = {"revision": revision, "accepted": False, "reasons": ["no"]}
    status = {"apiVersion": "nodemesh/v1", "kind": "Status", "metadata": {"name": "web"}, "spec": spec}
    await store.put(f"status/{KEY}", json.dumps(status).encode())
    (item,) = (await admin.get("/v1/resources/services")).json()["items"]
    for answer in (item, (await admin.get(PATH)).json()):
        assert (answer["accepted"], answer["reasons"]) == (False, ["no"])
    await admin.put(PATH, json=service(port=81))
    (item,) = (await admin.get("/v1/resources/services")).json()["items"]
    for answer in (item, (await admin.get(PATH)).json()):
        assert not {"accepted", "reasons"} & answer.keys()


@pytest.mark.parametrize(
    ("path", "resource", "problem"),
    [
        (PATH, service(typo=1), "spec.typo"),
        (PATH, service("api"), "metadata"),
        (PATH, mesh(), "metadata"),
        (PATH, service(identities=["spiffe://other.test/ns/a/sa/b"]), "spec.identities"),
        (MESH, mesh(trustDomain="other.test"), "spec.trustDomain"),
        (PATH, service() | {"kind": "Enrolment"}, "kind"),
    ],
)
async def test_judged(
    admin: httpx.AsyncClient, store: MemoryStore, path: str, resource: dict[str, Any], problem: str
) -> None:
    """What is wrong is refused, naming the field, and not written."""
    before = (await store.list("")).revision
    response = await admin.put(path, json=resource)
    assert response.status_code == 422
    assert response.json()["path"] == problem
    assert (await store.list("")).revision == before


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/resources/tokens/default/web", 404),
        ("/v1/resources/enrolments/default/web", 404),
        ("/v1/resources/sealedkeys/ca/keys", 404),
        ("/v1/resources/status/services/web", 404),
        ("/v1/resources/ca/keys/root", 404),
        ("/v1/resources/mesh/default/mesh", 404),
        ("/v1/resources/services/default/Web", 422),
        ("/v1/resources/services/default/..%2f..", 404),
        ("/v1/resources/services/de%0afault/web", 422),
    ],
)
async def test_closed(admin: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    """Nothing but operators' kinds can be reached here, under names that are names."""
    response = await admin.request(method, path, json=service() if method == "PUT" else None)
    assert response.status_code == status, response.text


class TestConditions:
    async def test_if_match(self, admin: httpx.AsyncClient) -> None:
        """An edit against the revision that was read goes through once, then conflicts."""
        etag = (await admin.put(PATH, json=service())).headers["etag"]
        headers = {"if-match": etag}
        assert (await admin.put(PATH, json=service(port=81), headers=headers)).status_code == 200
        response = await admin.put(PATH, json=service(port=82), headers=headers)
        assert response.status_code == 409
        assert "you read" in response.json()["detail"]
        assert (await admin.get(PATH)).json()["resource"] == service(port=81)

    async def test_if_match_of_what_is_gone(self, admin: httpx.AsyncClient) -> None:
        """An edit of what somebody removed conflicts instead of bringing it back."""
        etag = (await admin.put(PATH, json=service())).headers["etag"]
        await admin.delete(PATH)
        response = await admin.put(PATH, json=service(), headers={"if-match": etag})
        assert response.status_code == 409

    async def test_if_none_match(self, admin: httpx.AsyncClient) -> None:
        """A creation goes through once, then conflicts."""
        headers = {"if-none-match": "*"}
        assert (await admin.put(PATH, json=service(), headers=headers)).status_code == 200
        assert (await admin.put(PATH, json=service(port=81), headers=headers)).status_code == 409

    async def test_delete_if_match(self, admin: httpx.AsyncClient) -> None:
        """A removal can be made against what was read, too."""
        etag = (await admin.put(PATH, json=service())).headers["etag"]
        await admin.put(PATH, json=service(port=81))
        assert (await admin.delete(PATH, headers={"if-match": etag})).status_code == 409
        assert (await admin.get(PATH)).status_code == 200

    @pytest.mark.parametrize(
        "headers", [{"if-match": "*"}, {"if-match": '"x"'}, {"if-match": ""}, {"if-none-match": '"4"'}]
    )
    async def test_malformed(self, admin: httpx.AsyncClient, headers: dict[str, str]) -> None:
        """A condition that is not understood is never taken as none."""
        response = await admin.put(PATH, json=service(), headers=headers)
        assert response.status_code == 422
        assert (await admin.get(PATH)).status_code == 404

    async def test_edit_in_between(
        self, admin: httpx.AsyncClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An edit that another one overtakes between reading and writing conflicts if it has a condition."""
        etag = (await admin.put(PATH, json=service())).headers["etag"]
        original = store.commit
        overtaken = False

        async def commit(conditions: list[KeyIs], writes: list[Write]) -> int | None:
            nonlocal overtaken
            if not overtaken:
                overtaken = True
                await store.put(KEY, b"somebody else's")
            return await original(conditions, writes)

        monkeypatch.setattr(store, "commit", commit)
        response = await admin.put(PATH, json=service(port=81), headers={"if-match": etag})
        assert response.status_code == 409
        overtaken = False
        assert (await admin.put(PATH, json=service(port=81))).status_code == 200


class TestDelete:
    async def test_delete(self, admin: httpx.AsyncClient) -> None:
        """What was removed is answered with, and gone."""
        await admin.put(PATH, json=service())
        response = await admin.delete(PATH)
        assert response.json()["resource"] == service()
        assert (await admin.get(PATH)).status_code == 404
        assert (await admin.delete(PATH)).status_code == 404

    async def test_unreadable(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """What does not parse can be removed all the same."""
        await store.put(KEY, b"nonsense: [")
        response = await admin.delete(PATH)
        assert (response.status_code, response.json()["resource"]) == (200, None)


class TestList:
    async def test_with_errors(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A list gives what parses, and for what does not, why."""
        await admin.put(PATH, json=service())
        await store.put("services/default/bad", b"nonsense: [")
        answer = (await admin.get("/v1/resources/services")).json()
        bad, good = answer["items"]
        assert answer["revision"] == bad["revision"]
        assert good["resource"] == service()
        assert (bad["key"], "resource" in bad) == ("services/default/bad", False)
        assert "services/default/bad" in bad["error"]
        assert (await admin.get("/v1/resources/services/default/bad")).status_code == 422

    async def test_namespace(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """A list can be of one namespace, which is not a mere prefix."""
        await admin.put(PATH, json=service())
        await store.put("services/default-2/web", b"nonsense: [")
        answer = (await admin.get("/v1/resources/services", params={"namespace": "default"})).json()
        assert [item["key"] for item in answer["items"]] == [KEY]

    async def test_mesh(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """The mesh is a list of one, in its namespace."""
        await store.put("meshes/default/other", b"{}")
        resource = mesh(trustDomain="mesh.test", defaultAuthorization="deny")
        await admin.put(MESH, json=resource)
        answer = (await admin.get("/v1/resources/mesh")).json()
        assert [item["resource"] for item in answer["items"]] == [resource]
        other = await admin.get("/v1/resources/mesh", params={"namespace": "default"})
        assert other.json()["items"] == []

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/v1/resources/tokens", 404), ("/v1/resources/services?namespace=a/b", 422)],
    )
    async def test_closed(self, admin: httpx.AsyncClient, path: str, status: int) -> None:
        """Other kinds, and what is no namespace, are refused."""
        assert (await admin.get(path)).status_code == status
