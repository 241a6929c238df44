"""Which certificates are believed: real handshakes, with every kind of bad certificate."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from node_proxy.errors import HandshakeError, PeerIdentityError
from node_proxy.tunnel.peer import Peer
from node_proxy.tunnel.tls import TlsContexts
from node_proxy.tunnel.tls_stream import TlsStream
from registry.model.enrolment import FederatedDomain, Revocation
from registry.model.identity import WorkloadIdentity
from tests.fakes.context import tls_contexts
from tests.integration.certificates import (
    HOUR,
    TRUST_DOMAIN,
    Authority,
    Leaf,
    client_context,
    spiffe,
)
from tests.node_proxy.tunnel.handshakes import Sockets

WEB, API = spiffe("web"), spiffe("api")
PARTNER = "partner.example"
THEIRS = spiffe("web", trust_domain=PARTNER)
MINUTE = timedelta(minutes=1)
Refusal = HandshakeError | PeerIdentityError


async def as_client(sockets: Sockets, host: TlsContexts, leaf: Leaf, root_pem: str) -> Peer | Refusal:
    """Show `leaf` as a client of `host`."""
    outcome = await sockets.shake(client_context(leaf, root_pem), host.server())
    return _verdict(host, outcome.server)


async def as_server(sockets: Sockets, host: TlsContexts, leaf: Leaf, other: TlsContexts) -> Peer | Refusal:
    """Show `leaf`, the default of `other`, as a server that `host` calls."""
    outcome = await sockets.shake(host.client(API), other.server())
    return _verdict(host, outcome.client)


def _verdict(host: TlsContexts, end: TlsStream | HandshakeError) -> Peer | Refusal:
    if isinstance(end, HandshakeError):
        return end
    try:
        return host.peer(end)
    except (HandshakeError, PeerIdentityError) as error:
        return error


def reason_of(verdict: Peer | Refusal) -> str:
    """Give the word for a refusal."""
    return "accepted" if isinstance(verdict, Peer) else verdict.reason


def host_of(
    authority: Authority,
    *,
    federated: tuple[FederatedDomain, ...] = (),
    revocations: tuple[Revocation, ...] = (),
    clock: timedelta = timedelta(0),
) -> TlsContexts:
    """Give a host whose clock is wrong by `clock`."""
    return tls_contexts(
        authority,
        authority.issue(API),
        federated=federated,
        revocations=revocations,
        now=lambda: datetime.now(UTC) + clock,
    )


def fresh(authority: Authority) -> Leaf:
    """Give a certificate as it is issued just now: dated back by five minutes, good for a day."""
    return authority.issue(WEB, node="web-1", starts=-5 * MINUTE, ends=24 * HOUR)


def revoked(
    kind: Literal["node", "identity", "serial"], value: str, *, ago: timedelta = timedelta(0)
) -> Revocation:
    """Give a revocation of some time ago."""
    at = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Revocation(kind=kind, value=value, revoked_at=at, reason="laptop stolen")


@pytest.fixture(scope="module")
def root() -> Authority:
    """Give a root that allows one level of authorities below it."""
    return Authority("root", path_length=1)


@pytest.fixture(scope="module")
def issuing(root: Authority) -> Authority:
    """Give its intermediate, which may sign leaves only."""
    return Authority("issuing", above=root)


BAD: dict[str, tuple[Callable[[Authority], Leaf], str]] = {
    "no purpose": (lambda a: a.issue(WEB, purposes=()), "bad_certificate"),
    "other purpose": (
        lambda a: a.issue(WEB, purposes=(ExtendedKeyUsageOID.CODE_SIGNING,)),
        "bad_certificate",
    ),
    "an authority's": (lambda a: a.issue(WEB, ca=True, signs_certificates=True), "bad_certificate"),
    "signs certificates": (lambda a: a.issue(WEB, signs_certificates=True), "bad_certificate"),
    "of an intermediate below one": (
        lambda a: Authority("too deep", above=a).issue(WEB),
        "bad_certificate",
    ),
    "of a leaf": (lambda a: a.posing(a.issue(API)).issue(WEB), "bad_certificate"),
    "no SPIFFE ID": (lambda a: a.issue(WEB, uris=(), dns=("api.example",)), "bad_identity"),
    "two SPIFFE IDs": (lambda a: a.issue(WEB, uris=(WEB, API)), "bad_identity"),
    "a URI beside it": (lambda a: a.issue(WEB, uris=(WEB, "https://api.example/")), "bad_identity"),
    "no SPIFFE URI": (lambda a: a.issue(WEB, uris=("https://api.example/",)), "bad_identity"),
    "other path": (lambda a: a.issue(WEB, uris=("spiffe://nodemesh.local/pod/api",)), "bad_identity"),
    "other trust domain": (lambda a: a.issue(WEB, uris=(THEIRS,)), "trust_domain"),
    "expired": (lambda a: a.issue(WEB, starts=-25 * HOUR, ends=-HOUR), "expired"),
    "not yet valid": (lambda a: a.issue(WEB, starts=HOUR), "not_yet_valid"),
}


class TestBadCertificates:
    @pytest.mark.parametrize("which", BAD)
    async def test_client(self, sockets: Sockets, root: Authority, issuing: Authority, which: str) -> None:
        """A client that shows a certificate with one fault is refused, with the word for that fault."""
        make, reason = BAD[which]
        verdict = await as_client(sockets, host_of(root), make(issuing), root.root_pem)
        assert reason_of(verdict) == reason, verdict

    @pytest.mark.parametrize("which", BAD)
    async def test_server(self, sockets: Sockets, root: Authority, issuing: Authority, which: str) -> None:
        """So is a server."""
        make, reason = BAD[which]
        leaf = make(issuing)
        verdict = await as_server(sockets, host_of(root), leaf, tls_contexts(root, leaf))
        assert reason_of(verdict) == reason, verdict

    async def test_purpose_is_that_of_the_end(self, sockets: Sockets, root: Authority) -> None:
        """A server's certificate is none for a client, and the other way round."""
        server_only = root.issue(WEB, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))
        client_only = root.issue(WEB, purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,))
        host = host_of(root)
        for leaf, expected in ((server_only, "bad_certificate"), (client_only, "accepted")):
            assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == expected
        for leaf, expected in ((server_only, "accepted"), (client_only, "bad_certificate")):
            verdict = await as_server(sockets, host, leaf, tls_contexts(root, leaf))
            assert reason_of(verdict) == expected

    async def test_good_ones(self, sockets: Sockets, root: Authority, issuing: Authority) -> None:
        """A leaf of the intermediate and one of the root itself are accepted, DNS names do not matter."""
        for leaf in (issuing.issue(WEB, dns=("api.example",)), root.issue(WEB)):
            verdict = await as_client(sockets, host_of(root), leaf, root.root_pem)
            assert isinstance(verdict, Peer), verdict
            assert verdict.identity == WorkloadIdentity(TRUST_DOMAIN, "default", "web")


