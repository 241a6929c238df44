"""An operator's own authority certifies the intermediate."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer, verifying
from registry.ca.authority import Authority, found_with
from registry.ca.bundle import read_trust
from registry.ca.external import accept, find_pending, take_pending
from registry.ca.keyring import IssuingKey
from registry.ca.rotating import Rotator
from registry.errors import ConfigError, Conflict
from registry.model.identity import WorkloadIdentity
from registry.model.rotation import Phase
from registry.store.memory import MemoryStore
from tests.registry.ca.company import Company
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, SetClock, new_key

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")


@pytest.fixture
def company() -> Company:
    return Company()


def accepted(
    key: ec.EllipticCurvePrivateKey, company: Company, *chain: x509.Certificate
) -> tuple[x509.Certificate, IssuingKey]:
    return accept(
        key,
        root_pem=company.root_pem,
        chain_pem="".join(map(issuer.to_pem, chain)),
        trust_domain=TRUST_DOMAIN,
        now=START,
    )


def test_request() -> None:
    """The request asks for an authority of path length 0, for our trust domain, and proves its key."""
    request = x509.load_pem_x509_csr(issuer.make_request(new_key(), trust_domain=TRUST_DOMAIN).encode())
    assert request.is_signature_valid
    constraints = request.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value, constraints.critical) == (x509.BasicConstraints(True, 0), True)
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{TRUST_DOMAIN}"]


class TestAccept:
    def test_plain(self, company: Company) -> None:
        """What the root certified directly is taken."""
        key = new_key()
        root, issuing = accepted(key, company, company.certify(key.public_key()))
        assert root == company.root
        assert (issuing.chain, issuing.cross) == ((), ())

    def test_between(self, company: Company) -> None:
        """An authority between stays in the chain, so that peers who know the root can follow it."""
        middle = Company("Company Issuing")
        above = company.certify(middle.key.public_key(), subject=middle.name, path_length=1)
        key = new_key()
        _, issuing = accepted(key, company, middle.certify(key.public_key()), above)
        assert issuing.chain == (above,)

    def test_cross(self, company: Company) -> None:
        """The root as another of its name certified it is for those who know only that one."""
        before = Company()
        cross = before.certify(company.key.public_key(), subject=company.name, path_length=2)
        key = new_key()
        _, issuing = accepted(key, company, company.certify(key.public_key()), cross)
        assert (issuing.chain, issuing.cross) == ((), (cross,))

    def test_trust_domain(self, company: Company) -> None:
        """An intermediate made out for our trust domain is taken, for another it is not."""
        key = new_key()
        for domain, says in ((TRUST_DOMAIN, None), ("other.test", "is for spiffe://other.test")):
            name = x509.UniformResourceIdentifier(f"spiffe://{domain}")
            certificate = company.certify(key.public_key(), names=(name,))
            if says is None:
                accepted(key, company, certificate)
            else:
                with pytest.raises(ConfigError, match=says):
                    accepted(key, company, certificate)

    def test_other_key(self, company: Company) -> None:
        """A certificate for another key than ours is told so."""
        with pytest.raises(ConfigError, match="not for the key that waits here"):
            accepted(new_key(), company, company.certify(new_key().public_key()))

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"authority": False}, "no authority"),
            ({"signs": False}, "keyCertSign"),
            ({"lifetime": timedelta(days=3)}, "less than 7 days"),
            ({"lifetime": timedelta(hours=-1)}, "not now"),
        ],
    )
    def test_unfit(self, company: Company, wrong: dict[str, object], says: str) -> None:
        """What could not sign leaves, or not for long, is refused with what is wrong."""
        key = new_key()
        with pytest.raises(ConfigError, match=says):
            accepted(key, company, company.certify(key.public_key(), **wrong))  # type: ignore[arg-type]

    def test_other_root(self, company: Company) -> None:
        """A chain that leads to another root is refused, although the roots have one name."""
        key = new_key()
        with pytest.raises(ConfigError, match="do not lead to the root"):
            accepted(key, company, Company().certify(key.public_key()))

    def test_no_root(self, company: Company) -> None:
        """What another authority certified is no root, although it has the root's name."""
        company.root = Company().certify(company.key.public_key(), subject=company.name, path_length=2)
        key = new_key()
        with pytest.raises(ConfigError, match="another authority has signed it"):
            accepted(key, company, company.certify(key.public_key()))

    def test_root_allows_none(self) -> None:
        """A root that allows no authority below it is found out by trying, before any node is refused."""
        company = Company(path_length=0)
        middle = Company("Company Issuing")
        above = company.certify(middle.key.public_key(), subject=middle.name, path_length=1)
        key = new_key()
        with pytest.raises(ConfigError, match="peers would not believe"):
            accepted(key, company, middle.certify(key.public_key()), above)

    @pytest.mark.parametrize(("root", "chain"), [("nonsense", None), (None, "nonsense")])
    def test_nonsense(self, company: Company, root: str | None, chain: str | None) -> None:
        """A file that is no PEM is named."""
        key = new_key()
        with pytest.raises(ConfigError, match=r"file holds no certificates"):
            accept(
                key,
                root_pem=root or company.root_pem,
                chain_pem=chain or issuer.to_pem(company.certify(key.public_key())),
                trust_domain=TRUST_DOMAIN,
                now=START,
            )


