"""Joining and certificates, as a node meets them over HTTP."""

import json
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer, verifying
from registry.store.memory import MemoryStore
from tests.registry.ca.material import START, TRUST_DOMAIN, SetClock, make_csr, make_proof, new_key

NODE = f"spiffe://{TRUST_DOMAIN}/node/web-1"
WEB = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"


async def new_token(admin: httpx.AsyncClient, **changes: Any) -> str:
    asked = {"node": "web-*", "identities": ["default/web"], "ttlSeconds": 3600, "uses": 1} | changes
    response = await admin.post("/v1/tokens", json=asked)
    assert response.status_code == 200, response.text
    token: str = response.json()["token"]
    return token


async def join(
    client: httpx.AsyncClient, token: str, key: ec.EllipticCurvePrivateKey, node: str = "web-1"
) -> httpx.Response:
    return await client.post("/v1/join", json={"token": token, "node": node, "csr": make_csr(key)})


async def test_token(admin: httpx.AsyncClient) -> None:
    """A new token is answered whole, with its id and its end."""
    response = await admin.post("/v1/tokens", json={"node": "web-*", "identities": ["default/web"]})
    answer = response.json()
    assert set(answer) == {"id", "token", "expiresAt"}
    assert answer["token"].split(".")[:2] == ["nm1", answer["id"]]
    assert answer["expiresAt"] == "2026-03-01T13:00:00Z"


async def test_bundle(admin: httpx.AsyncClient) -> None:
    """Anyone may have the roots, and checks them by the fingerprint in a token."""
    token = await new_token(admin)
    del admin.headers["authorization"]
    response = await admin.get("/v1/ca/bundle")
    assert response.headers["content-type"] == "application/json"
    spec = response.json()["spec"]
    (root,) = (x509.load_pem_x509_certificate(pem.encode()) for pem in spec["rootsPem"])
    assert issuer.fingerprint(root) == token.split(".")[-1]
    assert spec["trustDomain"] == TRUST_DOMAIN


async def test_join(admin: httpx.AsyncClient) -> None:
    """A node that joins is answered with all that it needs from then on."""
    token = await new_token(admin)
    del admin.headers["authorization"]
    key = new_key()
    answer = (await join(admin, token, key)).json()
    leaf, intermediate = x509.load_pem_x509_certificates(answer.pop("certificate").encode())
    (root,) = (x509.load_pem_x509_certificate(pem.encode()) for pem in answer.pop("bundle"))
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()
    assert answer == {
        "node": "web-1",
        "identity": NODE,
        "identities": [WEB],
        "trustDomain": TRUST_DOMAIN,
        "generation": int(START.timestamp()),
        "notAfter": "2026-03-02T12:00:00Z",
        "etcdCertificate": None,
    }


async def test_join_for_etcd_too(admin: httpx.AsyncClient) -> None:
    """A node that asks for it gets its etcd client certificate with the rest."""
    key = new_key()
    asked = {"token": await new_token(admin), "node": "web-1", "csr": make_csr(new_key())}
    answer = (await admin.post("/v1/join", json=asked | {"etcdCsr": make_csr(key)})).json()
    leaf, _ = x509.load_pem_x509_certificates(answer["etcdCertificate"].encode())
    assert (leaf.public_key(), leaf.subject.rfc4514_string()) == (key.public_key(), "CN=node:web-1")


