"""Who may enrol, what enrolment allows, and that a token is used once."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from trio.testing import MockClock

from registry.ca import issuer
from registry.ca.authority import Authority
from registry.ca.enrolment import Joined, Registrar
from registry.errors import Conflict, Forbidden, InvalidResource, RegistryError, Unauthenticated
from registry.model.enrolment import Enrolment, JoinToken
from registry.model.identity import NodeIdentity
from registry.model.parse import parse_as
from registry.store.memory import MemoryStore
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock, make_csr, make_proof, new_key

WEB = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"
API = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api"
HOUR = timedelta(hours=1)


async def new_token(registrar: Registrar, pattern: str = "web-*", *names: str, uses: int = 1) -> str:
    made = await registrar.create_token(
        pattern=pattern, identities=names or ("default/web",), ttl=HOUR, uses=uses
    )
    return str(made.text)


async def join(
    registrar: Registrar, token: str, node: str = "web-1", *, key: ec.EllipticCurvePrivateKey | None = None
) -> Joined:
    return await registrar.join(token=token, node=node, csr=make_csr(key or new_key()))


async def enrolled(store: MemoryStore, node: str = "web-1") -> Enrolment:
    item = await store.get(f"enrolments/{node}")
    assert item is not None
    return parse_as(Enrolment, item.value, where=item.key)


class TestCreateToken:
    async def test_only_the_hash_is_stored(self, registrar: Registrar, store: MemoryStore) -> None:
        """The store never sees the secret."""
        made = await registrar.create_token(pattern="web-*", identities=[], ttl=HOUR, uses=1)
        (item,) = (await store.list("tokens/")).items
        assert made.text.secret.encode() not in item.value
        assert made.expires == START + HOUR

    async def test_leased(self, registrar: Registrar, store: MemoryStore, autojump_clock: MockClock) -> None:
        """A token vanishes from the store after its time, whether anyone looks or not."""
        await new_token(registrar)
        await trio.sleep(HOUR.total_seconds() + 1)
        assert not (await store.list("tokens/")).items

    async def test_identities_in_full(self, registrar: Registrar, store: MemoryStore) -> None:
        """Short names are stored as the SPIFFE IDs they stand for, once each, in order."""
        await new_token(registrar, "web-*", "default/web", WEB, "default/api")
        (item,) = (await store.list("tokens/")).items
        assert parse_as(JoinToken, item.value, where=item.key).spec.identities == (API, WEB)

    @pytest.mark.parametrize(
        ("changes", "path"),
        [
            ({"pattern": "Web 1"}, "node"),
            ({"identities": ["web"]}, "identities[0]"),
            ({"identities": ["default/web", "spiffe://other.test/ns/default/sa/web"]}, "identities[1]"),
            ({"identities": [f"spiffe://{TRUST_DOMAIN}/node/web-1"]}, "identities[0]"),
            ({"ttl": timedelta(0)}, "ttlSeconds"),
            ({"ttl": timedelta(days=31)}, "ttlSeconds"),
            ({"uses": 0}, "uses"),
            ({"uses": 10_001}, "uses"),
        ],
    )
    async def test_mistakes(self, registrar: Registrar, changes: dict[str, Any], path: str) -> None:
        """A token that makes no sense is refused, naming the field."""
        asked: dict[str, Any] = {"pattern": "web-*", "identities": ["default/web"], "ttl": HOUR, "uses": 1}
        with pytest.raises(InvalidResource) as caught:
            await registrar.create_token(**asked | changes)
        assert caught.value.path == path


class TestJoin:
    async def test_certificate(self, registrar: Registrar) -> None:
        """A node gets its own identity for its own key, and is told what it may ask for."""
        key = new_key()
        joined = await join(registrar, await new_token(registrar), key=key)
        (leaf,) = x509.load_pem_x509_certificates(joined.issued.chain_pem.encode())
        assert leaf.public_key() == key.public_key()
        assert issuer.verify_chain(
            [leaf], roots=joined.trust.roots, trust_domain=TRUST_DOMAIN, now=START
        ) == NodeIdentity(TRUST_DOMAIN, "web-1")
        assert joined.identities == (WEB,)

    async def test_enrolment(self, registrar: Registrar, store: MemoryStore) -> None:
        """The enrolment lists the token's identities, from the moment the token is gone."""
        await join(registrar, await new_token(registrar))
        enrolment = await enrolled(store)
        assert (enrolment.spec.node, enrolment.spec.identities) == ("web-1", (WEB,))
        assert enrolment.spec.enrolled_at == "2026-03-01T12:00:00Z"
        assert not (await store.list("tokens/")).items

    async def test_used_up(self, registrar: Registrar) -> None:
        """A token for one use is of no use a second time."""
        token = await new_token(registrar)
        await join(registrar, token)
        with pytest.raises(Unauthenticated, match="used up"):
            await join(registrar, token, "web-2")

    async def test_several_uses(self, registrar: Registrar, store: MemoryStore) -> None:
        """A token for two uses lets two nodes in, and keeps its lease in between."""
        token = await new_token(registrar, uses=2)
        (before,) = (await store.list("tokens/")).items
        await join(registrar, token, "web-1")
        (after,) = (await store.list("tokens/")).items
        assert after.lease == before.lease
        await join(registrar, token, "web-2")
        with pytest.raises(Unauthenticated):
            await join(registrar, token, "web-3")

    @pytest.mark.parametrize("replicas", [1, 2])
    @pytest.mark.parametrize(("nodes", "uses"), [(2, 1), (20, 10)])
    async def test_race(
        self,
        registrar: Registrar,
        store: MemoryStore,
        authority: Authority,
        clock: SetClock,
        replicas: int,
        nodes: int,
        uses: int,
    ) -> None:
        """However many nodes race, through however many replicas, a token enrols as many as it has uses."""
        token = await new_token(registrar, uses=uses)
        all_replicas = [Registrar(store=store, authority=authority, clock=clock) for _ in range(replicas)]
        won: list[str] = []
        lost: list[RegistryError] = []

        async def attempt(number: int) -> None:
            try:
                joined = await join(all_replicas[number % replicas], token, f"web-{number}")
            except Unauthenticated as error:
                lost.append(error)
            else:
                won.append(joined.identity.name)

        async with trio.open_nursery() as nursery:
            for number in range(nodes):
                nursery.start_soon(attempt, number)
        assert (len(won), len(lost)) == (uses, nodes - uses)
        assert [item.key for item in (await store.list("enrolments/")).items] == sorted(
            f"enrolments/{name}" for name in won
        )

    async def test_race_for_a_name(
        self, registrar: Registrar, store: MemoryStore, authority: Authority, clock: SetClock
    ) -> None:
        """Of two nodes that race for one name with tokens of their own one gets it, and no token is lost."""
        lost: list[RegistryError] = []

        async def attempt(replica: Registrar) -> None:
            token = await new_token(replica)
            try:
                await join(replica, token)
            except Conflict as error:
                lost.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(attempt, Registrar(store=store, authority=authority, clock=clock))
        assert len(lost) == 1
        assert len((await store.list("tokens/")).items) == 1

    async def test_expired(self, registrar: Registrar, clock: SetClock) -> None:
        """A token whose time is over is refused, even while the store has not removed it yet."""
        token = await new_token(registrar)
        clock.advance(hours=1)
        with pytest.raises(Unauthenticated, match="expired"):
            await join(registrar, token)

    async def test_wrong_secret(self, registrar: Registrar, store: MemoryStore) -> None:
        """A token with another's secret is refused like one that does not exist."""
        token, other = await new_token(registrar), await new_token(registrar)
        mixed = ".".join((*token.split(".")[:2], *other.split(".")[2:]))
        with pytest.raises(Unauthenticated) as wrong:
            await join(registrar, mixed)
        unknown = token.replace(token.split(".")[1], "0" * 16)
        with pytest.raises(Unauthenticated) as missing:
            await join(registrar, unknown)
        assert str(wrong.value) == str(missing.value)
        assert len((await store.list("tokens/")).items) == 2

    async def test_wrong_pattern(self, registrar: Registrar, store: MemoryStore) -> None:
        """A token for other names is refused and stays good for them."""
        token = await new_token(registrar)
        with pytest.raises(Forbidden, match=r"web-\*"):
            await join(registrar, token, "api-1")
        assert not (await store.list("enrolments/")).items
        await join(registrar, token)

    @pytest.mark.parametrize("node", ["", "Web-1", "web/1", "web-1\n", "w" * 64])
    async def test_bad_name(self, registrar: Registrar, node: str) -> None:
        """What cannot be a node's name never becomes a key."""
        with pytest.raises(InvalidResource, match="no node name"):
            await join(registrar, await new_token(registrar, "*"), node)

    async def test_bad_request_costs_nothing(self, registrar: Registrar) -> None:
        """A malformed certificate request does not use the token up."""
        token = await new_token(registrar)
        with pytest.raises(InvalidResource):
            await registrar.join(token=token, node="web-1", csr="hello")
        await join(registrar, token)

    async def test_store_out_of_reach_costs_nothing(self, registrar: Registrar, store: MemoryStore) -> None:
        """With the store away a join fails and may be tried again."""
        token = await new_token(registrar)
        with store.outage(), pytest.raises(RegistryError):
            await join(registrar, token)
        await join(registrar, token)

    async def test_taken_name(self, registrar: Registrar, store: MemoryStore) -> None:
        """A token for many names does not take over a node that is enrolled, and is not used up by trying."""
        token = await new_token(registrar, uses=2)
        await join(registrar, token)
        before = await enrolled(store)
        with pytest.raises(Conflict, match="--node web-1"):
            await join(registrar, token)
        assert await enrolled(store) == before
        await join(registrar, token, "web-2")

    async def test_enrol_anew(self, registrar: Registrar, store: MemoryStore, clock: SetClock) -> None:
        """A token for exactly this name enrols it anew, with the new token's identities and no others."""
        await join(registrar, await new_token(registrar))
        clock.advance(minutes=1)
        await join(registrar, await new_token(registrar, "web-1", "default/api"))
        assert (await enrolled(store)).spec.identities == (API,)


