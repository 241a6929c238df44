"""Changes of the trust bundle: revocations and federation."""

from datetime import timedelta

import msgspec
import pytest
from cryptography import x509

from registry.ca import issuer, verifying
from registry.ca.authority import Authority
from registry.ca.bundle import read_trust
from registry.ca.revoking import Editor, Kind, collect, federate, read_value, revoke, unfederate, unrevoke
from registry.errors import Conflict, InvalidResource, NotFound
from registry.model.enrolment import MAX_FEDERATED, MAX_REVOCATIONS, Revocation, TrustBundleSpec
from registry.model.identity import parse_identity
from registry.model.revocation import BACKDATE, MAX_LEAF_LIFETIME, CertificateFacts, RevocationList
from registry.store.memory import MemoryStore
from tests.registry.ca.material import START, TRUST_DOMAIN, SetClock, new_key

EMPTY = TrustBundleSpec(trust_domain=TRUST_DOMAIN, roots_pem=())
WEB = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/web"


def facts(
    *, certified: timedelta = timedelta(0), serials: tuple[int, ...] = (0x5F3A, 0xAB)
) -> CertificateFacts:
    """Give a certificate of default/web on web-1, issued `certified` after the revocation."""
    return CertificateFacts(
        identity=WEB, node="web-1", serials=serials, not_before=START + certified - BACKDATE
    )


class TestValue:
    @pytest.mark.parametrize(
        ("kind", "text", "value"),
        [
            ("node", "web-1", "web-1"),
            ("identity", "default/web", WEB),
            ("identity", WEB, WEB),
            ("serial", "5F:3A:09", "5f3a09"),
            ("serial", "0x005f3a", "5f3a"),
        ],
    )
    def test_read(self, kind: Kind, text: str, value: str) -> None:
        """What operators write comes to the one form that is compared."""
        assert read_value(kind, text, trust_domain=TRUST_DOMAIN) == value

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("node", "Web 1"),
            ("identity", "web"),
            ("identity", f"spiffe://{TRUST_DOMAIN}/node/web-1"),
            ("identity", "spiffe://other.test/ns/default/sa/web"),
            ("serial", ""),
            ("serial", "0"),
            ("serial", "xyz"),
            ("serial", "a" * 41),
        ],
    )
    def test_refused(self, kind: Kind, text: str) -> None:
        """What names nothing of the kind would revoke nothing, and is refused."""
        with pytest.raises(InvalidResource):
            read_value(kind, text, trust_domain=TRUST_DOMAIN)


class TestCovers:
    @pytest.mark.parametrize(("kind", "value"), [("node", "web-1"), ("identity", WEB)])
    def test_until_then(self, kind: Kind, value: str) -> None:
        """A node's or an identity's certificates until then are revoked, later ones hold."""
        spec = revoke(EMPTY, kind, value, reason="stolen", now=START)
        revocations = RevocationList(spec.revocations)
        assert revocations.find(facts(certified=timedelta(hours=-1))) is not None
        assert revocations.find(facts()) is not None
        assert revocations.find(facts(certified=timedelta(seconds=1))) is None

    def test_serial(self) -> None:
        """A serial is revoked for good, wherever it stands in the chain."""
        spec = revoke(EMPTY, "serial", "ab", reason="", now=START)
        assert RevocationList(spec.revocations).find(facts(certified=timedelta(days=300))) is not None
        assert RevocationList(spec.revocations).find(facts(serials=(0x5F3A,))) is None

    def test_others(self) -> None:
        """Revoking one node leaves the others alone."""
        spec = revoke(EMPTY, "node", "web-2", reason="", now=START)
        assert RevocationList(spec.revocations).find(facts()) is None

    def test_impossible_day(self) -> None:
        """A day that does not exist revokes, rather than not."""
        odd = Revocation(kind="node", value="web-1", revoked_at="2026-02-31T00:00:00Z")
        assert RevocationList((odd,)).find(facts()) is not None


class TestList:
    def test_again(self) -> None:
        """Revoked again, what was certified in between is revoked too, and the list stays as long."""
        once = revoke(EMPTY, "node", "web-1", reason="a", now=START)
        twice = revoke(once, "node", "web-1", reason="b", now=START + timedelta(hours=1))
        (only,) = twice.revocations
        assert (only.reason, only.revoked_at) == ("b", "2026-03-01T13:00:00Z")

    def test_lift(self) -> None:
        """A revocation lifted is gone; one that is not there cannot be."""
        spec = revoke(EMPTY, "node", "web-1", reason="", now=START)
        assert unrevoke(spec, "node", "web-1") == EMPTY
        with pytest.raises(NotFound, match="ca status"):
            unrevoke(EMPTY, "node", "web-1")

    def test_forgotten(self) -> None:
        """Nodes and identities are forgotten when their certificates are past any life; serials never."""
        spec = revoke(EMPTY, "node", "web-1", reason="", now=START)
        spec = revoke(spec, "serial", "ab", reason="", now=START)
        end = START + MAX_LEAF_LIFETIME + BACKDATE
        assert collect(spec, now=end - timedelta(seconds=1)) is spec
        assert [each.kind for each in collect(spec, now=end).revocations] == ["serial"]

    def test_full(self) -> None:
        """More than a bundle holds is refused, not cut off; what is forgotten makes room."""
        full = msgspec.structs.replace(
            EMPTY,
            revocations=tuple(
                Revocation(kind="node", value=f"n{number}", revoked_at="2026-03-01T12:00:00Z")
                for number in range(MAX_REVOCATIONS)
            ),
        )
        with pytest.raises(Conflict, match="unrevoke"):
            revoke(full, "node", "web-1", reason="", now=START)
        old = msgspec.structs.replace(full.revocations[0], expires_at="2026-03-01T12:00:00Z")
        room = msgspec.structs.replace(full, revocations=(old, *full.revocations[1:]))
        assert len(revoke(room, "node", "web-1", reason="", now=START).revocations) == MAX_REVOCATIONS


