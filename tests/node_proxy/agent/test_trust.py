"""Which trust bundles a node takes."""

from datetime import timedelta

import pytest

from node_proxy.agent.credentials import new_key
from node_proxy.agent.in_use import InUse, Standing
from node_proxy.agent.state import MeshState
from node_proxy.agent.trust import Trust, acceptable, continues, fingerprints, trust_of
from registry.ca import issuer
from registry.errors import InvalidResource
from registry.model.enrolment import FederatedDomain, Revocation, TrustBundle, TrustBundleSpec
from registry.model.identity import WorkloadIdentity
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from tests.node_proxy.agent.documents import TRUST_DOMAIN, changed, relisted
from tests.node_proxy.agent.material import NOON, make_authority

OLD, NEW, OTHER = make_authority(), make_authority(), make_authority()
TRUSTED = Trust(roots=(OLD.root_pem,))
KEY = "ca/bundle"


def bundle(
    *roots: str,
    trust_domain: str = TRUST_DOMAIN,
    federated: tuple[FederatedDomain, ...] = (),
    revocations: tuple[Revocation, ...] = (),
    generation: int = 0,
) -> TrustBundle:
    """Give a bundle of these roots."""
    return TrustBundle(
        api_version=NODEMESH,
        kind=TrustBundle.KIND,
        metadata=Metadata(name="bundle", namespace=ROOT_NAMESPACE),
        spec=TrustBundleSpec(
            trust_domain=trust_domain,
            roots_pem=roots,
            federated=federated,
            revocations=revocations,
            generation=generation,
        ),
    )


def partner(*roots: str, trust_domain: str = "partner.example") -> FederatedDomain:
    """Give another mesh."""
    return FederatedDomain(trust_domain=trust_domain, roots_pem=roots)


def leaf_pem() -> str:
    """Give a certificate that is no authority's."""
    return OLD.chain(new_key(), WorkloadIdentity(TRUST_DOMAIN, "default", "web"))


def expired_root() -> str:
    """Give a root whose life is over."""
    then = NOON - timedelta(days=4000)
    made = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=3, now=then)
    return issuer.to_pem(made.certificate)


def crossed_root() -> str:
    """Give the new root as the old one certified it."""
    made = issuer.cross_certify(OLD.signer, NEW.signer.certificate, serial=4, now=NOON)
    return issuer.to_pem(made)


@pytest.mark.parametrize(
    "roots",
    [(OLD.root_pem,), (OLD.root_pem, NEW.root_pem), (NEW.root_pem, OLD.root_pem)],
    ids=["the same", "one more", "in another order"],
)
def test_what_continues_is_taken(roots: tuple[str, ...]) -> None:
    """A bundle that keeps a root this node trusts may bring others."""
    acceptable(bundle(*roots), TRUSTED, trust_domain=TRUST_DOMAIN)


def test_rotation_step_by_step() -> None:
    """Old, both, new: each step continues from the one before; from old to new at once none does."""
    trusted: tuple[str, ...] = (OLD.root_pem,)
    for step in ((OLD.root_pem, NEW.root_pem), (NEW.root_pem,)):
        acceptable(bundle(*step), Trust(roots=trusted), trust_domain=TRUST_DOMAIN)
        trusted = step
    with pytest.raises(InvalidResource, match="has no root in common"):
        acceptable(bundle(OLD.root_pem), Trust(roots=trusted), trust_domain=TRUST_DOMAIN)


@pytest.mark.parametrize(
    ("offered", "complaint"),
    [
        (bundle(NEW.root_pem), "spec.rootsPem: has no root in common"),
        (bundle(OLD.root_pem, trust_domain="else.where"), "spec.trustDomain: is 'else.where'"),
        (bundle(), "spec.rootsPem: is empty"),
        (bundle(OLD.root_pem, "nonsense"), "rootsPem[1]: is not one certificate"),
        (bundle(OLD.root_pem + NEW.root_pem), "rootsPem[0]: is not one certificate"),
        (bundle(OLD.root_pem, leaf_pem()), "rootsPem[1]: is no authority's certificate"),
        (bundle(OLD.root_pem, crossed_root()), "rootsPem[1]: is no root: another authority has signed it"),
        (bundle(OLD.root_pem, federated=(partner(),)), "federated[0].rootsPem: is empty"),
        (bundle(OLD.root_pem, federated=(partner(leaf_pem()),)), "is no authority's certificate"),
        (bundle(OLD.root_pem, federated=(partner(OLD.root_pem),)), "has a root of this mesh"),
        (
            bundle(OLD.root_pem, federated=(partner(OTHER.root_pem, trust_domain=TRUST_DOMAIN),)),
            "federated[0].trustDomain: 'nodemesh.local' is this mesh's own",
        ),
        (
            bundle(OLD.root_pem, federated=(partner(OTHER.root_pem), partner(NEW.root_pem))),
            "federated[1].trustDomain: 'partner.example' is listed twice",
        ),
    ],
)
def test_what_is_not_taken(offered: TrustBundle, complaint: str) -> None:
    """A bundle that does not continue, or would let the wrong ones vouch, is refused for that."""
    with pytest.raises(InvalidResource) as caught:
        acceptable(offered, TRUSTED, trust_domain=TRUST_DOMAIN)
    assert complaint in str(caught.value)


def test_node_that_trusts_nobody_takes_nothing() -> None:
    """Without a root of its own a node believes no bundle."""
    with pytest.raises(InvalidResource, match=r"no root in common with those this node trusts \(none\)"):
        acceptable(bundle(OLD.root_pem), Trust(roots=()), trust_domain=TRUST_DOMAIN)