class TestMesh:
    @staticmethod
    async def found(store: MemoryStore, company: Company, clock: SetClock) -> Authority:
        """Found a mesh on the company's root."""
        pending = await take_pending(store, kek=KEK)
        root, issuing = accepted(pending.key, company, company.certify(pending.key.public_key()))
        founding = found_with(root, issuing, trust_domain=TRUST_DOMAIN, kek=KEK, now=START)
        assert await store.commit([*founding.conditions, pending.unchanged], founding.writes) is not None
        await store.delete(pending.unchanged.key)
        return await Authority.load(store, kek=KEK, clock=clock)

    async def test_pending(self, store: MemoryStore) -> None:
        """Asked again, the same key waits: the request certified first stays good."""
        assert await find_pending(store, kek=KEK) is None
        first = await take_pending(store, kek=KEK)
        second = await take_pending(store, kek=KEK)
        assert first.key.private_numbers() == second.key.private_numbers()

    async def test_no_root_key(self, store: MemoryStore, company: Company, clock: SetClock) -> None:
        """Leaves lead to the company's root, whose key is nowhere here."""
        authority = await self.found(store, company, clock)
        issued = authority.sign(new_key().public_key(), WEB, node="web-1")
        chain = x509.load_pem_x509_certificates(issued.chain_pem.encode())
        assert (
            verifying.verify_chain(chain, roots=[company.root], trust_domain=TRUST_DOMAIN, now=START) == WEB
        )
        assert len((await store.list("ca/keys/")).items) == 1
        for start in (Rotator.start_root, Rotator.start_intermediate):
            with pytest.raises(Conflict, match="ca csr"):
                await start(Rotator(store=store, authority=authority, clock=clock))

    async def test_next_intermediate(self, store: MemoryStore, company: Company, clock: SetClock) -> None:
        """Another intermediate of the same root issues at once, and no key waits any more."""
        authority = await self.found(store, company, clock)
        pending = await take_pending(store, kek=KEK)
        root, issuing = accepted(pending.key, company, company.certify(pending.key.public_key()))
        rotator = Rotator(store=store, authority=authority, clock=clock)
        begun = await rotator.install(root, issuing, instead_of=pending.unchanged)
        assert begun.phase is Phase.MOVING
        assert authority.issuing.certificate == issuing.certificate
        assert await find_pending(store, kek=KEK) is None

    async def test_next_root(self, store: MemoryStore, company: Company, clock: SetClock) -> None:
        """Another root is spread first, as one of ours would be."""
        authority = await self.found(store, company, clock)
        other = Company("Other Company")
        pending = await take_pending(store, kek=KEK)
        root, issuing = accepted(pending.key, other, other.certify(pending.key.public_key()))
        rotator = Rotator(store=store, authority=authority, clock=clock)
        begun = await rotator.install(root, issuing, instead_of=pending.unchanged)
        assert begun.phase is Phase.SPREADING
        assert set((await read_trust(store)).roots) == {company.root, other.root}
        for _ in range(2):
            assert await rotator.advance(force=True)
        assert (await read_trust(store)).roots == (other.root,)
