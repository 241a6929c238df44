"""A mesh's keys, made in the test: root, issuing intermediate, nodes. They sign as registry and agents do."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import issuer
from registry.model.enrolment import Enrolment, EnrolmentSpec, Revocation, TrustBundle, TrustBundleSpec
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.parse import render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata, Resource
from registry.model.signature import ResourceSigner
from registry.store.signed import Signatures

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class MeshKeys:
    """The keys of one mesh, its certificates valid from `now` on."""

    def __init__(self, trust_domain: str = "nodemesh.local", *, now: datetime = NOON) -> None:
        self.trust_domain = trust_domain
        self.now = now
        self.root = issuer.make_root(_key(), trust_domain=trust_domain, serial=_serial(), now=now)
        self.issuing = self.new_issuing()
        self._nodes: dict[str, ResourceSigner] = {}

    def new_issuing(self) -> issuer.Signer:
        """Make another intermediate."""
        return issuer.make_intermediate(
            self.root, _key(), trust_domain=self.trust_domain, serial=_serial(), now=self.now
        )

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The roots that readers trust."""
        return (self.root.certificate,)

    @property
    def authority(self) -> ResourceSigner:
        """The certificate authority's signer."""
        return ResourceSigner(self.issuing.key, (self.issuing.certificate,))

    def node(self, name: str) -> ResourceSigner:
        """The signer of a node."""
        if name not in self._nodes:
            self._nodes[name] = self.leaf(NodeIdentity(self.trust_domain, name), node=name)
        return self._nodes[name]

    def workload(self, account: str, *, node: str) -> ResourceSigner:
        """A signer with a workload's certificate, which may sign nothing."""
        return self.leaf(WorkloadIdentity(self.trust_domain, "default", account), node=node)

    def leaf(self, identity: Identity, *, node: str, now: datetime | None = None) -> ResourceSigner:
        """Issue a certificate."""
        key = _key()
        certificate = issuer.issue_leaf(
            self.issuing, key.public_key(), identity, node=node, serial=_serial(), now=now or self.now
        )
        return ResourceSigner(key, (certificate, self.issuing.certificate))

    def signatures(self) -> Signatures:
        """Give what readers of this mesh verify with."""
        return Signatures(trust_domain=self.trust_domain, roots=self.roots)

    def signed(self, place: str, resource: Resource) -> bytes:
        """Sign a resource as whoever may write to `place`."""
        folder, _, rest = place.partition("/")
        signer = self.node(rest.partition("/")[0]) if folder == "nodes" else self.authority
        return signer.sign(place, render(resource))

    def enrolment(self, node: str, *accounts: str, enrolled_at: datetime | None = None) -> bytes:
        """Give a signed enrolment for the accounts, in namespace default."""
        identities = tuple(f"spiffe://{self.trust_domain}/ns/default/sa/{account}" for account in accounts)
        return self.signed(
            f"enrolments/{node}", enrolment(node, *identities, enrolled_at=enrolled_at or self.now)
        )

    def bundle(self, *revocations: Revocation, roots: tuple[x509.Certificate, ...] = ()) -> bytes:
        """Give the signed trust bundle."""
        return self.signed("ca/bundle", bundle(self.trust_domain, roots or self.roots, *revocations))

    def enrolments(self, nodes: Mapping[str, tuple[str, ...]]) -> dict[str, bytes]:
        """Give signed enrolments by key."""
        return {f"enrolments/{node}": self.enrolment(node, *accounts) for node, accounts in nodes.items()}


def enrolment(node: str, *identities: str, enrolled_at: datetime = NOON) -> Enrolment:
    """Give an enrolment, not signed."""
    return Enrolment(
        api_version=NODEMESH,
        kind=Enrolment.KIND,
        metadata=Metadata(name=node, namespace=ROOT_NAMESPACE),
        spec=EnrolmentSpec(node=node, identities=identities, enrolled_at=f"{enrolled_at:%Y-%m-%dT%H:%M:%SZ}"),
    )


def bundle(trust_domain: str, roots: tuple[x509.Certificate, ...], *revocations: Revocation) -> TrustBundle:
    """Give a trust bundle, not signed."""
    return TrustBundle(
        api_version=NODEMESH,
        kind=TrustBundle.KIND,
        metadata=Metadata(name="bundle", namespace=ROOT_NAMESPACE),
        spec=TrustBundleSpec(
            trust_domain=trust_domain,
            roots_pem=tuple(issuer.to_pem(root) for root in roots),
            revocations=revocations,
        ),
    )


def revoked_node(name: str, *, at: datetime = NOON + timedelta(hours=1)) -> Revocation:
    """Give the revocation of a node."""
    return Revocation(kind="node", value=name, revoked_at=f"{at:%Y-%m-%dT%H:%M:%SZ}", reason="stolen")


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _serial() -> int:
    return x509.random_serial_number()
