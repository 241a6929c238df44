"""What an enrolled node gets certificates for, and what not."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import verifying
from registry.ca.authority import Authority
from registry.ca.certifying import Certifier
from registry.ca.enrolment import Registrar
from registry.ca.nodes import NodeEditor
from registry.errors import ConfigError, Forbidden, InvalidResource, Unauthenticated
from registry.model.signature import ResourceSigner
from registry.store.base import KeyValue
from registry.store.memory import MemoryStore
from tests.fakes.signers import MeshKeys
from tests.registry.ca.joining import API, WEB, join, new_token
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock, make_csr, make_proof, new_key


class Node:
    """A node that has joined and asks for certificates."""

    def __init__(self, registrar: Registrar, certifier: Certifier, clock: SetClock) -> None:
        self.registrar = registrar
        self.certifier = certifier
        self.clock = clock
        self.key = new_key()
        self.chain = ""

    async def join(self, token: str) -> None:
        """Join as web-1."""
        self.chain = (await join(self.registrar, token, key=self.key)).issued.chain_pem

    def prove(self, body: bytes, **changes: Any) -> str:
        """Prove possession of its key for a request."""
        identity = f"spiffe://{TRUST_DOMAIN}/node/web-1"
        return make_proof(self.key, self.chain, identity=identity, body=body, now=self.clock(), **changes)

    async def ask(self, identity: str, **changes: Any) -> x509.Certificate:
        """Ask for a certificate, with a new key."""
        body = identity.encode()
        certified = await self.certifier.certify(
            proof=self.prove(body, **changes), body=body, identity=identity, csr=make_csr(new_key())
        )
        assert certified.identity == identity
        return x509.load_pem_x509_certificate(certified.issued.chain_pem.encode())


@pytest.fixture
async def node(registrar: Registrar, certifier: Certifier, clock: SetClock) -> Node:
    node = Node(registrar, certifier, clock)
    await node.join(await new_token(registrar))
    return node


class TestCertify:
    async def test_listed_identity(self, node: Node) -> None:
        """A node gets certificates for what its enrolment lists."""
        certificate = await node.ask(WEB)
        assert str(verifying.identity_of(certificate, trust_domain=TRUST_DOMAIN)) == WEB

    async def test_own_identity(self, node: Node, clock: SetClock) -> None:
        """A node renews its own certificate with the one it has."""
        clock.advance(hours=23)
        certificate = await node.ask(f"spiffe://{TRUST_DOMAIN}/node/web-1")
        assert certificate.not_valid_after_utc == START + timedelta(hours=47)

    @pytest.mark.parametrize(
        "identity",
        [API, f"spiffe://{TRUST_DOMAIN}/node/web-2", "spiffe://other.test/ns/default/sa/web"],
    )
    async def test_unlisted_identity(self, node: Node, identity: str) -> None:
        """A node gets no certificate for what its enrolment does not list, and learns what it does."""
        with pytest.raises(Forbidden, match=WEB):
            await node.ask(identity)

    @pytest.mark.parametrize("identity", ["", "default/web", "spiffe://mesh.test/ns/default"])
    async def test_no_identity(self, node: Node, identity: str) -> None:
        """What is no identity is a malformed request."""
        with pytest.raises(InvalidResource):
            await node.ask(identity)

    async def test_bad_request(self, node: Node) -> None:
        """A request for a key on another curve is refused."""
        csr = make_csr(ec.generate_private_key(ec.SECP384R1()))
        with pytest.raises(InvalidResource, match="P-256"):
            await node.certifier.certify(proof=node.prove(b""), body=b"", identity=WEB, csr=csr)

    async def test_replay(self, node: Node) -> None:
        """A proof is good once."""
        await node.ask(WEB, jti="the-same-one")
        with pytest.raises(Unauthenticated, match="used before"):
            await node.ask(WEB, jti="the-same-one")

    async def test_failed_proof_is_not_remembered(self, node: Node) -> None:
        """Numbers are used up by the node's own proofs alone, never by somebody's forgeries."""
        forger = Node(node.registrar, node.certifier, node.clock)
        forger.chain = node.chain
        with pytest.raises(Unauthenticated, match="signature"):
            await forger.ask(WEB, jti="the-same-one")
        await node.ask(WEB, jti="the-same-one")

    async def test_expired_certificate(self, node: Node, clock: SetClock) -> None:
        """A node that was away for longer than its certificate's life must join again."""
        clock.advance(hours=25)
        with pytest.raises(
            Unauthenticated, match="expired at 2026-03-02T12:00:00Z, it is 2026-03-02T13:00:00Z"
        ):
            await node.ask(WEB)

    async def test_enrolment_removed(self, node: Node, store: MemoryStore) -> None:
        """A node whose enrolment an operator removed gets nothing more, not even for itself."""
        await store.delete("enrolments/web-1")
        with pytest.raises(Forbidden, match="not enrolled"):
            await node.ask(f"spiffe://{TRUST_DOMAIN}/node/web-1")

    async def test_enrolment_narrowed(self, node: Node, nodes: NodeEditor) -> None:
        """A change of the enrolment holds from the next request on."""
        await nodes.forbid("web-1", ["default/web"])
        await nodes.allow("web-1", ["default/api"])
        with pytest.raises(Forbidden):
            await node.ask(WEB)
        await node.ask(API)

    async def test_enrolment_forged(self, node: Node, store: MemoryStore) -> None:
        """A node gets nothing by an enrolment that it wrote into etcd, signed by itself or a stranger."""
        item = await store.get("enrolments/web-1")
        assert item is not None
        more = item.value.replace(WEB.encode(), API.encode())
        stranger = MeshKeys(TRUST_DOMAIN, now=START)
        itself = ResourceSigner(node.key, tuple(x509.load_pem_x509_certificates(node.chain.encode())))
        for forged in (more, stranger.authority.sign(item.key, more), itself.sign(item.key, more)):
            await store.put(item.key, forged)
            with pytest.raises(Forbidden, match="does not count"):
                await node.ask(API)

    async def test_bundle_forged(self, node: Node, store: MemoryStore) -> None:
        """A root that somebody wrote into the bundle vouches for nobody."""
        stranger = MeshKeys(TRUST_DOMAIN, now=START)
        await store.put("ca/bundle", stranger.bundle())
        with pytest.raises(ConfigError, match="not signed by this mesh"):
            await node.ask(WEB)

    async def test_enrolment_changes_meanwhile(
        self, store: MemoryStore, authority: Authority, node: Node, nodes: NodeEditor, clock: SetClock
    ) -> None:
        """A certificate that was signed while its identity was taken away is not handed out."""
        signs = authority.sign
        taken = trio.Event()

        class Meanwhile(MemoryStore):
            async def get(self, key: str) -> KeyValue | None:
                if key == "enrolments/web-1" and signed and not taken.is_set():
                    taken.set()
                    await nodes.forbid("web-1", ["default/web"])
                return await store.get(key)

        signed: list[bool] = []
        late = Meanwhile()
        certifier = Certifier(store=late, authority=authority, clock=clock)

        def sign(*arguments: Any, **more: Any) -> Any:
            signed.append(True)
            return signs(*arguments, **more)

        authority.sign = sign  # type: ignore[method-assign]
        node.certifier = certifier
        with pytest.raises(Forbidden):
            await node.ask(WEB)

    async def test_enrolled_anew(self, node: Node, registrar: Registrar, clock: SetClock) -> None:
        """Whoever held a name before it was enrolled anew is shut out; who holds it now is not."""
        clock.advance(minutes=1)
        successor = Node(registrar, node.certifier, clock)
        await successor.join(await new_token(registrar, "web-1"))
        with pytest.raises(Forbidden, match="enrolled anew"):
            await node.ask(WEB)
        await successor.ask(WEB)

    async def test_ticking_clock(self, store: MemoryStore, registrar: Registrar) -> None:
        """A certificate is never mistaken for one from before its own enrolment, however slow the join."""
        seconds = iter(range(100))

        def ticking() -> datetime:
            return START + timedelta(seconds=next(seconds))

        token = await new_token(registrar)
        authority = await Authority.load(store, kek=KEK, clock=ticking)
        slow = Registrar(store=store, authority=authority, clock=ticking)
        node = Node(slow, Certifier(store=store, authority=authority, clock=ticking), SetClock())
        await node.join(token)
        await node.ask(WEB)


