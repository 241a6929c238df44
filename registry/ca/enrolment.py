"""Enrolment: who may become a node. What a node gets certificates for then is `certifying`'s business.

A join token is the right to enrol, used up by compare-and-swap in the transaction that writes the enrolment:
of two nodes racing for its last use one wins. From then on the enrolment decides, and the node proves itself
by its key (`registry.ca.proof`), never by the token again.

A name that is enrolled already is taken over only with a token made for exactly that name: a pattern such
as ``web-*`` must not let the next machine become ``web-1`` while ``web-1`` lives. The new enrolment lists the
new token's identities and nothing else, and certificates from before it no longer renew.

A token may ask for an administrator's approval: then the enrolment it pays for is pending, and the node asks
again, with the same key, until it is approved.

Enrolments and tokens are signed by the authority. What somebody else wrote in their place does not count.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

import msgspec
import structlog
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca import tokens
from registry.ca.authority import Authority, Issued
from registry.ca.bundle import Trust
from registry.ca.issuer import read_request
from registry.ca.signed_store import Signed, SignedStore
from registry.clock import Clock, format_time, parse_time
from registry.errors import Conflict, Forbidden, InvalidResource, Unauthenticated
from registry.model.enrolment import Enrolment, EnrolmentSpec, JoinToken, JoinTokenSpec
from registry.model.identity import LABEL, InvalidIdentity, NodeIdentity, WorkloadIdentity
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
from registry.store.accounts import Accounts, NoAccounts
from registry.store.base import Delete, KeyIs, KeyValue, Put, Store, Write

# Joins through one replica queue up, so that only other replicas compete: this is more than there are.
ATTEMPTS = 16
MAX_TTL = timedelta(days=30)
MAX_USES = 10_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NewToken:
    """A join token, whole: the only time that its secret is seen."""

    text: tokens.TokenText
    expires: datetime


@dataclass(frozen=True, slots=True)
class Joined:
    """A node's certificate and what it may ask for from now on; `etcd` is its etcd client certificate."""

    identity: NodeIdentity
    issued: Issued
    identities: tuple[str, ...]
    trust: Trust
    etcd: Issued | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The node's enrolment waits for approval: it is to ask again, with the same request."""

    node: str


@dataclass(frozen=True, slots=True)
class Requests:
    """The certificate requests of a node that joins, in PEM; the one for etcd may be missing."""

    node: str
    etcd: str = ""


