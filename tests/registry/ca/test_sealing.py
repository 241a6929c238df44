"""Sealed keys open with the key that sealed them, where they were sealed, and not otherwise."""

import base64

import msgspec
import pytest

from registry.ca import issuer
from registry.ca.sealing import KeyFile, Passphrase, seal, unseal
from registry.errors import ConfigError
from registry.model.enrolment import SealedKey
from registry.model.parse import parse_as, render
from tests.registry.ca.material import KEK, START, TRUST_DOMAIN, new_key

SALT, NONCE = b"s" * 32, b"n" * 12


@pytest.fixture(scope="module")
def root() -> issuer.Signer:
    return issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=1, now=START)


@pytest.fixture
def sealed(root: issuer.Signer) -> SealedKey:
    return seal(root.key, certificate=root.certificate, kek=KEK, key_id="root", salt=SALT, nonce=NONCE)


def test_round_trip(root: issuer.Signer, sealed: SealedKey) -> None:
    """A key sealed, stored and read is the same key."""
    stored = parse_as(SealedKey, render(sealed), where="ca/keys/root")
    opened = unseal(stored, kek=KEK, key_id="root")
    assert opened.key.private_numbers() == root.key.private_numbers()
    assert opened.certificate == root.certificate


def test_passphrase(root: issuer.Signer) -> None:
    """A passphrase seals and opens as well, and another one does not."""
    sealed = seal(
        root.key,
        certificate=root.certificate,
        kek=Passphrase("open sesame"),
        key_id="root",
        salt=SALT,
        nonce=NONCE,
    )
    opened = unseal(sealed, kek=Passphrase("open sesame"), key_id="root")
    assert opened.key.private_numbers() == root.key.private_numbers()
    with pytest.raises(ConfigError, match="wrong key-encryption key"):
        unseal(sealed, kek=Passphrase("open barley"), key_id="root")


def test_wrong_key_file(sealed: SealedKey) -> None:
    """The wrong key file is called that, not a damaged store."""
    with pytest.raises(ConfigError, match="wrong key-encryption key"):
        unseal(sealed, kek=KeyFile(b"x" * 32), key_id="root")


def test_other_kind_of_key(sealed: SealedKey) -> None:
    """A passphrase for a key that a file sealed is told apart from a wrong passphrase."""
    with pytest.raises(ConfigError, match="sealed with a key file"):
        unseal(sealed, kek=Passphrase("open sesame"), key_id="root")


def test_moved(sealed: SealedKey) -> None:
    """A sealed key copied to another id does not open there."""
    with pytest.raises(ConfigError, match="cannot be unsealed"):
        unseal(sealed, kek=KEK, key_id="other")


@pytest.mark.parametrize("field", ["ciphertext", "nonce", "salt"])
def test_tampered(sealed: SealedKey, field: str) -> None:
    """A changed bit anywhere in the sealed parts is noticed."""
    raw = bytearray(base64.b64decode(getattr(sealed.spec, field)))
    raw[0] ^= 1
    spec = msgspec.structs.replace(sealed.spec, **{field: base64.b64encode(raw).decode()})
    with pytest.raises(ConfigError, match="cannot be unsealed"):
        unseal(msgspec.structs.replace(sealed, spec=spec), kek=KEK, key_id="root")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ciphertext", "!"),
        ("ciphertext", ""),
        ("nonce", ""),
        ("algorithm", "rot13"),
        ("certificate_pem", "hello"),
    ],
)
def test_damaged(sealed: SealedKey, field: str, value: str) -> None:
    """Nonsense in a sealed key is an error an operator can read."""
    spec = msgspec.structs.replace(sealed.spec, **{field: value})
    with pytest.raises(ConfigError):
        unseal(msgspec.structs.replace(sealed, spec=spec), kek=KEK, key_id="root")


def test_other_certificate(sealed: SealedKey) -> None:
    """A certificate that belongs to another key is not taken as the signer's."""
    other = issuer.make_root(new_key(), trust_domain=TRUST_DOMAIN, serial=2, now=START)
    spec = msgspec.structs.replace(sealed.spec, certificate_pem=issuer.to_pem(other.certificate))
    with pytest.raises(ConfigError, match="does not belong"):
        unseal(msgspec.structs.replace(sealed, spec=spec), kek=KEK, key_id="root")


def test_short_keys() -> None:
    """A key file of a few bytes, or an empty passphrase, is refused before anything is sealed with it."""
    with pytest.raises(ConfigError, match="shorter than 32"):
        KeyFile(b"secret")
    with pytest.raises(ConfigError, match="empty"):
        Passphrase("")


def test_not_in_logs() -> None:
    """Key-encryption keys do not show themselves."""
    assert "sesame" not in repr(Passphrase("open sesame"))
    assert "kkk" not in repr(KEK)
