"""Who may sign what stands where, and whether they did. Pure: roots and the time come in as arguments.

A node signs its record, its workloads and its quotas with its node key; the certificate authority signs the
trust bundle, enrolments, join tokens, administrators, the controller's statuses and, through the API, what
operators write. etcd's own users and roles are a fence, not the boundary: whoever can write into etcd
without holding one of these keys changes nothing that is verified here.

What a signature cannot show is that a value is the newest: one that was signed before may be put back, a
node's for as long as the certificate that signed it lives, and anything can be deleted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar, assert_never

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from registry.errors import InvalidResource
from registry.model.identity import InvalidIdentity, NodeIdentity, parse_identity
from registry.model.resource import Resource
from registry.model.revocation import CertificateFacts
from registry.model.signature import BadSignature, Chain, Unsigned, verify
from registry.store import keys
from registry.store.base import KeyValue

R = TypeVar("R", bound=Resource)

# Twice the nodes of a large mesh: each has one chain, and another while it renews.
_REMEMBERED_CHAINS: Final = 20_000


@dataclass(frozen=True, slots=True)
class SignedByNode:
    """Must be signed with the key of `node`."""

    node: str


@dataclass(frozen=True, slots=True)
class SignedByAuthority:
    """Must be signed with an issuing key of the authority. `always`: whatever `policySigning` says."""

    always: bool


Rule = SignedByNode | SignedByAuthority


def rule_for(key: keys.Key | None) -> Rule | None:
    """Say who must sign what stands at `key`; None for what nobody signs."""
    match key:
        case keys.NodeRecordKey(node) | keys.WorkloadKey(node=node) | keys.NodeQuotasKey(node):
            return SignedByNode(node)
        case keys.EnrolmentKey() | keys.BundleKey() | keys.TokenKey() | keys.AdministratorKey():
            return SignedByAuthority(always=True)
        case keys.StatusKey():
            # A service's virtual IPs: another service must not get its traffic by them.
            return SignedByAuthority(always=True)
        case keys.MeshKey() | keys.ResourceKey():
            return SignedByAuthority(always=False)
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: the node, or the authority if that is None. `facts` are what revocations look at."""

    node: str | None
    facts: CertificateFacts
    not_before: datetime
    not_after: datetime


