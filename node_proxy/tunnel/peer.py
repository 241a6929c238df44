"""Whom to believe at the other end of a tunnel: what its verified chain says, held to this mesh's rules.

Pure. OpenSSL has verified signatures, path lengths and constraints of the chain to one of all roots known;
what it does not know is judged here, at one given time: which root may vouch for which trust domain, what a
certificate is for, its dates (so that a refusal can say since when), its one name, and revocations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from node_proxy.certificate import MALFORMED, extension, facts_of, fingerprint, read_roots
from node_proxy.errors import HandshakeError, PeerIdentityError
from registry.model.enrolment import FederatedDomain, Revocation
from registry.model.identity import Identity, InvalidIdentity, parse_identity
from registry.model.revocation import CertificateFacts, RevocationList


@dataclass(frozen=True, slots=True)
class Peer:
    """Who the other end proved to be, and what revocations look at."""

    identity: Identity
    facts: CertificateFacts


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a peer may not stay: a short word for metrics, and a sentence for people."""

    reason: str
    detail: str


class PeerTrust:
    """The rules for peers, as the agent said them last.

    Args:
        trust_domain: ours.
        roots_pem: the roots that vouch for it.
        federated: other trust domains, each with the roots that vouch for it and for no other.
        revocations: what is refused all the same.
    """

    def __init__(
        self,
        *,
        trust_domain: str,
        roots_pem: str,
        federated: Iterable[FederatedDomain] = (),
        revocations: Iterable[Revocation] = (),
    ) -> None:
        self._trust_domain = trust_domain
        self._roots = {each.trust_domain: _fingerprints("".join(each.roots_pem)) for each in federated}
        # Last, so that no federation can speak for our own domain.
        self._roots[trust_domain] = _fingerprints(roots_pem)
        self._revoked = RevocationList(revocations)

    def judge(self, chain: Sequence[x509.Certificate], *, client: bool, now: datetime) -> Peer:
        """Give the peer of a chain that OpenSSL has verified, from the leaf to the root.

        Args:
            chain: not empty.
            client: whether the peer is the client of the handshake.
            now: the wall clock.

        Raises:
            HandshakeError: the certificate may not be used, or not for this.
            PeerIdentityError: it names nobody, several, or somebody of an unknown trust domain.
        """
        try:
            return self._judge(chain, client, now)
        except MALFORMED as error:
            raise HandshakeError(
                f"the peer's certificate is malformed: {error}", reason="bad_certificate"
            ) from error

    def _judge(self, chain: Sequence[x509.Certificate], client: bool, now: datetime) -> Peer:
        _require_purpose(chain[0], client=client)
        identity = self._identity(chain[0])
        if fingerprint(chain[-1]) not in self._roots[identity.trust_domain]:
            raise HandshakeError(
                f"{identity} is vouched for by a root ({chain[-1].subject.rfc4514_string()}) that is "
                f"not one of the trust domain {identity.trust_domain}",
                reason="foreign_root",
            )
        for certificate in chain:
            _require_valid(certificate, identity, now)
        peer = Peer(identity, facts_of(chain, identity, trust_domain=self._trust_domain))
        if objection := self.objection(peer):
            raise HandshakeError(objection.detail, reason=objection.reason)
        return peer

    def objection(self, peer: Peer) -> Objection | None:
        """Say why a peer that was accepted before may not stay; None when it may."""
        if peer.identity.trust_domain not in self._roots:
            detail = f"the trust domain {peer.identity.trust_domain} is no longer federated"
            return Objection("trust_domain", detail)
        revocation = self._revoked.find(peer.facts)
        if revocation is None:
            return None
        why = f": {revocation.reason}" if revocation.reason else ""
        return Objection(
            "revoked",
            f"the certificate of {peer.identity} (node {peer.facts.node or 'unknown'}, serial "
            f"{peer.facts.serials[0]:x}) is revoked by {revocation.kind} {revocation.value} "
            f"at {revocation.revoked_at}{why}",
        )

    def _identity(self, leaf: x509.Certificate) -> Identity:
        names = extension(leaf, x509.SubjectAlternativeName)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
        expected = f"one SPIFFE ID in the trust domain {self._trust_domain}"
        if len(self._roots) > 1:
            expected = "one SPIFFE ID in one of the trust domains " + ", ".join(sorted(self._roots))
        if len(uris) != 1:
            raise PeerIdentityError(
                expected=expected, presented=", ".join(uris) or "none", reason="bad_identity"
            )
        try:
            identity = parse_identity(uris[0])
        except InvalidIdentity as error:
            raise PeerIdentityError(expected=expected, presented=str(error), reason="bad_identity") from error
        if identity.trust_domain not in self._roots:
            raise PeerIdentityError(expected=expected, presented=str(identity), reason="trust_domain")
        return identity


def _require_purpose(leaf: x509.Certificate, *, client: bool) -> None:
    """Check that the certificate is for one end of a handshake and for nothing that an authority does.

    OpenSSL takes a certificate that says nothing of its purpose for one of every purpose.
    """
    constraints = extension(leaf, x509.BasicConstraints)
    usage = extension(leaf, x509.KeyUsage)
    purposes = extension(leaf, x509.ExtendedKeyUsage)
    needed = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    if constraints is not None and constraints.ca:
        fault = "is an authority's (CA:TRUE)"
    elif usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        fault = "is not for digital signatures alone (key usage)"
    elif purposes is None or needed not in purposes:
        fault = f"is not for TLS {'clients' if client else 'servers'} (extended key usage)"
    else:
        return
    raise HandshakeError(f"the peer's certificate {fault}", reason="bad_certificate")


def _require_valid(certificate: x509.Certificate, identity: Identity, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begins <= now <= ends:
        return
    subject = certificate.subject.rfc4514_string()
    whose = f"the certificate of {identity}" if not subject else f"{subject}, which vouches for {identity},"
    if now > ends:
        said, moment, reason = "has expired since", ends, "expired"
        mend = "the peer does not renew it, or a clock is wrong"
    else:
        said, moment, reason = "is not valid before", begins, "not_yet_valid"
        mend = "a clock is wrong"
    raise HandshakeError(
        f"{whose} {said} {moment:%Y-%m-%dT%H:%M:%SZ}: {_span(now - moment)} "
        f"{'ago' if now > ends else 'ahead'} by the clock of this host ({now:%Y-%m-%dT%H:%M:%SZ}); {mend}",
        reason=reason,
    )


def _span(length: timedelta) -> str:
    minutes, seconds = divmod(int(abs(length).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _fingerprints(pem: str) -> frozenset[str]:
    return frozenset(fingerprint(each) for each in read_roots((pem,)))
