"""Certificates for nodes that are enrolled: for what their enrolments list, and for nothing else."""

from dataclasses import dataclass
from typing import Final

import structlog

from registry.ca.authority import Authority, Issued
from registry.ca.bundle import Trust
from registry.ca.issuer import read_request
from registry.ca.proof import Proof, Replays, verify_proof
from registry.ca.signed_store import Signed, SignedStore
from registry.clock import Clock, parse_time
from registry.errors import Conflict, Forbidden, InvalidResource, Unauthenticated
from registry.model.enrolment import Enrolment
from registry.model.identity import InvalidIdentity, parse_identity
from registry.store import keys
from registry.store.accounts import Accounts, NoAccounts
from registry.store.base import Store

# An enrolment changes when an operator says so; this is more often than that.
ATTEMPTS: Final = 4

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate for an identity that the node's enrolment lists."""

    identity: str
    issued: Issued
    trust: Trust


@dataclass(frozen=True, slots=True)
class EtcdCertified:
    """A certificate for a node's etcd user."""

    user: str
    issued: Issued


class Certifier:
    """Certifies what enrolments list, for nodes that show that they are."""

    def __init__(
        self, *, store: Store, authority: Authority, clock: Clock, accounts: Accounts | None = None
    ) -> None:
        """Without `accounts` etcd's users are somebody else's to keep."""
        self._store = store
        self._authority = authority
        self._clock = clock
        self._accounts = accounts or NoAccounts()
        self._signed = SignedStore(store=store, authority=authority, clock=clock)
        self._replays = Replays()

    async def certify(self, *, proof: str, body: bytes, identity: str, csr: str) -> Certified:
        """Certify an identity for a node that proves possession of its key over the request's `body`.

        Raises:
            Unauthenticated: the proof does not hold, or was used before.
            Forbidden: the node is not enrolled, was enrolled anew since, or may not hold this identity.
            InvalidResource: the identity or the certificate request is malformed.
        """
        trust, shown = await self._verify(proof, body)
        try:
            wanted = parse_identity(identity)
        except InvalidIdentity as error:
            raise InvalidResource(where="request body", path="identity", reason=str(error)) from error
        key = read_request(csr)
        for _ in range(ATTEMPTS):
            enrolment = await self._find_enrolment(shown)
            may_hold = enrolment.resource.spec.identities
            if wanted != shown.node and str(wanted) not in may_hold:
                raise Forbidden(
                    f"node {shown.node.name!r} is not enrolled for {wanted}; it may hold: "
                    + (", ".join(may_hold) or "none")
                )
            issued = self._authority.sign(key, wanted, node=shown.node.name)
            # What is taken away while we sign is revoked as of later, so that this certificate is too. One
            # that was signed later still must not leave this house.
            if await self._stands(enrolment):
                _log.info("certificate issued", node=shown.node.name, identity=str(wanted))
                return Certified(str(wanted), issued, trust)
        raise Conflict("the node's enrolment changes too often; try again")

    async def certify_etcd(self, *, proof: str, body: bytes, csr: str) -> EtcdCertified:
        """Certify the etcd user of a node that proves possession of its key over the request's `body`.

        Raises:
            Unauthenticated, Forbidden, InvalidResource: as `certify`.
        """
        _, shown = await self._verify(proof, body)
        await self._find_enrolment(shown)
        node = shown.node.name
        # Nodes that joined before etcd had users have none yet.
        await self._accounts.admit(node)
        user = self._accounts.user_of(node)
        issued = self._authority.sign_etcd_client(read_request(csr), user)
        _log.info("etcd certificate issued", node=node, user=user)
        return EtcdCertified(user, issued)

    async def _verify(self, proof: str, body: bytes) -> tuple[Trust, Proof]:
        trust = await self._authority.refresh()
        now = self._clock()
        shown = verify_proof(
            proof, body=body, roots=trust.roots, trust_domain=self._authority.trust_domain, now=now
        )
        if (revoked := trust.revocations.find(shown.facts)) is not None:
            raise Unauthenticated(
                f"the certificate of {shown.node} is revoked, by {revoked.kind} since {revoked.revoked_at}"
                + (f" ({revoked.reason})" if revoked.reason else "")
                + "; join again with a token"
            )
        self._replays.admit(shown, now=now)
        return trust, shown

    async def _find_enrolment(self, shown: Proof) -> Signed[Enrolment]:
        name = shown.node.name
        try:
            found = await self._signed.read(Enrolment, keys.render(keys.EnrolmentKey(name)))
        except InvalidResource as error:
            raise Forbidden(f"the enrolment of {name!r} does not count: {error.describe()}") from error
        if found is None or found.resource.spec.pending:
            raise Forbidden(f"node {name!r} is not enrolled (any more); join it again with a token")
        if shown.certified_at < parse_time(found.resource.spec.enrolled_at):
            raise Forbidden(f"node {name!r} was enrolled anew since this certificate was issued")
        return found

    async def _stands(self, enrolment: Signed[Enrolment]) -> bool:
        found = await self._store.get(enrolment.item.key)
        return found is not None and found.revision == enrolment.item.revision