def test_old_root_is_a_root_still() -> None:
    """Dates are looked at when a chain is verified: an expired root in the bundle harms nobody."""
    acceptable(bundle(OLD.root_pem, expired_root()), TRUSTED, trust_domain=TRUST_DOMAIN)


def test_bad_bundle_keeps_the_last_good_one() -> None:
    """What is not acceptable is a rejection; the bundle before stays in force until the next good one."""
    trusted = [OLD.root_pem]
    state = MeshState(trust_domain=TRUST_DOMAIN, trust=lambda: Trust(roots=tuple(trusted)))
    good = bundle(OLD.root_pem, NEW.root_pem)
    state.apply(relisted(5, changed(KEY, good, 5)))
    assert state.get(KEY, TrustBundle) == good
    assert state.rejections() == ()
    for revision, bad in ((6, bundle(OTHER.root_pem)), (7, b"{nonsense")):
        state.apply(changed(KEY, bad, revision, created=5))
        assert state.get(KEY, TrustBundle) == good
        (rejection,) = state.rejections()
        assert (rejection.key, rejection.last_good_revision) == (KEY, 5)
    trusted = [OLD.root_pem, NEW.root_pem]
    state.apply(changed(KEY, bundle(NEW.root_pem), 8, created=5))
    assert state.rejections() == ()


def revoked(name: str) -> Revocation:
    """Give the revocation of a node."""
    return Revocation(kind="node", value=name, revoked_at="2026-03-01T12:00:00Z")


class TestGeneration:
    HELD = bundle(OLD.root_pem, revocations=(revoked("web-1"),), generation=7)

    @pytest.mark.parametrize(
        "offered",
        [
            HELD,
            bundle(OLD.root_pem, generation=8),
            bundle(OLD.root_pem.replace("\n", "\r\n"), revocations=(revoked("web-1"),), generation=7),
        ],
        ids=["the same", "a newer", "the same, written otherwise"],
    )
    def test_taken(self, offered: TrustBundle) -> None:
        """A newer bundle is taken, and the one that is held."""
        acceptable(offered, trust_of(self.HELD.spec), trust_domain=TRUST_DOMAIN)

    @pytest.mark.parametrize(
        ("offered", "complaint"),
        [
            (bundle(OLD.root_pem, generation=6), "spec.generation: is 6, older than 7"),
            (bundle(OLD.root_pem), "spec.generation: is 0, older than 7"),
            (bundle(OLD.root_pem, generation=7), "is 7, under which this node has taken another bundle"),
        ],
    )
    def test_refused(self, offered: TrustBundle, complaint: str) -> None:
        """An older bundle, and another of the same generation, is refused: it may revoke less."""
        with pytest.raises(InvalidResource) as caught:
            acceptable(offered, trust_of(self.HELD.spec), trust_domain=TRUST_DOMAIN)
        assert complaint in str(caught.value)

    def test_before_there_were_any(self) -> None:
        """Among bundles without a generation any is taken that continues, and then one that has it."""
        held = trust_of(bundle(OLD.root_pem, revocations=(revoked("web-1"),)).spec)
        for generation in (0, 1):
            acceptable(bundle(OLD.root_pem, generation=generation), held, trust_domain=TRUST_DOMAIN)

    def test_replay_is_a_rejection(self) -> None:
        """The bundle from before, written back, is a rejection; so it is before the first is taken over."""
        state = MeshState(trust_domain=TRUST_DOMAIN, trust=lambda: TRUSTED)
        old = bundle(OLD.root_pem, generation=6)
        state.apply(relisted(5, changed(KEY, old, 5)))
        state.apply(changed(KEY, self.HELD, 6, created=5))
        state.apply(changed(KEY, old, 7, created=5))
        assert state.get(KEY, TrustBundle) == self.HELD
        (rejection,) = state.rejections()
        assert (rejection.key, rejection.last_good_revision) == (KEY, 6)
        assert "older than 7" in rejection.reason


@pytest.mark.parametrize(
    ("offered", "verdict"),
    [((OLD.root_pem, NEW.root_pem), True), ((NEW.root_pem,), False), (("nonsense",), False), ((), False)],
)
def test_roots_from_the_registry(offered: tuple[str, ...], verdict: bool) -> None:
    """What the registry's answer says of roots is held to the same rule."""
    assert continues(offered, (OLD.root_pem,)) is verdict


def test_fingerprints() -> None:
    """Roots are named by the SHA-256 of their DER, as join tokens pin them."""
    expected = [issuer.fingerprint(each.signer.certificate) for each in (OLD, NEW)]
    assert list(fingerprints((OLD.root_pem, NEW.root_pem))) == sorted(expected)


class TestInUse:
    def test_nobody_runs(self) -> None:
        """Without workers nothing is in use."""
        in_use = InUse()
        in_use.give(roots=["r"], issuers=["i"])
        assert in_use.by([]) == Standing()

    def test_workers_between_two_updates(self) -> None:
        """A root counts when every worker trusts it, an issuer as long as any worker presents it."""
        in_use = InUse()
        first = in_use.give(roots=["old"], issuers=["before"])
        second = in_use.give(roots=["old", "new"], issuers=["after"])
        assert in_use.by([first, second]) == Standing(frozenset({"old"}), frozenset({"before", "after"}))
        assert in_use.by([second, second]) == Standing(frozenset({"old", "new"}), frozenset({"after"}))

    def test_what_was_never_given(self) -> None:
        """A worker that has said nothing of its credentials counts for nothing."""
        in_use = InUse()
        number = in_use.give(roots=["r"], issuers=["i"])
        assert in_use.by([0, number]) == Standing(frozenset({"r"}), frozenset({"i"}))
