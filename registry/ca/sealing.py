"""Seals private keys for storage in etcd, under a key that is not in etcd.

Pure. The key-encryption key is a file of random bytes (stretched by HKDF) or a passphrase (hardened by
scrypt); the sealing is AES-256-GCM with the key's id as associated data, so that a sealed key
cannot be moved to another place in the store.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from registry.ca.issuer import Signer, read_certificate, to_pem
from registry.errors import ConfigError
from registry.model.enrolment import SealedKey, SealedKeySpec
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata

SALT_BYTES = 32
NONCE_BYTES = 12
# What a 256-bit key needs; a shorter file was not made from a random source.
KEY_FILE_BYTES = 32

# The names are stored beside the ciphertext: other parameters get another name, old ones stay readable.
WITH_KEY_FILE = "hkdf-sha256/aes-256-gcm"
# OWASP's cost for scrypt (2^17, 8, 1): 128 MiB and some tenths of a second, once at start.
WITH_PASSPHRASE = "scrypt-n17-r8-p1/aes-256-gcm"  # noqa: S105 - an algorithm's name


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key-encryption key of at least 32 random bytes."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) < KEY_FILE_BYTES:
            raise ConfigError(f"the key-encryption key is shorter than {KEY_FILE_BYTES} bytes")

    def __repr__(self) -> str:
        return "KeyFile(...)"


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A key-encryption key that people remember."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise ConfigError("the passphrase of the signing key is empty")

    def __repr__(self) -> str:
        return "Passphrase(...)"


Kek = KeyFile | Passphrase


def seal(
    key: ec.EllipticCurvePrivateKey,
    *,
    kek: Kek,
    key_id: str,
    salt: bytes,
    nonce: bytes,
    certificate: x509.Certificate | None = None,
    chain: Sequence[x509.Certificate] = (),
    cross: Sequence[x509.Certificate] = (),
) -> SealedKey:
    """Encrypt a private key; `salt` and `nonce` are fresh random bytes, the rest stands beside it."""
    plaintext = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    ciphertext = AESGCM(_derive(kek, salt)).encrypt(nonce, plaintext, key_id.encode())
    return SealedKey(
        api_version=NODEMESH,
        kind=SealedKey.KIND,
        metadata=Metadata(name=key_id, namespace=ROOT_NAMESPACE),
        spec=SealedKeySpec(
            algorithm=_algorithm(kek),
            salt=base64.b64encode(salt).decode(),
            nonce=base64.b64encode(nonce).decode(),
            ciphertext=base64.b64encode(ciphertext).decode(),
            certificate_pem=to_pem(certificate) if certificate else "",
            chain_pem=tuple(map(to_pem, chain)),
            cross_pem=tuple(map(to_pem, cross)),
        ),
    )


def unseal(sealed: SealedKey, *, kek: Kek, key_id: str) -> Signer:
    """Decrypt a signer.

    Raises:
        ConfigError: the key-encryption key is not the one it was sealed with, or the value was damaged.
    """
    key = unseal_key(sealed, kek=kek, key_id=key_id)
    certificate = read_certificate(sealed.spec.certificate_pem, where=f"the sealed signing key {key_id!r}")
    if key.public_key() != certificate.public_key():
        raise ConfigError(f"the sealed signing key {key_id!r} does not belong to its certificate")
    return Signer(certificate, key)


def unseal_key(sealed: SealedKey, *, kek: Kek, key_id: str) -> ec.EllipticCurvePrivateKey:
    """Decrypt a private key, certified or not.

    Raises:
        ConfigError: as `unseal`.
    """
    spec = sealed.spec
    if spec.algorithm not in (WITH_KEY_FILE, WITH_PASSPHRASE):
        raise ConfigError(
            f"the signing key {key_id!r} is sealed by {spec.algorithm!r}, which is unknown here"
        )
    if spec.algorithm != _algorithm(kek):
        sealed_with = "a key file" if spec.algorithm == WITH_KEY_FILE else "a passphrase"
        raise ConfigError(f"the signing key {key_id!r} is sealed with {sealed_with}; give that instead")
    try:
        salt, nonce, ciphertext = (
            base64.b64decode(text, validate=True) for text in (spec.salt, spec.nonce, spec.ciphertext)
        )
        plaintext = AESGCM(_derive(kek, salt)).decrypt(nonce, ciphertext, key_id.encode())
    except InvalidTag as error:
        raise ConfigError(
            f"the signing key {key_id!r} cannot be unsealed: wrong key-encryption key "
            "(use the one that `nodemesh-registry init` was run with), or the sealed key was tampered with"
        ) from error
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"the sealed signing key {key_id!r} is damaged: {error}") from error
    key = serialization.load_der_private_key(plaintext, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"the sealed signing key {key_id!r} is no elliptic curve key")
    return key


def _algorithm(kek: Kek) -> str:
    return WITH_KEY_FILE if isinstance(kek, KeyFile) else WITH_PASSPHRASE


def _derive(kek: Kek, salt: bytes) -> bytes:
    match kek:
        case KeyFile(secret):
            hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=b"nodemesh signing key")
            return hkdf.derive(secret)
        case Passphrase(text):
            return Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(text.encode())
        case _:
            assert_never(kek)