class Node:
    """A node that has joined and asks for certificates."""

    def __init__(self, registrar: Registrar, clock: SetClock) -> None:
        self.registrar = registrar
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
        certified = await self.registrar.certify(
            proof=self.prove(body, **changes), body=body, identity=identity, csr=make_csr(new_key())
        )
        assert certified.identity == identity
        return x509.load_pem_x509_certificate(certified.issued.chain_pem.encode())


@pytest.fixture
async def node(registrar: Registrar, clock: SetClock) -> Node:
    node = Node(registrar, clock)
    await node.join(await new_token(registrar))
    return node


class TestCertify:
    async def test_listed_identity(self, node: Node) -> None:
        """A node gets certificates for what its enrolment lists."""
        certificate = await node.ask(WEB)
        assert str(issuer.identity_of(certificate, trust_domain=TRUST_DOMAIN)) == WEB

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
            await node.registrar.certify(proof=node.prove(b""), body=b"", identity=WEB, csr=csr)

    async def test_replay(self, node: Node) -> None:
        """A proof is good once."""
        await node.ask(WEB, jti="the-same-one")
        with pytest.raises(Unauthenticated, match="used before"):
            await node.ask(WEB, jti="the-same-one")

    async def test_failed_proof_is_not_remembered(self, node: Node) -> None:
        """Numbers are used up by the node's own proofs alone, never by somebody's forgeries."""
        forger = Node(node.registrar, node.clock)
        forger.chain = node.chain
        with pytest.raises(Unauthenticated, match="signature"):
            await forger.ask(WEB, jti="the-same-one")
        await node.ask(WEB, jti="the-same-one")

    async def test_expired_certificate(self, node: Node, clock: SetClock) -> None:
        """A node that was away for longer than its certificate's life must join again."""
        clock.advance(hours=25)
        with pytest.raises(Unauthenticated, match="not valid now"):
            await node.ask(WEB)

    async def test_enrolment_removed(self, node: Node, store: MemoryStore) -> None:
        """A node whose enrolment an operator removed gets nothing more, not even for itself."""
        await store.delete("enrolments/web-1")
        with pytest.raises(Forbidden, match="not enrolled"):
            await node.ask(f"spiffe://{TRUST_DOMAIN}/node/web-1")

    async def test_enrolment_narrowed(self, node: Node, store: MemoryStore) -> None:
        """An edit of the enrolment holds from the next request on."""
        item = await store.get("enrolments/web-1")
        assert item is not None
        await store.put(item.key, item.value.replace(WEB.encode(), API.encode()))
        with pytest.raises(Forbidden):
            await node.ask(WEB)
        await node.ask(API)

    async def test_enrolled_anew(self, node: Node, registrar: Registrar, clock: SetClock) -> None:
        """Whoever held a name before it was enrolled anew is shut out; who holds it now is not."""
        clock.advance(minutes=1)
        successor = Node(registrar, clock)
        await successor.join(await new_token(registrar, "web-1"))
        with pytest.raises(Forbidden, match="enrolled anew"):
            await node.ask(WEB)
        await successor.ask(WEB)

    async def test_ticking_clock(
        self, store: MemoryStore, authority: Authority, registrar: Registrar
    ) -> None:
        """A certificate is never mistaken for one from before its own enrolment, however slow the join."""
        seconds = iter(range(100))

        def ticking() -> datetime:
            return START + timedelta(seconds=next(seconds))

        token = await new_token(registrar)
        slow = Registrar(
            store=store, authority=await Authority.load(store, kek=KEK, clock=ticking), clock=ticking
        )
        node = Node(slow, SetClock())
        await node.join(token)
        await node.ask(WEB)
