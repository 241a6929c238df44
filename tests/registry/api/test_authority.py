"""The certificate authority's state, rotations, revocations and federation over HTTP."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from registry.ca import issuer
from registry.ca.authority import Authority
from registry.ca.rotation import SETTLE
from registry.store.memory import MemoryStore
from tests.registry.api.test_ca import NODE, WEB, join, new_token
from tests.registry.ca.material import START, SetClock, make_csr, make_proof, new_key

OTHER = "other.test"


async def state(admin: httpx.AsyncClient) -> Any:
    response = await admin.get("/v1/ca")
    assert response.status_code == 200, response.text
    return response.json()


async def revoke(admin: httpx.AsyncClient, kind: str, value: str) -> httpx.Response:
    return await admin.post("/v1/ca/revocations", json={"kind": kind, "value": value, "reason": "lost"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/ca"),
        ("POST", "/v1/ca/rotation"),
        ("DELETE", "/v1/ca/rotation"),
        ("POST", "/v1/ca/rotation/continue"),
        ("POST", "/v1/ca/revocations"),
        ("POST", "/v1/ca/revocations/lift"),
        ("POST", "/v1/ca/federated"),
        ("DELETE", f"/v1/ca/federated/{OTHER}"),
    ],
)
async def test_administrators_only(anyone: httpx.AsyncClient, method: str, path: str) -> None:
    """Without an administrator's token nothing of it is to be had."""
    assert (await anyone.request(method, path, json={})).status_code == 401


async def test_state(admin: httpx.AsyncClient, authority: Authority, clock: SetClock) -> None:
    """Root and intermediate are described, with the days they have left."""
    clock.advance(days=1)
    seen = await state(admin)
    assert seen["issuer"]["fingerprint"] == authority.issuing.fingerprint
    assert (seen["issuer"]["daysLeft"], seen["issuer"]["key"]) == (364, "etcd")
    assert [(root["fingerprint"], root["daysLeft"]) for root in seen["roots"]] == [
        (authority.fingerprint, 3649)
    ]
    assert (seen["rotation"], seen["revocations"], seen["federated"]) == (None, [], [])
    assert seen["leafSeconds"] == 86400


class TestRotation:
    async def test_whole(self, admin: httpx.AsyncClient, clock: SetClock, authority: Authority) -> None:
        """A rotation is started, waits, is taken on and ends, and says so each time."""
        old = authority.fingerprint
        begun = (await admin.post("/v1/ca/rotation", json={"root": True})).json()
        assert begun["rotation"]["phase"] == "spreading"
        assert begun["rotation"]["outgoing"] == [old]
        assert begun["rotation"]["waitsFor"] == [
            {"why": "the registry's replicas take it in", "until": "2026-03-01T12:00:30Z"}
        ]
        waiting = (await admin.post("/v1/ca/rotation/continue", json={})).json()
        assert (waiting["moved"], waiting["rotation"]["phase"]) == (False, "spreading")
        clock.advance(seconds=SETTLE.total_seconds())
        moved = (await admin.post("/v1/ca/rotation/continue", json={})).json()
        assert (moved["moved"], moved["rotation"]["phase"]) == (True, "moving")
        assert (await admin.delete("/v1/ca/rotation")).status_code == 409
        forced = (await admin.post("/v1/ca/rotation/continue", json={"force": True})).json()
        assert (forced["moved"], forced["rotation"]) == (True, None)
        (root,) = (await state(admin))["roots"]
        assert root["fingerprint"] != old

    async def test_conflict(self, admin: httpx.AsyncClient) -> None:
        """A second one is refused until the first is given up."""
        assert (await admin.post("/v1/ca/rotation", json={"root": True})).status_code == 200
        assert (await admin.post("/v1/ca/rotation", json={})).status_code == 409
        assert (await admin.delete("/v1/ca/rotation")).status_code == 200
        assert (await admin.delete("/v1/ca/rotation")).status_code == 404
        assert (await admin.post("/v1/ca/rotation", json={})).status_code == 200

    async def test_joining_meanwhile(self, admin: httpx.AsyncClient, authority: Authority) -> None:
        """Who joins while the new root is spread is told of both roots."""
        await admin.post("/v1/ca/rotation", json={"root": True})
        answer = (await join(admin, await new_token(admin), new_key())).json()
        assert len(answer["bundle"]) == 2


