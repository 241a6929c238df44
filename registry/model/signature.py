"""Signed resources: a resource's canonical JSON with one more field, `signature`.

Pure. The signature is a detached compact JWS (RFC 7515 appendix F), ES256, with the signer's certificates in
its header (`x5c`) and the key of the store at which the value stands (`kid`), so that a value moved to
another key is none. What is signed is the canonical JSON without the field; what is read must be canonical
too, so that no byte of a signed value can be changed. Whether the signer may sign this is another's
question: `registry.store.signed`.

Values are looked at as JSON, not as resources: a signature holds whatever the reader's version makes of them.
"""

import base64
import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

FIELD: Final = "signature"
ALGORITHM: Final = "ES256"
# Leaf, intermediate, and room for one authority above it; the root is known to the reader.
MAX_CHAIN: Final = 4
# A header of four P-256 certificates is about 4 KiB.
MAX_SIGNATURE: Final = 16 << 10

_CURVE = ec.ECDSA(hashes.SHA256())
# Half of a raw ES256 signature (RFC 7518 section 3.4).
_HALF = 32
# A node signs its record and each of its workloads with one chain; so many signers are remembered.
_REMEMBERED = 4096

Chain = tuple[x509.Certificate, ...]


class BadSignature(ValueError):
    """There is no signature, or it does not fit; the message says which."""


class Unsigned(BadSignature):
    """There is no signature at all."""


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str
    x5c: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResourceSigner:
    """A private key and the chain that says whose it is, leaf first, without the root."""

    key: ec.EllipticCurvePrivateKey
    chain: Chain

    def sign(self, place: str, value: bytes) -> bytes:
        """Sign a resource's canonical JSON for the key `place`, replacing the signature it may have."""
        document = _document(value)
        document.pop(FIELD, None)
        x5c = tuple(base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in self.chain)
        header = _encode(msgspec.json.encode(_Header(alg=ALGORITHM, kid=place, x5c=x5c)))
        r, s = decode_dss_signature(self.key.sign(_signing_input(header, document), _CURVE))
        raw = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
        return _canonical(document | {FIELD: f"{header}..{_encode(raw)}"})


def verify(place: str, value: bytes) -> Chain:
    """Verify the signature of a value that stands at `place`; gives the signer's chain, not judged yet.

    Raises:
        BadSignature: says what is wrong.
    """
    try:
        document = _document(value)
    except ValueError as error:
        raise Unsigned("is not signed") from error
    text = document.pop(FIELD, None)
    if text is None:
        raise Unsigned("is not signed")
    if not isinstance(text, str) or len(text) > MAX_SIGNATURE:
        raise BadSignature("carries no signature of ours")
    if _canonical(document | {FIELD: text}) != value:
        raise BadSignature("was changed after it was signed: it is not canonical JSON")
    header_text, detached, signature_text = text.partition("..")
    header = _read_header(header_text)
    signature = _decode(signature_text)
    if not detached or len(signature) != 2 * _HALF:
        raise BadSignature("carries a malformed signature")
    if header.kid != place:
        raise BadSignature(f"was signed for {header.kid!r}, not for this key")
    chain = _read_chain(header.x5c)
    key = _public_key(chain[0])
    r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
    try:
        key.verify(encode_dss_signature(r, s), _signing_input(header_text, document), _CURVE)
    except InvalidSignature:
        raise BadSignature("was changed after it was signed: the signature does not fit") from None
    return chain


def strip(value: bytes) -> bytes:
    """Give a value without its signature, canonical; one that is no JSON object as it is."""
    try:
        document = _document(value)
    except ValueError:
        return value
    if FIELD not in document:
        return value
    del document[FIELD]
    return _canonical(document)


def _document(value: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("no JSON object") from error


def _canonical(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document, order="sorted")


def _signing_input(header: str, document: dict[str, Any]) -> bytes:
    return f"{header}.{_encode(_canonical(document))}".encode()


def _read_header(text: str) -> _Header:
    try:
        header = msgspec.json.decode(_decode(text), type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadSignature("carries a signature whose header cannot be read") from error
    if header.alg != ALGORITHM:
        raise BadSignature(f"is signed by {header.alg!r}, {ALGORITHM} is expected")
    if not 1 <= len(header.x5c) <= MAX_CHAIN:
        raise BadSignature(f"comes with {len(header.x5c)} certificates, 1 to {MAX_CHAIN} are expected")
    return header


@lru_cache(maxsize=_REMEMBERED)
def _read_chain(x5c: tuple[str, ...]) -> Chain:
    try:
        return tuple(x509.load_der_x509_certificate(base64.b64decode(text, validate=True)) for text in x5c)
    except (binascii.Error, ValueError) as error:
        raise BadSignature("comes with a certificate that cannot be read") from error


def _public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadSignature("comes with a certificate whose key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadSignature("was signed with a key that is not ECDSA on P-256")
    return key


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Read base64url without padding, in its one right spelling."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise BadSignature("carries a malformed signature") from error
    if _encode(raw) != text:
        raise BadSignature("carries a malformed signature")
    return raw
