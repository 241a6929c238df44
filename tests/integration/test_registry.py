"""The registry in this process, over a real etcd, with its real TLS and HTTP: how a node meets it."""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from registry.api.auth import new_administrator
from registry.ca.authority import Authority, make_founding
from registry.ca.enrolment import Registrar, Requests
from registry.ca.sealing import KeyFile
from registry.clock import utc_now
from registry.errors import Unauthenticated
from registry.listening import Address, listen
from registry.serving import serve
from registry.store.base import Changed, Removed, Store
from registry.store.config import EtcdConfig
from registry.store.etcd import EtcdStore, open_etcd
from tests.registry.ca.material import TRUST_DOMAIN, make_csr, make_proof, new_key

KEK = KeyFile(b"k" * 32)
NODE = f"spiffe://{TRUST_DOMAIN}/node/web-1"
WEB = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"


@dataclass(frozen=True)
class Served:
    """A registry that serves."""

    url: str
    store: Store
    authority: Authority
    admin_token: str

    @asynccontextmanager
    async def client(self, roots: str, *, http2: bool = False) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client that trusts `roots`, in PEM, and nothing else."""
        trust = ssl.create_default_context(cadata=roots)
        trust.set_alpn_protocols(["h2" if http2 else "http/1.1"])
        async with httpx.AsyncClient(base_url=self.url, verify=trust, trust_env=False, http2=http2) as client:
            yield client

    @property
    def as_admin(self) -> dict[str, str]:
        """Give the headers of an administrator's request."""
        return {"authorization": f"Bearer {self.admin_token}"}


@pytest.fixture
async def served(etcd_store: EtcdStore) -> AsyncIterator[Served]:
    founding = make_founding(trust_domain=TRUST_DOMAIN, kek=KEK, now=utc_now())
    token, administrator = new_administrator("admin", now=utc_now())
    assert await etcd_store.commit(founding.conditions, [*founding.writes, founding.sign(administrator)])
    authority = await Authority.load(etcd_store, kek=KEK, clock=utc_now)
    listener = listen(Address("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: serve(
                store=etcd_store, authority=authority, listener=listener, names=(), clock=utc_now, stop=stop
            )
        )
        yield Served(url, etcd_store, authority, token)
        stop.set()


async def fetch_roots(served: Served, fingerprint: str) -> str:
    """Do as a joiner does: fetch the bundle unverified, and believe the root that the token pins."""
    # The point of the fingerprint is that this first connection proves nothing.
    async with httpx.AsyncClient(base_url=served.url, verify=False, trust_env=False) as client:  # noqa: S501
        spec = (await client.get("/v1/ca/bundle")).json()["spec"]
    for pem in spec["rootsPem"]:
        der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
        if sha256(der).hexdigest() == fingerprint:
            return str(pem)
    raise AssertionError("no root has the fingerprint")


async def wait_value(store: Store, key: str, happened: Callable[[bytes], bool]) -> None:
    """Wait until what stands at `key` is as wanted."""
    listing = await store.list(key)
    found = [item.value for item in listing.items]
    with trio.fail_after(10):
        async with aclosing(store.watch(key, after=listing.revision)) as events:
            while not any(happened(value) for value in found):
                match await anext(events):
                    case Changed(item):
                        found = [item.value]
                    case Removed():
                        found = []


async def test_join_and_renew(served: Served) -> None:
    """A node joins with nothing but a token, and from then on gets certificates by its key."""
    async with served.client(await fetch_roots(served, served.authority.fingerprint)) as admin:
        asked = {"node": "web-*", "identities": ["default/web"]}
        token = (await admin.post("/v1/tokens", json=asked, headers=served.as_admin)).json()["token"]
    key = new_key()
    async with served.client(await fetch_roots(served, token.split(".")[-1])) as node:
        join = {"token": token, "node": "web-1", "csr": make_csr(key)}
        joined = (await node.post("/v1/join", json=join)).json()
        assert (await node.post("/v1/join", json=join)).status_code == 401
        chain = joined["certificate"]
        for identity in (*joined["identities"], NODE):
            body = json.dumps({"identity": identity, "csr": make_csr(new_key())}).encode()
            proof = make_proof(key, chain, identity=NODE, body=body, now=utc_now())
            answer = await node.post(
                "/v1/certificates", content=body, headers={"authorization": f"Bearer {proof}"}
            )
            assert answer.json()["identity"] == identity
    assert joined["identities"] == [WEB]


async def test_two_nodes_race(served: Served, etcd_endpoint: str, etcd_prefix: str) -> None:
    """Of nodes that race through two replicas for one use of a token one wins, in a real etcd too."""
    config = EtcdConfig(endpoints=(etcd_endpoint,), prefix=etcd_prefix)
    won: list[str] = []
    lost: list[str] = []

    async def attempt(registrar: Registrar, token: str, node: str) -> None:
        try:
            await registrar.join(token=token, node=node, requests=Requests(make_csr(new_key())))
        except Unauthenticated:
            lost.append(node)
        else:
            won.append(node)

    async with open_etcd(config) as second:
        replicas = [
            Registrar(store=store, authority=served.authority, clock=utc_now)
            for store in (served.store, second)
        ]
        for _ in range(5):
            made = await replicas[0].create_token(
                pattern="*", identities=(), ttl=timedelta(minutes=1), uses=1
            )
            async with trio.open_nursery() as nursery:
                for number, registrar in enumerate(replicas * 2):
                    node = f"n{made.text.id}-{number}"
                    nursery.start_soon(attempt, registrar, str(made.text), node)
    assert (len(won), len(lost)) == (5, 15)
    enrolments = await served.store.list("enrolments/")
    assert sorted(item.key for item in enrolments.items) == sorted(f"enrolments/{node}" for node in won)


async def test_controller_beside_the_api(served: Served) -> None:
    """A service written through the API gets its addresses from the controller, and lets go of them late."""
    status = "status/services/default/web"
    async with served.client(await fetch_roots(served, served.authority.fingerprint)) as admin:
        admin.headers.update(served.as_admin)
        service = {
            "apiVersion": "nodemesh/v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
        }
        assert (await admin.put("/v1/resources/services/default/web", json=service)).is_success
        await wait_value(served.store, status, lambda value: b"vips" in value)
        view = (await admin.get("/v1/services/default/web")).json()
        assert view["accepted"]
        assert len(view["vips"]) == 2
        assert (await admin.delete("/v1/resources/services/default/web")).is_success
        await wait_value(served.store, status, lambda value: b"releasedAt" in value)


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
async def test_versions(served: Served, http2: bool, version: str) -> None:
    """HTTP/1.1 and HTTP/2 are spoken, over TLS that the mesh's root vouches for."""
    async with served.client(await fetch_roots(served, served.authority.fingerprint), http2=http2) as client:
        response = await client.get("/readyz")
    assert (response.status_code, response.http_version) == (200, version)


async def test_stranger(served: Served) -> None:
    """A registry of another root is not believed."""
    other = make_founding(trust_domain=TRUST_DOMAIN, kek=KEK, now=utc_now())
    async with served.client(other.root_pem) as client:
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get("/healthz")
    causes = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(type(error))
        error = error.__cause__ or error.__context__
    assert ssl.SSLCertVerificationError in causes