class TestClock:
    @pytest.mark.parametrize("clock", [-4 * MINUTE, 4 * MINUTE], ids=["slow", "fast"])
    async def test_four_minutes_off(self, sockets: Sockets, root: Authority, clock: timedelta) -> None:
        """A host whose clock is four minutes off accepts a certificate that was issued just now."""
        leaf = fresh(root)
        for verdict in (
            await as_client(sockets, host_of(root, clock=clock), leaf, root.root_pem),
            await as_server(sockets, host_of(root, clock=clock), leaf, tls_contexts(root, leaf)),
        ):
            assert isinstance(verdict, Peer), verdict

    async def test_expired_by_an_hour(self, sockets: Sockets, root: Authority) -> None:
        """The refusal says whose certificate has expired, since when by which clock, and what to look at."""
        leaf = root.issue(WEB, starts=-25 * HOUR, ends=-HOUR)
        verdict = await as_client(sockets, host_of(root), leaf, root.root_pem)
        assert isinstance(verdict, HandshakeError)
        ended = leaf.certificate.not_valid_after_utc
        assert f"{WEB} has expired since {ended:%Y-%m-%dT%H:%M:%SZ}: 1 h 0 min ago" in str(verdict)
        assert "the peer does not renew it, or a clock is wrong" in str(verdict)

    async def test_expired_issuer(self, sockets: Sockets, root: Authority, issuing: Authority) -> None:
        """Every certificate of the chain must be valid, not the leaf alone; the one that is not is named."""
        leaf = issuing.issue(WEB, ends=100 * HOUR)
        verdict = await as_client(sockets, host_of(root, clock=25 * HOUR), leaf, root.root_pem)
        assert reason_of(verdict) == "expired"
        assert str(verdict).startswith("CN=issuing, which vouches for")


