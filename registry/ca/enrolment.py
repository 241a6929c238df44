"""Enrolment: who may become a node, and which identities a node gets certificates for.

A join token is the right to enrol, used up by compare-and-swap in the transaction that writes the enrolment:
of two nodes racing for its last use one wins. From then on the enrolment decides, and the node proves itself
by its key (`registry.ca.proof`), never by the token again.

A name that is enrolled already is taken over only with a token made for exactly that name: a pattern such
as ``web-*`` must not let the next machine become ``web-1`` while ``web-1`` lives. The new enrolment lists the
new token's identities and nothing else, and certificates from before it no longer renew.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import structlog
import trio

from registry.ca import tokens
from registry.ca.authority import Authority, Issued, Trust, read_trust
from registry.ca.issuer import read_request
from registry.ca.proof import Proof, Replays, verify_proof
from registry.clock import Clock, format_time, parse_time
from registry.errors import Conflict, Forbidden, InvalidResource, Unauthenticated
from registry.model.enrolment import Enrolment, EnrolmentSpec, JoinToken, JoinTokenSpec
from registry.model.identity import LABEL, InvalidIdentity, NodeIdentity, WorkloadIdentity, parse_identity
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.store import keys
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
    """A node's certificate and what it may ask for from now on."""

    identity: NodeIdentity
    issued: Issued
    identities: tuple[str, ...]
    trust: Trust


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate for an identity that the node's enrolment lists."""

    identity: str
    issued: Issued
    trust: Trust


class Registrar:
    """Makes tokens, enrols nodes and certifies what their enrolments list."""

    def __init__(self, *, store: Store, authority: Authority, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock
        self._replays = Replays()
        self._joining = trio.Lock()

    async def create_token(
        self, *, pattern: str, identities: Sequence[str], ttl: timedelta, uses: int
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
        full = tuple(sorted({self._full_identity(text, index) for index, text in enumerate(identities)}))
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
        )
        lease = await self._store.grant_lease(int(ttl.total_seconds()))
        await self._store.put(keys.render(keys.TokenKey(text.id)), _render_token(text.id, spec), lease=lease)
        _log.info("join token created", token=text.id, pattern=pattern, identities=full, uses=uses)
        return NewToken(text, expires)

    def _full_identity(self, text: str, index: int) -> str:
        try:
            return str(WorkloadIdentity.from_short(text, self._authority.trust_domain))
        except InvalidIdentity as error:
            raise _bad_token(f"identities[{index}]", str(error)) from error

    async def join(self, *, token: str, node: str, csr: str) -> Joined:
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
        # Asked before queueing, so that those without a token cannot hold up those with one.
        await self._find_token(offered)
        key = read_request(csr)
        trust = await read_trust(self._store)
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
                # Dated before its certificate, which would count as one from before the enrolment otherwise;
                # signed before the commit, because a failure to sign must not cost the token.
                enrolment = _enrolment(node, right.identities, self._clock())
                issued = self._authority.sign(key, identity)
                if await self._enrol(found, right, offered.id, enrolled, enrolment) is None:
                    continue
                _log.info(
                    "node enrolled",
                    node=node,
                    token=offered.id,
                    identities=right.identities,
                    again=enrolled is not None,
                )
                return Joined(identity, issued, right.identities, trust)
        raise Conflict("too many nodes are joining at once; try again")

    async def _find_token(self, offered: tokens.TokenText) -> tuple[KeyValue, JoinTokenSpec]:
        key = keys.render(keys.TokenKey(offered.id))
        # One message for all: whoever holds no token learns nothing about those that exist.
        refusal = Unauthenticated(
            "the join token is unknown, used up or expired; make another with `meshctl node token create`"
        )
        if (found := await self._store.get(key)) is None:
            raise refusal
        spec = parse_as(JoinToken, found.value, where=key).spec
        fits = tokens.secret_fits(offered.secret, spec.secret_sha256)
        # The lease removes an expired token, but only as soon as etcd has a leader with time for it.
        if not fits or spec.uses_left < 1 or parse_time(spec.expires_at) <= self._clock():
            raise refusal
        return found, spec

    async def _enrol(
        self,
        token: KeyValue,
        spec: JoinTokenSpec,
        token_id: str,
        enrolled: KeyValue | None,
        enrolment: Enrolment,
    ) -> int | None:
        key = keys.render(keys.EnrolmentKey(enrolment.spec.node))
        used: Write
        if spec.uses_left > 1:
            left = msgspec.structs.replace(spec, uses_left=spec.uses_left - 1)
            used = Put(token.key, _render_token(token_id, left), lease=token.lease)
        else:
            used = Delete(token.key)
        return await self._store.commit(
            [KeyIs(token.key, token.revision), KeyIs(key, enrolled.revision if enrolled else 0)],
            [used, Put(key, render(enrolment))],
        )

    async def certify(self, *, proof: str, body: bytes, identity: str, csr: str) -> Certified:
        """Certify an identity for a node that proves possession of its key over the request's `body`.

        Raises:
            Unauthenticated: the proof does not hold, or was used before.
            Forbidden: the node is not enrolled, was enrolled anew since, or may not hold this identity.
            InvalidResource: the identity or the certificate request is malformed.
        """
        trust = await read_trust(self._store)
        now = self._clock()
        shown = verify_proof(
            proof, body=body, roots=trust.roots, trust_domain=self._authority.trust_domain, now=now
        )
        self._replays.admit(shown, now=now)
        try:
            wanted = parse_identity(identity)
        except InvalidIdentity as error:
            raise InvalidResource(where="request body", path="identity", reason=str(error)) from error
        enrolment = await self._find_enrolment(shown)
        if wanted != shown.node and str(wanted) not in enrolment.identities:
            raise Forbidden(
                f"node {shown.node.name!r} is not enrolled for {wanted}; it may hold: "
                + (", ".join(enrolment.identities) or "none")
            )
        issued = self._authority.sign(read_request(csr), wanted)
        _log.info("certificate issued", node=shown.node.name, identity=str(wanted))
        return Certified(str(wanted), issued, trust)

    async def _find_enrolment(self, shown: Proof) -> EnrolmentSpec:
        name = shown.node.name
        key = keys.render(keys.EnrolmentKey(name))
        if (found := await self._store.get(key)) is None:
            raise Forbidden(f"node {name!r} is not enrolled (any more); join it again with a token")
        spec = parse_as(Enrolment, found.value, where=key).spec
        if shown.certified_at < parse_time(spec.enrolled_at):
            raise Forbidden(f"node {name!r} was enrolled anew since this certificate was issued")
        return spec


def _enrolment(node: str, identities: tuple[str, ...], now: datetime) -> Enrolment:
    return Enrolment(
        api_version=NODEMESH,
        kind=Enrolment.KIND,
        metadata=Metadata(name=node, namespace=ROOT_NAMESPACE),
        spec=EnrolmentSpec(node=node, identities=identities, enrolled_at=format_time(now)),
    )


def _render_token(token_id: str, spec: JoinTokenSpec) -> bytes:
    return render(
        JoinToken(
            api_version=NODEMESH,
            kind=JoinToken.KIND,
            metadata=Metadata(name=token_id, namespace=ROOT_NAMESPACE),
            spec=spec,
        )
    )


def _bad_token(path: str, reason: str) -> InvalidResource:
    return InvalidResource(where="join token", path=path, reason=reason)