async def test_join_that_waits(admin: httpx.AsyncClient) -> None:
    """A join that an administrator must approve is accepted, not answered, until that is done."""
    token = await new_token(admin, requireApproval=True)
    asked = {"token": token, "node": "web-1", "csr": make_csr(new_key())}
    for _ in range(2):
        response = await admin.post("/v1/join", json=asked)
        assert (response.status_code, response.json()) == (202, {"node": "web-1"})
    (node,) = (await admin.get("/v1/nodes")).json()["items"]
    assert (node["pending"], node["identities"]) == (True, [WEB])
    approved = await admin.post("/v1/nodes/web-1/approve")
    assert approved.json() == {"node": "web-1", "identities": [WEB], "changed": True}
    assert (await admin.post("/v1/join", json=asked)).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"token": "nonsense"}, 401),
        ({"node": "api-1"}, 403),
        ({"node": "Web 1"}, 422),
        ({"csr": "nonsense"}, 422),
        ({"csr": make_csr(ec.generate_private_key(ec.SECP384R1()))}, 422),
        ({"extra": 1}, 422),
        ({"csr": None}, 422),
        ({"etcdCsr": "nonsense"}, 422),
    ],
)
async def test_join_refused(admin: httpx.AsyncClient, changes: dict[str, Any], status: int) -> None:
    """Whatever is wrong with a join, the status says whose fault it is, and the token stays good."""
    token = await new_token(admin)
    asked = {"token": token, "node": "web-1", "csr": make_csr(new_key())}
    response = await admin.post("/v1/join", json=asked | changes)
    assert response.status_code == status, response.text
    assert (await admin.post("/v1/join", json=asked)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/join", "/v1/certificates"])
async def test_large_body(anyone: httpx.AsyncClient, path: str) -> None:
    """Of those who are not known yet, large bodies are not read."""
    response = await anyone.post(path, content=b"x" * 70_000, headers={"authorization": "Bearer x"})
    assert response.status_code == 413


async def test_join_twice(admin: httpx.AsyncClient) -> None:
    """A used token is refused, a taken name is a conflict."""
    token = await new_token(admin, uses=2)
    assert (await join(admin, token, new_key())).status_code == 200
    assert (await join(admin, token, new_key())).status_code == 409
    assert (await join(admin, token, new_key(), "web-2")).status_code == 200
    assert (await join(admin, token, new_key(), "web-3")).status_code == 401


class TestCertificates:
    @pytest.fixture
    def key(self) -> ec.EllipticCurvePrivateKey:
        """Give the node's key."""
        return new_key()

    @pytest.fixture
    async def chain(self, admin: httpx.AsyncClient, key: ec.EllipticCurvePrivateKey) -> str:
        """Join, and give the node's certificate."""
        answer = (await join(admin, await new_token(admin), key)).json()
        chain: str = answer["certificate"]
        return chain

    @staticmethod
    async def ask(client: httpx.AsyncClient, body: bytes, proof: str | None) -> httpx.Response:
        """Ask for a certificate."""
        headers = {"content-type": "application/json"}
        if proof is not None:
            headers["authorization"] = f"Bearer {proof}"
        return await client.post("/v1/certificates", content=body, headers=headers)

    async def test_certificate(
        self, anyone: httpx.AsyncClient, chain: str, key: ec.EllipticCurvePrivateKey
    ) -> None:
        """A node gets a certificate for a listed identity, and its own renewed, by its key alone."""
        anyone.headers.pop("authorization")
        for identity in (WEB, NODE):
            new = new_key()
            body = json.dumps({"identity": identity, "csr": make_csr(new)}).encode()
            proof = make_proof(key, chain, identity=NODE, body=body, now=START)
            answer = (await self.ask(anyone, body, proof)).json()
            leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
            assert leaf.public_key() == new.public_key()
            assert str(verifying.identity_of(leaf, trust_domain=TRUST_DOMAIN)) == identity
            assert set(answer) == {"identity", "certificate", "bundle", "notAfter"}

    async def test_unlisted(
        self, anyone: httpx.AsyncClient, chain: str, key: ec.EllipticCurvePrivateKey
    ) -> None:
        """An identity that the enrolment does not list is forbidden."""
        identity = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/db"
        body = json.dumps({"identity": identity, "csr": make_csr(new_key())}).encode()
        proof = make_proof(key, chain, identity=NODE, body=body, now=START)
        assert (await self.ask(anyone, body, proof)).status_code == 403

    async def test_other_body(
        self, anyone: httpx.AsyncClient, chain: str, key: ec.EllipticCurvePrivateKey
    ) -> None:
        """A proof stolen on its way does not certify the thief's key."""
        body = json.dumps({"identity": WEB, "csr": make_csr(new_key())}).encode()
        proof = make_proof(key, chain, identity=NODE, body=body, now=START)
        thiefs = json.dumps({"identity": WEB, "csr": make_csr(new_key())}).encode()
        assert (await self.ask(anyone, thiefs, proof)).status_code == 401
        assert (await self.ask(anyone, body, proof)).status_code == 200
        assert (await self.ask(anyone, body, proof)).status_code == 401

    async def test_expired(
        self,
        anyone: httpx.AsyncClient,
        clock: SetClock,
        chain: str,
        key: ec.EllipticCurvePrivateKey,
    ) -> None:
        """An old proof is refused."""
        body = json.dumps({"identity": WEB, "csr": make_csr(new_key())}).encode()
        proof = make_proof(key, chain, identity=NODE, body=body, now=START)
        clock.advance(minutes=7)
        assert (await self.ask(anyone, body, proof)).status_code == 401

    @pytest.mark.parametrize("proof", [None, "nonsense", "a.b.c"])
    async def test_no_proof(self, anyone: httpx.AsyncClient, store: MemoryStore, proof: str | None) -> None:
        """Without a proof nothing is certified."""
        body = json.dumps({"identity": WEB, "csr": make_csr(new_key())}).encode()
        assert (await self.ask(anyone, body, proof)).status_code == 401
