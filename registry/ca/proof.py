"""Proof of possession: how a node shows, after it has joined, that a request comes from its key.

The proof is a JWT (RFC 7519) signed by the node's key, with its certificate chain in the header (`x5c`,
RFC 7515 section 4.1.6) and the request body's hash among its claims, so that it authorises that one request.
Nothing is fetched here: roots, body and the time come in as arguments.
"""

import base64
import binascii
import hmac
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from registry.ca.verifying import MAX_CHAIN, facts_of, verify_chain
from registry.errors import Unauthenticated
from registry.model.identity import NodeIdentity
from registry.model.revocation import BACKDATE, CertificateFacts

AUDIENCE = "nodemesh-registry"
ALGORITHM = "ES256"
LIFETIME = timedelta(minutes=5)
# Hosts without a time server drift by minutes (design: clock skew).
SKEW = timedelta(minutes=5)
# About 150 bytes each; a mesh of 10,000 nodes makes some hundred proofs in their longest life.
MAX_REMEMBERED = 100_000

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+\Z")
_JWS = jwt.PyJWS(algorithms=[ALGORITHM])


@dataclass(frozen=True, slots=True)
class Proof:
    """What a verified proof says: who, certified when, and until when it could be replayed."""

    node: NodeIdentity
    facts: CertificateFacts
    jti: str
    expires: datetime

    @property
    def certified_at(self) -> datetime:
        """When its certificate was issued."""
        return self.facts.not_before + BACKDATE


class _Header(msgspec.Struct, frozen=True):
    alg: str
    x5c: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_CHAIN)]


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    sub: str
    aud: str
    iat: int
    exp: int
    jti: Annotated[str, msgspec.Meta(min_length=8, max_length=128)]
    sha256: str


def verify_proof(
    token: str, *, body: bytes, roots: Sequence[x509.Certificate], trust_domain: str, now: datetime
) -> Proof:
    """Verify a proof of possession for a request with `body`.

    Raises:
        Unauthenticated: the message says which check failed.
    """
    chain = _chain(token)
    node = verify_chain(chain, roots=roots, trust_domain=trust_domain, now=now)
    if not isinstance(node, NodeIdentity):
        raise Unauthenticated(f"{node} is not a node's identity; a proof is signed with the node's key")
    claims = _claims(token, chain[0])
    if claims.iss != str(node) or claims.sub != str(node):
        raise Unauthenticated(f"the proof names {claims.iss!r}, its certificate {str(node)!r}")
    if claims.aud != AUDIENCE:
        raise Unauthenticated(f"the proof is meant for {claims.aud!r}, not for {AUDIENCE!r}")
    lifetime = claims.exp - claims.iat
    if not 0 < lifetime <= LIFETIME.total_seconds():
        raise Unauthenticated(f"the proof claims {lifetime} seconds, 1 to {LIFETIME.seconds} are allowed")
    # In seconds: a claim may be a number too large for a datetime.
    seconds = now.timestamp()
    if claims.exp < seconds - SKEW.total_seconds():
        raise Unauthenticated("the proof has expired; check the node's clock")
    if claims.iat > seconds + SKEW.total_seconds():
        raise Unauthenticated("the proof is from the future; check the node's clock")
    if not hmac.compare_digest(claims.sha256.encode(), sha256(body).hexdigest().encode()):
        raise Unauthenticated("the proof was made for another request body")
    return Proof(
        node=node,
        facts=facts_of(chain, node),
        jti=claims.jti,
        expires=datetime.fromtimestamp(claims.exp, tz=now.tzinfo) + SKEW,
    )


def _chain(token: str) -> list[x509.Certificate]:
    """Read the certificates a token carries; nothing of it is believed yet."""
    parts = token.split(".")
    if len(parts) != 3 or not all(_SEGMENT.match(part) for part in parts):
        raise Unauthenticated("no proof of possession: a JWT signed with the node's key is expected")
    try:
        padded = parts[0] + "=" * (-len(parts[0]) % 4)
        header = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=_Header)
        chain = [x509.load_der_x509_certificate(base64.b64decode(text, validate=True)) for text in header.x5c]
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise Unauthenticated(f"the proof's header cannot be read: {error}") from error
    if header.alg != ALGORITHM:
        raise Unauthenticated(f"the proof is signed by {header.alg!r}, {ALGORITHM} is expected")
    return chain


def _claims(token: str, leaf: x509.Certificate) -> _Claims:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Unauthenticated("the proof's certificate has no elliptic curve key")
    try:
        payload = _JWS.decode(token, key=key, algorithms=[ALGORITHM])
    except jwt.PyJWTError as error:
        raise Unauthenticated(f"the proof's signature does not verify: {error}") from error
    try:
        return msgspec.json.decode(payload, type=_Claims)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unauthenticated(f"the proof's claims cannot be read: {error}") from error


class Replays:
    """Remembers the proofs seen, so that each is good once.

    In this replica's memory, at most `limit` of them, the oldest forgotten first: a replayed proof could only
    obtain another certificate for the key in its own body, which its thief does not hold. That is not
    worth a write in etcd for every request; refusing it spends no signature and shows the theft in the log.
    """

    def __init__(self, *, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._seen: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def admit(self, proof: Proof, *, now: datetime) -> None:
        """Remember a verified proof.

        Raises:
            Unauthenticated: it was seen before.
        """
        # Per node, so that no node can spoil the numbers another will use.
        key = (proof.node.name, proof.jti)
        if self._seen.get(key, now) > now:
            raise Unauthenticated("the proof was used before; make one for each request")
        self._seen.pop(key, None)
        self._seen[key] = proof.expires
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] > now and len(self._seen) <= self._limit:
                break
            del self._seen[oldest]