class Signatures:
    """Verifies values against the roots trusted now, each once for as long as it stands.

    Looking ahead (`examine`) and asking (`require`) may happen on different threads; trusting other roots may
    not happen meanwhile.

    Args:
        trust_domain: of the nodes' identities.
        roots: whom chains must lead to.
    """

    def __init__(self, *, trust_domain: str, roots: Sequence[x509.Certificate]) -> None:
        self._trust_domain = trust_domain
        self._roots = tuple(roots)
        self._signers: dict[Chain, Signer | BadSignature] = {}
        self._found: dict[str, tuple[bytes, Signer | BadSignature]] = {}

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The roots trusted now."""
        return self._roots

    def trust(self, roots: Sequence[x509.Certificate]) -> bool:
        """Trust these roots from now on; whether they are others than before."""
        if set(roots) == set(self._roots):
            return False
        self._roots = tuple(roots)
        self._signers.clear()
        self._found.clear()
        return True

    def examine(self, items: Iterable[KeyValue]) -> None:
        """Verify all that need it, so that `require` has the answers at hand."""
        for item in items:
            if rule_for(keys.parse(item.key)) is not None:
                self._signer(item.key, item.value)

    def forget(self, place: str) -> None:
        """Drop what is known of a value that stands no more."""
        self._found.pop(place, None)

    def require(self, place: str, value: bytes, *, at: datetime | None) -> Signer:
        """Demand that a value is signed by whom its place demands, with a certificate that is valid `at`.

        `at` None asks no such thing: the value was found good when it was new.

        Raises:
            InvalidResource: it is not, and the message says what to do.
        """
        rule = rule_for(keys.parse(place))
        if rule is None:
            raise InvalidResource(where=place, path="", reason="is at a key that nobody signs for")
        found = self._signer(place, value)
        if isinstance(found, BadSignature):
            raise InvalidResource(where=place, path="signature", reason=str(found), mend=_mend(rule, found))
        if reason := _objection(rule, found, at):
            raise InvalidResource(where=place, path="signature", reason=reason)
        return found

    def _signer(self, place: str, value: bytes) -> Signer | BadSignature:
        known = self._found.get(place)
        if known is not None and known[0] == value:
            return known[1]
        found: Signer | BadSignature
        try:
            found = self._judge(verify(place, value))
        except BadSignature as error:
            found = error
        self._found[place] = (value, found)
        return found

    def _judge(self, chain: Chain) -> Signer | BadSignature:
        known = self._signers.get(chain)
        if known is None:
            try:
                known = self._read_signer(chain)
            except BadSignature as error:
                known = error
            if len(self._signers) >= _REMEMBERED_CHAINS:
                self._signers.clear()
            self._signers[chain] = known
        return known

    def _read_signer(self, chain: Chain) -> Signer:
        try:
            authority = _is_authority(chain[0])
            if authority:
                chain = self._authority_path(chain)
                identity = ""
            else:
                # At a time when all are valid; whether that is now is asked for each value, each time.
                begin = max(each.not_valid_before_utc for each in chain)
                verifier = PolicyBuilder().store(Store(list(self._roots))).time(begin).build_client_verifier()
                verifier.verify(chain[0], list(chain[1:]))
                identity = _identity(chain[0])
        except (VerificationError, ValueError, InvalidSignature, TypeError, x509.ExtensionNotFound) as error:
            raise BadSignature(f"was signed with a certificate that is not of this mesh: {error}") from error
        node = None
        if not authority:
            try:
                named = parse_identity(identity)
            except InvalidIdentity as error:
                raise BadSignature(f"was signed by nobody of this mesh: {error}") from error
            if not isinstance(named, NodeIdentity) or named.trust_domain != self._trust_domain:
                raise BadSignature(f"was signed by {identity}, which is no node of {self._trust_domain}")
            node = named.name
        return Signer(
            node=node,
            facts=CertificateFacts(
                identity=identity,
                node=node or "",
                serials=tuple(each.serial_number for each in chain),
                not_before=chain[0].not_valid_before_utc,
            ),
            not_before=max(each.not_valid_before_utc for each in chain),
            not_after=min(each.not_valid_after_utc for each in chain),
        )

    def _authority_path(self, chain: Chain) -> Chain:
        """Give the part of an authority's chain that leads to a root, each above it an authority too.

        The rest is for readers who know only an older root.
        """
        for position, certificate in enumerate(chain):
            if self._is_rooted(certificate):
                return chain[: position + 1]
            if position + 1 < len(chain):
                if not _is_authority(chain[position + 1]):
                    raise ValueError("its issuer is no authority")
                certificate.verify_directly_issued_by(chain[position + 1])
        raise ValueError("its root is not trusted here")

    def _is_rooted(self, certificate: x509.Certificate) -> bool:
        if certificate in self._roots:
            return True
        # Roots of one mesh share their name: any of them may be the one.
        return any(
            root.subject == certificate.issuer and _issued(certificate, by=root) for root in self._roots
        )


def unsigned(resource: R) -> R:
    """Give a resource without its signature, which is checked and of no more use."""
    if resource.signature is msgspec.UNSET:
        return resource
    return msgspec.structs.replace(resource, signature=msgspec.UNSET)


def _issued(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except InvalidSignature:
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign


def _identity(leaf: x509.Certificate) -> str:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"it has {len(uris)} URI names, one is expected")
    return uris[0]


def _objection(rule: Rule, signer: Signer, at: datetime | None) -> str:
    match rule:
        case SignedByNode(node) if signer.node != node:
            return f"is signed by {signer.facts.identity or 'the authority'}, not by the node {node}"
        case SignedByAuthority() if signer.node is not None:
            return f"is signed by the node {signer.node}, not by the mesh's authority"
        case _:
            pass
    if at is None or signer.not_before <= at <= signer.not_after:
        return ""
    if at > signer.not_after:
        return f"is signed with a certificate that expired at {signer.not_after:%Y-%m-%dT%H:%M:%SZ}"
    return f"is signed with a certificate that is valid from {signer.not_before:%Y-%m-%dT%H:%M:%SZ} on"


def _mend(rule: Rule, fault: BadSignature) -> str:
    if not isinstance(fault, Unsigned):
        return ""
    match rule:
        case SignedByNode(node):
            return f"upgrade nodemesh-proxy on {node}: older versions do not sign what they write"
        case SignedByAuthority(always=True):
            return "let an administrator look at it; `meshctl node approve` signs an enrolment"
        case SignedByAuthority():
            return "write it with meshctl: this mesh's policySigning is required"
        case _:
            assert_never(rule)
