"""What a node brings to the registry, made by hand: keys, requests, proofs. And a clock that stands still."""

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from registry.ca.authority import Authority, make_founding
from registry.ca.sealing import Kek, KeyFile
from registry.store.base import Store

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRUST_DOMAIN = "mesh.test"
KEK = KeyFile(b"k" * 32)


class SetClock:
    """A clock that moves when told to."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Read it."""
        return self.now

    def advance(self, **lengths: float) -> None:
        """Move on by a timedelta's keywords."""
        self.now += timedelta(**lengths)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, subject: str = "ignored") -> str:
    """Make a certificate request in PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def make_proof(
    key: ec.EllipticCurvePrivateKey,
    chain_pem: str,
    *,
    identity: str,
    body: bytes,
    now: datetime,
    headers: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Make a node's proof of possession; `changes` replace claims, None leaves one out."""
    chain = x509.load_pem_x509_certificates(chain_pem.encode())
    x5c = [base64.b64encode(each.public_bytes(serialization.Encoding.DER)).decode() for each in chain]
    issued = int(now.timestamp())
    claims = {
        "iss": identity,
        "sub": identity,
        "aud": "nodemesh-registry",
        "iat": issued,
        "exp": issued + 60,
        "jti": uuid.uuid4().hex,
        "sha256": sha256(body).hexdigest(),
        **changes,
    }
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, key, algorithm="ES256", headers={"x5c": x5c, **(headers or {})})


def unsigned(token: str) -> str:
    """Give a token that says it needs no signature."""
    header, payload, _ = token.split(".")
    fields = json.loads(base64.urlsafe_b64decode(header + "=="))
    fields["alg"] = "none"
    bare = base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()
    return f"{bare}.{payload}.AA"


async def found_authority(store: Store, clock: SetClock, *, kek: Kek = KEK) -> Authority:
    """Found a mesh in `store` and open its authority."""
    founding = make_founding(trust_domain=TRUST_DOMAIN, kek=kek, now=clock())
    assert await store.commit(founding.conditions, founding.writes) is not None
    return await Authority.load(store, kek=kek, clock=clock)