class Registrar:
    """Makes tokens and enrols nodes."""

    def __init__(
        self, *, store: Store, authority: Authority, clock: Clock, accounts: Accounts | None = None
    ) -> None:
        """Without `accounts` etcd's users are somebody else's to keep."""
        self._store = store
        self._authority = authority
        self._clock = clock
        self._accounts = accounts or NoAccounts()
        self._signed = SignedStore(store=store, authority=authority, clock=clock)
        self._joining = trio.Lock()

    async def create_token(
        self,
        *,
        pattern: str,
        identities: Sequence[str],
        ttl: timedelta,
        uses: int,
        require_approval: bool = False,
    ) -> NewToken:
        """Make a join token for nodes named like `pattern`, good `uses` times within `ttl`.

        Raises:
            InvalidResource: the pattern, an identity, the time or the number cannot be.
        """
        tokens.check_pattern(pattern)
        if not timedelta(0) < ttl <= MAX_TTL:
            raise _bad_token("ttlSeconds", f"must be between 1 and {int(MAX_TTL.total_seconds())}")
        if not 1 <= uses <= MAX_USES:
            raise _bad_token("uses", f"must be between 1 and {MAX_USES}")
        full = full_identities(identities, self._authority.trust_domain, where="join token")
        await self._authority.refresh()
        text = tokens.TokenText(
            id=secrets.token_hex(8), secret=secrets.token_urlsafe(32), fingerprint=self._authority.fingerprint
        )
        expires = self._clock() + ttl
        spec = JoinTokenSpec(
            secret_sha256=tokens.hash_secret(text.secret),
            node_pattern=pattern,
            identities=full,
            uses_left=uses,
            expires_at=format_time(expires),
            require_approval=require_approval,
        )
        lease = await self._store.grant_lease(int(ttl.total_seconds()))
        write = self._put_token(text.id, spec, lease=lease)
        await self._store.put(write.key, write.value, lease=lease)
        _log.info("join token created", token=text.id, pattern=pattern, identities=full, uses=uses)
        return NewToken(text, expires)

    async def join(self, *, token: str, node: str, requests: Requests) -> Joined | Waiting:
        """Enrol `node` and certify its key, using the token up once.

        Raises:
            Unauthenticated: the token is unknown, used up or expired.
            Forbidden: the token is not for a node of this name.
            Conflict: the name is enrolled already and the token was not made for it alone.
            InvalidResource: the name or the certificate request is malformed.
        Cancelled or cut off from the store in the middle, the token may have been used up for nothing.
        """
        offered = tokens.parse_token(token)
        if not LABEL.match(node):
            raise InvalidResource(
                where="request body",
                path="node",
                reason=f"{node!r} is no node name",
                mend="write lower-case letters, digits and dashes, at most 63",
            )
        key = read_request(requests.node)
        etcd_key = read_request(requests.etcd) if requests.etcd else None
        if (waiting := await self._find_waiting(node, key)) is not None:
            return await self._let_in(waiting, key, etcd_key)
        # Asked before queueing, so that those without a token cannot hold up those with one.
        await self._find_token(offered)
        identity = NodeIdentity(self._authority.trust_domain, node)
        async with self._joining:
            for _ in range(ATTEMPTS):
                found, right = await self._find_token(offered)
                if not tokens.covers(right.node_pattern, node):
                    raise Forbidden(f"the token is for nodes named {right.node_pattern!r}, not for {node!r}")
                enrolled = await self._store.get(keys.render(keys.EnrolmentKey(node)))
                if enrolled is not None and not tokens.names_one_node(right.node_pattern):
                    raise Conflict(
                        f"a node named {node!r} is enrolled already; to enrol it anew make a token for "
                        f"exactly that name: meshctl node token create --node {node}"
                    )
                if enrolled is not None and right.require_approval:
                    raise Conflict(
                        f"a node named {node!r} is enrolled already, and the token asks for approval; "
                        f"revoke the one before: meshctl node revoke {node}"
                    )
                # Signed by what issues now and committed while it still does: during a rotation a node that
                # joins must not slip in with a certificate of the root that goes.
                trust = await self._authority.refresh()
                # Dated before its certificate, which would count as one from before the enrolment otherwise;
                # signed before the commit, because a failure to sign must not cost the token.
                enrolment = _enrolment(node, right, key, self._clock())
                issued = self._authority.sign(key, identity, node=node)
                if not right.require_approval:
                    # A user without a certificate is nobody; a certificate without a user is of no use.
                    await self._accounts.admit(node)
                if await self._enrol(found, right, offered.id, enrolled, enrolment, trust) is None:
                    continue
                if right.require_approval:
                    _log.warning("node waits for approval", node=node, identities=right.identities)
                    return Waiting(node)
                _log.info(
                    "node enrolled",
                    node=node,
                    token=offered.id,
                    identities=right.identities,
                    again=enrolled is not None,
                )
                return Joined(identity, issued, right.identities, trust, self._etcd(node, etcd_key))
        raise Conflict("too many nodes are joining at once; try again")

    async def _find_waiting(self, node: str, key: ec.EllipticCurvePublicKey) -> Signed[Enrolment] | None:
        """Find the enrolment that this key waits for, or has been approved and not fetched."""
        try:
            found = await self._signed.read(Enrolment, keys.render(keys.EnrolmentKey(node)))
        except InvalidResource:
            return None
        return found if found is not None and found.resource.spec.joining_key == key_digest(key) else None

    async def _let_in(
        self,
        waiting: Signed[Enrolment],
        key: ec.EllipticCurvePublicKey,
        etcd_key: ec.EllipticCurvePublicKey | None,
    ) -> Joined | Waiting:
        """Certify the key of a node that has been approved."""
        spec = waiting.resource.spec
        if spec.pending:
            return Waiting(spec.node)
        trust = await self._authority.refresh()
        identity = NodeIdentity(self._authority.trust_domain, spec.node)
        issued = self._authority.sign(key, identity, node=spec.node)
        await self._accounts.admit(spec.node)
        fetched = msgspec.structs.replace(
            waiting.resource, spec=msgspec.structs.replace(spec, joining_key="")
        )
        write = self._signed.put(waiting.item.key, fetched)
        if await self._store.commit([waiting.unchanged, trust.unchanged], [write]) is None:
            raise Conflict("the enrolment was changed meanwhile; ask again")
        _log.info("node enrolled", node=spec.node, identities=spec.identities, approved=True)
        return Joined(identity, issued, spec.identities, trust, self._etcd(spec.node, etcd_key))

    def _etcd(self, node: str, key: ec.EllipticCurvePublicKey | None) -> Issued | None:
        return None if key is None else self._authority.sign_etcd_client(key, self._accounts.user_of(node))

    async def _find_token(self, offered: tokens.TokenText) -> tuple[KeyValue, JoinTokenSpec]:
        key = keys.render(keys.TokenKey(offered.id))
        # One message for all: whoever holds no token learns nothing about those that exist.
        refusal = Unauthenticated(
            "the join token is unknown, used up or expired; make another with `meshctl node token create`"
        )
        try:
            found = await self._signed.read(JoinToken, key)
        except InvalidResource as error:
            _log.error("join token refused: not made by this registry", reason=error.describe())
            raise refusal from error
        if found is None:
            raise refusal
        spec = found.resource.spec
        fits = tokens.secret_fits(offered.secret, spec.secret_sha256)
        # The lease removes an expired token, but only as soon as etcd has a leader with time for it.
        if not fits or spec.uses_left < 1 or parse_time(spec.expires_at) <= self._clock():
            raise refusal
        return found.item, spec

    async def _enrol(
        self,
        token: KeyValue,
        spec: JoinTokenSpec,
        token_id: str,
        enrolled: KeyValue | None,
        enrolment: Enrolment,
        trust: Trust,
    ) -> int | None:
        key = keys.render(keys.EnrolmentKey(enrolment.spec.node))
        used: Write
        if spec.uses_left > 1:
            left = msgspec.structs.replace(spec, uses_left=spec.uses_left - 1)
            used = self._put_token(token_id, left, lease=token.lease)
        else:
            used = Delete(token.key)
        return await self._store.commit(
            [
                KeyIs(token.key, token.revision),
                KeyIs(key, enrolled.revision if enrolled else 0),
                trust.unchanged,
            ],
            [used, self._signed.put(key, enrolment)],
        )

    def _put_token(self, token_id: str, spec: JoinTokenSpec, *, lease: int) -> Put:
        token = JoinToken(
            api_version=NODEMESH,
            kind=JoinToken.KIND,
            metadata=Metadata(name=token_id, namespace=ROOT_NAMESPACE),
            spec=spec,
        )
        return self._signed.put(keys.render(keys.TokenKey(token_id)), token, lease=lease)