class TestEtcd:
    async def ask(self, node: Node, **changes: Any) -> x509.Certificate:
        """Ask for a certificate for etcd."""
        certified = await node.certifier.certify_etcd(
            proof=node.prove(b"", **changes), body=b"", csr=make_csr(new_key())
        )
        assert certified.user == "node:web-1"
        return x509.load_pem_x509_certificate(certified.issued.chain_pem.encode())

    async def test_for_etcd_alone(self, node: Node) -> None:
        """The certificate names the etcd user and no identity, so that no peer of a tunnel takes it."""
        certificate = await self.ask(node)
        assert certificate.subject.rfc4514_string() == "CN=node:web-1"
        with pytest.raises(Unauthenticated, match="no alternative name"):
            verifying.identity_of(certificate, trust_domain=TRUST_DOMAIN)

    async def test_identities_are_no_users(self, node: Node) -> None:
        """A certificate of an identity has no common name, so that etcd takes it for nobody."""
        assert not (await node.ask(WEB)).subject.rdns

    async def test_proof(self, node: Node, nodes: NodeEditor) -> None:
        """It takes the same proof as any other certificate, and an enrolment."""
        await self.ask(node, jti="the-same-one")
        with pytest.raises(Unauthenticated, match="used before"):
            await self.ask(node, jti="the-same-one")
        await nodes.revoke("web-1", reason="")
        with pytest.raises(Unauthenticated, match="revoked"):
            await self.ask(node)