class TestRevocation:
    async def certify(
        self, admin: httpx.AsyncClient, clock: SetClock, joined: Any, key: Any
    ) -> httpx.Response:
        """Ask for a workload's certificate, as the node that joined."""
        body = httpx.Request("POST", "https://x", json={"identity": WEB, "csr": make_csr(key)}).content
        proof = make_proof(key, joined["certificate"], identity=NODE, body=body, now=clock())
        headers = {"authorization": f"Bearer {proof}", "content-type": "application/json"}
        return await admin.post("/v1/certificates", content=body, headers=headers)

    async def test_renewal(self, admin: httpx.AsyncClient, clock: SetClock) -> None:
        """A revoked node renews nothing, and is told why; joined anew it does."""
        key = new_key()
        joined = (await join(admin, await new_token(admin), key)).json()
        assert (await self.certify(admin, clock, joined, key)).status_code == 200
        clock.advance(minutes=1)
        assert (await revoke(admin, "node", "web-1")).json()["enrolled"] is True
        refused = await self.certify(admin, clock, joined, key)
        assert refused.status_code == 401
        assert "revoked, by node since 2026-03-01T12:01:00Z (lost)" in refused.json()["detail"]
        clock.advance(minutes=1)
        again = (await join(admin, await new_token(admin, node="web-1"), key)).json()
        assert (await self.certify(admin, clock, again, key)).status_code == 200

    async def test_state(self, admin: httpx.AsyncClient) -> None:
        """What is revoked is listed; lifted it is not."""
        assert (await revoke(admin, "identity", "default/web")).status_code == 200
        assert (await revoke(admin, "serial", "5F:3A")).json()["enrolled"] is None
        assert [
            (each["kind"], each["value"], each["expiresAt"]) for each in (await state(admin))["revocations"]
        ] == [
            ("identity", WEB, "2026-03-31T12:05:00Z"),
            ("serial", "5f3a", None),
        ]
        lifted = await admin.post("/v1/ca/revocations/lift", json={"kind": "serial", "value": "5f3a"})
        assert lifted.json() == {"kind": "serial", "value": "5f3a"}
        assert len((await state(admin))["revocations"]) == 1

    async def test_unknown_node(self, admin: httpx.AsyncClient) -> None:
        """A node's name that nobody has is revoked all the same, and the doubt is told."""
        assert (await revoke(admin, "node", "wbe-1")).json()["enrolled"] is False

    @pytest.mark.parametrize(
        ("kind", "value", "status"),
        [("node", "Web 1", 422), ("identity", "web", 422), ("serial", "xyz", 422), ("host", "web-1", 422)],
    )
    async def test_refused(self, admin: httpx.AsyncClient, kind: str, value: str, status: int) -> None:
        """What names nothing is refused."""
        assert (await revoke(admin, kind, value)).status_code == status
        assert (await state(admin))["revocations"] == []

    async def test_bundle(self, admin: httpx.AsyncClient, store: MemoryStore) -> None:
        """What nodes watch carries it."""
        await revoke(admin, "node", "web-1")
        spec = (await admin.get("/v1/ca/bundle")).json()["spec"]
        assert [each["value"] for each in spec["revocations"]] == ["web-1"]


async def test_federation(admin: httpx.AsyncClient) -> None:
    """Another mesh's roots are taken, shown, and taken away again."""
    root = issuer.make_root(
        new_key(), trust_domain=OTHER, serial=1, now=START - timedelta(days=1)
    ).certificate
    asked = {"trustDomain": OTHER, "roots": issuer.to_pem(root)}
    assert (await admin.post("/v1/ca/federated", json=asked)).status_code == 200
    assert (await state(admin))["federated"] == [{"trustDomain": OTHER, "roots": [issuer.fingerprint(root)]}]
    assert (await admin.post("/v1/ca/federated", json=asked | {"roots": "nonsense"})).status_code == 422
    assert (await admin.delete(f"/v1/ca/federated/{OTHER}")).status_code == 200
    assert (await admin.delete(f"/v1/ca/federated/{OTHER}")).status_code == 404