class TestFederation:
    @staticmethod
    def roots(trust_domain: str = "other.test") -> str:
        """Make another mesh's root."""
        root = issuer.make_root(new_key(), trust_domain=trust_domain, serial=1, now=START)
        return issuer.to_pem(root.certificate)

    def test_again(self) -> None:
        """Given anew, the other mesh's roots replace those before."""
        once = federate(EMPTY, "other.test", self.roots(), now=START)
        second = self.roots()
        (only,) = federate(once, "other.test", second, now=START).federated
        assert only.roots_pem == (second,)

    async def test_what_no_node_would_take(
        self, store: MemoryStore, authority: Authority, clock: SetClock
    ) -> None:
        """Our own trust domain, our own root, and what is no root: refused before it is written."""
        editor = Editor(store=store, authority=authority, clock=clock)
        before = (await read_trust(store)).revision
        ours = issuer.to_pem(authority.root)
        intermediate = issuer.to_pem(authority.issuing.certificate)
        for trust_domain, roots, says in (
            (TRUST_DOMAIN, self.roots(), "is this mesh's own"),
            ("other.test", ours, "has a root of this mesh"),
            ("other.test", intermediate, "another authority has signed it"),
        ):
            with pytest.raises(InvalidResource, match=says):
                await editor.federate(trust_domain, roots)
        assert (await read_trust(store)).revision == before

    async def test_no_authority(self, authority: Authority) -> None:
        """A leaf, or no certificate at all, is no root."""
        issued = authority.sign_server(new_key().public_key(), ["other.test"])
        leaf = issued.chain_pem.partition("-----END CERTIFICATE-----\n")
        with pytest.raises(InvalidResource, match="no authority"):
            federate(EMPTY, "other.test", leaf[0] + leaf[1], now=START)
        with pytest.raises(InvalidResource, match="no certificates"):
            federate(EMPTY, "other.test", "nonsense", now=START)

    def test_expired(self) -> None:
        """A root that is past its time is refused."""
        with pytest.raises(InvalidResource, match="not now"):
            federate(EMPTY, "other.test", self.roots(), now=START + timedelta(days=4000))

    def test_many(self) -> None:
        """There is a bound."""
        spec = EMPTY
        pem = self.roots()
        for number in range(MAX_FEDERATED):
            spec = federate(spec, f"other{number}.test", pem, now=START)
        with pytest.raises(Conflict):
            federate(spec, "one.more", pem, now=START)

    def test_end(self) -> None:
        """Ended, nothing of it is left; what was never there cannot end."""
        spec = federate(EMPTY, "other.test", self.roots(), now=START)
        assert unfederate(spec, "other.test") == EMPTY
        with pytest.raises(NotFound):
            unfederate(EMPTY, "other.test")


async def test_carried_out(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """What is revoked stands in the bundle, beside the roots and the issuer that were there."""
    before = (await read_trust(store)).spec
    editor = Editor(store=store, authority=authority, clock=clock)
    revocation = await editor.revoke("identity", "default/web", reason="leaked")
    spec = (await read_trust(store)).spec
    assert spec == msgspec.structs.replace(
        before, revocations=(revocation,), generation=before.generation + 1
    )


async def test_generation(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """Each change is of a higher generation; also after a backup from before the last ones was put back."""
    editor = Editor(store=store, authority=authority, clock=clock)
    backup = await store.get("ca/bundle")
    assert backup is not None
    seen = [(await read_trust(store)).spec.generation]
    for serial in ("1", "2", "3"):
        await editor.revoke("serial", serial, reason="")
        seen.append((await read_trust(store)).spec.generation)
    assert seen == sorted(set(seen))
    clock.advance(seconds=10)
    await store.put("ca/bundle", backup.value)
    await editor.revoke("serial", "4", reason="")
    assert (await read_trust(store)).spec.generation > seen[-1]


async def test_collecting_writes_nothing(store: MemoryStore, authority: Authority, clock: SetClock) -> None:
    """Where nothing is to be forgotten no node is bothered with another bundle."""
    editor = Editor(store=store, authority=authority, clock=clock)
    before = (await read_trust(store)).revision
    await editor.collect()
    assert (await read_trust(store)).revision == before


async def test_chain_of_ours(authority: Authority) -> None:
    """The facts of a leaf of ours name its node and the serials of leaf and intermediate."""
    identity = parse_identity(WEB)
    chain = x509.load_pem_x509_certificates(
        authority.sign(new_key().public_key(), identity, node="web-1").chain_pem.encode()
    )
    found = verifying.facts_of(chain, identity)
    assert (found.node, found.identity) == ("web-1", WEB)
    assert found.serials == (chain[0].serial_number, chain[1].serial_number)
