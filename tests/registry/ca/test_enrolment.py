"""Who may enrol, what enrolment allows, and that a token is used once."""

from datetime import timedelta
from typing import Any

import pytest
import trio
from cryptography import x509
from trio.testing import MockClock

from registry.ca import verifying
from registry.ca.authority import Authority
from registry.ca.enrolment import Joined, Registrar, Requests, Waiting
from registry.ca.nodes import NodeEditor
from registry.errors import Conflict, Forbidden, InvalidResource, RegistryError, Unauthenticated
from registry.model.enrolment import Enrolment, JoinToken
from registry.model.identity import NodeIdentity
from registry.model.parse import parse_as, render
from registry.store.memory import MemoryStore
from registry.store.signed import unsigned
from tests.fakes.signers import MeshKeys
from tests.registry.ca.joining import API, HOUR, WEB, join, new_token
from tests.registry.ca.material import START, TRUST_DOMAIN, SetClock, make_csr, new_key


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
        leaf, *rest = x509.load_pem_x509_certificates(joined.issued.chain_pem.encode())
        assert leaf.public_key() == key.public_key()
        assert verifying.verify_chain(
            [leaf, *rest], roots=joined.trust.roots, trust_domain=TRUST_DOMAIN, now=START
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
            await registrar.join(token=token, node="web-1", requests=Requests("hello"))
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


class TestApproval:
    async def ask(self, registrar: Registrar, token: str, csr: str) -> Joined | Waiting:
        """Ask to be let in."""
        return await registrar.join(token=token, node="web-1", requests=Requests(csr))

    async def test_waits(self, registrar: Registrar, store: MemoryStore) -> None:
        """A node whose token asks for approval waits, however often it asks, and is enrolled for nothing."""
        token, csr = await new_token(registrar, require_approval=True), make_csr(new_key())
        for _ in range(3):
            assert await self.ask(registrar, token, csr) == Waiting("web-1")
        assert (await enrolled(store)).spec.pending
        assert not (await store.list("tokens/")).items

    async def test_approved(self, registrar: Registrar, nodes: NodeEditor, store: MemoryStore) -> None:
        """Once approved, the node that waits gets its certificate, once."""
        token, csr = await new_token(registrar, require_approval=True), make_csr(new_key())
        await self.ask(registrar, token, csr)
        await nodes.approve("web-1")
        joined = await self.ask(registrar, token, csr)
        assert isinstance(joined, Joined)
        assert joined.identities == (WEB,)
        assert not (await enrolled(store)).spec.pending
        with pytest.raises(Unauthenticated):
            await self.ask(registrar, token, csr)

    async def test_another_key(self, registrar: Registrar, nodes: NodeEditor) -> None:
        """Nobody but the key that waits gets the certificate, not even who has the token."""
        token, csr = await new_token(registrar, require_approval=True, uses=2), make_csr(new_key())
        await self.ask(registrar, token, csr)
        await nodes.approve("web-1")
        with pytest.raises(Conflict):
            await self.ask(registrar, token, make_csr(new_key()))
        assert isinstance(await self.ask(registrar, token, csr), Joined)

    async def test_turned_down(self, registrar: Registrar, nodes: NodeEditor) -> None:
        """A node that is revoked while it waits is told that its token is no good."""
        token, csr = await new_token(registrar, require_approval=True), make_csr(new_key())
        await self.ask(registrar, token, csr)
        assert await nodes.revoke("web-1", reason="")
        with pytest.raises(Unauthenticated):
            await self.ask(registrar, token, csr)

    async def test_never_over_a_living_node(self, registrar: Registrar, store: MemoryStore) -> None:
        """A token that asks for approval does not take a name over: the node that lives would be cut off."""
        await join(registrar, await new_token(registrar))
        token = await new_token(registrar, "web-1", require_approval=True)
        with pytest.raises(Conflict, match="meshctl node revoke web-1"):
            await self.ask(registrar, token, make_csr(new_key()))
        assert not (await enrolled(store)).spec.pending


class TestForged:
    async def test_token(self, registrar: Registrar, store: MemoryStore) -> None:
        """A token that somebody wrote into etcd lets nobody in."""
        text = await new_token(registrar)
        (item,) = (await store.list("tokens/")).items
        for forged in (
            render(unsigned(parse_as(JoinToken, item.value, where=""))),
            item.value.replace(b"sa/web", b"sa/api"),
            MeshKeys(TRUST_DOMAIN, now=START).authority.sign(item.key, item.value),
        ):
            await store.put(item.key, forged)
            with pytest.raises(Unauthenticated):
                await join(registrar, text)
        await store.put(item.key, item.value)
        await join(registrar, text)