def full_identities(identities: Sequence[str], trust_domain: str, *, where: str) -> tuple[str, ...]:
    """Give workloads' identities in full, each once, in order.

    Raises:
        InvalidResource: one is none; `where` says where it stood.
    """
    full: set[str] = set()
    for index, text in enumerate(identities):
        try:
            full.add(str(WorkloadIdentity.from_short(text, trust_domain)))
        except InvalidIdentity as error:
            raise InvalidResource(where=where, path=f"identities[{index}]", reason=str(error)) from error
    return tuple(sorted(full))


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Give the fingerprint of a public key: hexadecimal SHA-256 of its DER."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


def _enrolment(node: str, right: JoinTokenSpec, key: ec.EllipticCurvePublicKey, now: datetime) -> Enrolment:
    return Enrolment(
        api_version=NODEMESH,
        kind=Enrolment.KIND,
        metadata=Metadata(name=node, namespace=ROOT_NAMESPACE),
        spec=EnrolmentSpec(
            node=node,
            identities=right.identities,
            enrolled_at=format_time(now),
            pending=right.require_approval,
            joining_key=key_digest(key) if right.require_approval else "",
        ),
    )


def _bad_token(path: str, reason: str) -> InvalidResource:
    return InvalidResource(where="join token", path=path, reason=reason)