class TestFederation:
    @pytest.fixture
    def partner(self) -> Authority:
        """Give the other mesh's root."""
        return Authority("partner root", path_length=1)

    @pytest.fixture
    def host(self, root: Authority, partner: Authority) -> TlsContexts:
        """Give a host that recognises the other mesh."""
        return host_of(
            root, federated=(FederatedDomain(trust_domain=PARTNER, roots_pem=(partner.root_pem,)),)
        )

    async def test_its_own_identities(
        self, sockets: Sockets, root: Authority, partner: Authority, host: TlsContexts
    ) -> None:
        """The other mesh's root vouches for its own identities, through an intermediate too."""
        for authority in (partner, Authority("theirs", above=partner)):
            verdict = await as_client(sockets, host, authority.issue(THEIRS), root.root_pem)
            assert isinstance(verdict, Peer), verdict
            assert str(verdict.identity) == THEIRS

    async def test_not_for_ours(
        self, sockets: Sockets, root: Authority, partner: Authority, host: TlsContexts
    ) -> None:
        """The other mesh's root cannot vouch for one of us, neither as client nor as server."""
        leaf = partner.issue(WEB, node="web-1")
        verdict = await as_client(sockets, host, leaf, root.root_pem)
        assert reason_of(verdict) == "foreign_root"
        # A server that trusts us, so that only its own certificate is in question.
        impostor = tls_contexts(root, leaf)
        assert reason_of(await as_server(sockets, host, leaf, impostor)) == "foreign_root"

    async def test_ours_not_for_theirs(self, sockets: Sockets, root: Authority, host: TlsContexts) -> None:
        """Nor can our root vouch for one of them."""
        verdict = await as_client(sockets, host, root.issue(THEIRS), root.root_pem)
        assert reason_of(verdict) == "foreign_root"

    async def test_not_for_a_third(
        self, sockets: Sockets, root: Authority, partner: Authority, host: TlsContexts
    ) -> None:
        """Nor one of them for a mesh that nobody listed."""
        leaf = partner.issue(WEB, uris=(spiffe("web", trust_domain="third.example"),))
        assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == "trust_domain"

    async def test_bundle_cannot_federate_our_own_domain(
        self, sockets: Sockets, root: Authority, partner: Authority
    ) -> None:
        """A federation under our own name adds no root to ours."""
        host = host_of(
            root, federated=(FederatedDomain(trust_domain=TRUST_DOMAIN, roots_pem=(partner.root_pem,)),)
        )
        verdict = await as_client(sockets, host, partner.issue(WEB), root.root_pem)
        assert reason_of(verdict) == "foreign_root"

    async def test_end_of_federation(
        self, sockets: Sockets, root: Authority, partner: Authority, host: TlsContexts
    ) -> None:
        """When the federation ends, its peers may not stay."""
        peer = await as_client(sockets, host, partner.issue(THEIRS), root.root_pem)
        assert isinstance(peer, Peer)
        assert host.objection(peer) is None
        objection = host_of(root).objection(peer)
        assert objection is not None
        assert objection.reason == "trust_domain"


class TestRevocation:
    @pytest.mark.parametrize(
        "revocation",
        [revoked("node", "web-1"), revoked("identity", WEB)],
        ids=["node", "identity"],
    )
    async def test_node_and_identity(self, sockets: Sockets, root: Authority, revocation: Revocation) -> None:
        """A revoked node's workload is refused, and a revoked identity; the refusal says what and why."""
        leaf = root.issue(WEB, node="web-1")
        host = host_of(root, revocations=(revocation,))
        for verdict in (
            await as_client(sockets, host, leaf, root.root_pem),
            await as_server(sockets, host, leaf, tls_contexts(root, leaf)),
        ):
            assert reason_of(verdict) == "revoked"
            assert f"by {revocation.kind} {revocation.value}" in str(verdict)
            assert "laptop stolen" in str(verdict)

    async def test_serials(self, sockets: Sockets, root: Authority) -> None:
        """A serial revokes one leaf, or, if it is an intermediate's, all that it issued."""
        issuing = Authority("another issuing", above=root)
        leaf, other = issuing.issue(WEB), root.issue(WEB)
        for serial in (leaf.certificate.serial_number, issuing.certificate.serial_number):
            host = host_of(root, revocations=(revoked("serial", f"{serial:x}"),))
            assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == "revoked"
            assert reason_of(await as_client(sockets, host, other, root.root_pem)) == "accepted"

    @pytest.mark.parametrize("value", ["web-2", "web"])
    async def test_other_nodes(self, sockets: Sockets, root: Authority, value: str) -> None:
        """Another node's revocation hits nobody else."""
        host = host_of(root, revocations=(revoked("node", value),))
        leaf = root.issue(WEB, node="web-1")
        assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == "accepted"

    async def test_certified_afterwards(self, sockets: Sockets, root: Authority) -> None:
        """What was certified after the revocation holds: the node was enrolled anew, or the key replaced."""
        revocations = (revoked("node", "web-1", ago=MINUTE), revoked("identity", WEB, ago=MINUTE))
        host = host_of(root, revocations=revocations)
        leaf = fresh(root)
        assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == "accepted"

    async def test_other_meshes_node_of_that_name(self, sockets: Sockets, root: Authority) -> None:
        """What another mesh calls its nodes is nothing to our revocations; its identities are."""
        partner = Authority("partner")
        federated = (FederatedDomain(trust_domain=PARTNER, roots_pem=(partner.root_pem,)),)
        leaf = partner.issue(THEIRS, node="web-1")
        host = host_of(root, federated=federated, revocations=(revoked("node", "web-1"),))
        assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == "accepted"
        host = host_of(root, federated=federated, revocations=(revoked("identity", THEIRS),))
        assert reason_of(await as_client(sockets, host, leaf, root.root_pem)) == "revoked"

    async def test_live_peers(self, sockets: Sockets, root: Authority) -> None:
        """A peer that was accepted before is objected to from the revocation on, and nobody else is."""
        host = host_of(root)
        peers = [
            await as_client(sockets, host, root.issue(identity, node="web-1"), root.root_pem)
            for identity in (WEB, API)
        ]
        later = host_of(root, revocations=(revoked("identity", WEB),))
        objections = [later.objection(peer) for peer in peers if isinstance(peer, Peer)]
        assert [each and each.reason for each in objections] == ["revoked", None]
