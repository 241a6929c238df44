"""Makes and reads the mesh's certificates.

Pure: keys, serial numbers and the time come in as arguments, nothing is stored or fetched here.
Source: SPIFFE X509-SVID specification; RFC 5280 for the extensions.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from registry.errors import ConfigError, InvalidResource, Unauthenticated
from registry.model.identity import Identity, InvalidIdentity, parse_identity

# Hosts whose clocks are some minutes slow must accept a fresh certificate (design: clock skew).
BACKDATE = timedelta(minutes=5)
LEAF_LIFETIME = timedelta(hours=24)
SERVER_LIFETIME = timedelta(days=90)
ROOT_LIFETIME = timedelta(days=3650)

# A P-256 request is about 500 bytes; nothing honest comes near this.
MAX_REQUEST = 16 << 10
# Leaf, one intermediate, root: what the root's path length of 1 allows.
MAX_CHAIN = 3


@dataclass(frozen=True, slots=True)
class Signer:
    """A certificate that may sign others, and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_root(
    key: ec.EllipticCurvePrivateKey,
    *,
    trust_domain: str,
    serial: int,
    now: datetime,
    lifetime: timedelta = ROOT_LIFETIME,
) -> Signer:
    """Make the self-signed root of a trust domain."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"nodemesh root {trust_domain}"[:64])])
    certificate = (
        _builder(name, name, key.public_key(), serial, now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return Signer(certificate, key)


def read_request(pem: str) -> ec.EllipticCurvePublicKey:
    """Take the public key from a certificate request whose signature proves possession of it.

    Everything else in the request is ignored: names are decided by the enrolment, not by the caller.

    Raises:
        InvalidResource: no PEM request, a bad signature, or a key that is not on P-256.
    """
    try:
        if len(pem) > MAX_REQUEST:
            raise _bad_request(f"is longer than {MAX_REQUEST} bytes")
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        if not request.is_signature_valid:
            raise _bad_request("its signature does not fit its public key")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_request("is not a certificate request in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_request("its key is not ECDSA on P-256")
    return key


def _bad_request(reason: str) -> InvalidResource:
    return InvalidResource(
        where="certificate request",
        path="csr",
        reason=reason,
        mend="send a PKCS #10 request with a P-256 key",
    )


def issue_leaf(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    identity: Identity,
    *,
    serial: int,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
) -> x509.Certificate:
    """Certify that the holder of `key` is `identity`, for both ends of a tunnel.

    Raises:
        ConfigError: the signer itself has expired.
    """
    # An empty subject makes the critical alternative name the only name (RFC 5280 section 4.2.1.6).
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
    return _issue(signer, key, names, usages, serial=serial, now=now, lifetime=lifetime)


def issue_server(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    names: Iterable[str],
    *,
    serial: int,
    now: datetime,
    lifetime: timedelta = SERVER_LIFETIME,
) -> x509.Certificate:
    """Certify an API server under DNS names and IP addresses.

    Raises:
        ConfigError: a name is neither, or the signer itself has expired.
    """
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    usages = (ExtendedKeyUsageOID.SERVER_AUTH,)
    return _issue(signer, key, alternatives, usages, serial=serial, now=now, lifetime=lifetime)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(f"{name!r} is neither a DNS name (in ASCII) nor an IP address") from error


def _issue(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    names: x509.SubjectAlternativeName,
    usages: Sequence[x509.ObjectIdentifier],
    *,
    serial: int,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    issuer = signer.certificate
    # A certificate that outlives its issuer would fail before the date its holder plans renewal by.
    end = min(now + lifetime, issuer.not_valid_after_utc)
    if end <= now:
        raise ConfigError(f"the signing certificate expired at {issuer.not_valid_after_utc.isoformat()}")
    issuer_key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(x509.Name([]), issuer.subject, key, serial, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(names, critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False
        )
        .sign(signer.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def identity_of(certificate: x509.Certificate, *, trust_domain: str) -> Identity:
    """Read the one identity of a leaf certificate. Whether to believe it is `verify_chain`'s question.

    Raises:
        Unauthenticated: no identity, several, or one of another trust domain.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise Unauthenticated(f"the certificate has {len(uris)} URI names, one is expected")
        identity = parse_identity(uris[0])
    except x509.ExtensionNotFound as error:
        raise Unauthenticated("the certificate has no alternative name") from error
    except (ValueError, InvalidIdentity) as error:
        raise Unauthenticated(f"the certificate's identity cannot be read: {error}") from error
    if identity.trust_domain != trust_domain:
        raise Unauthenticated(f"{identity} is not of the trust domain {trust_domain!r}")
    return identity


def verify_chain(
    chain: Sequence[x509.Certificate], *, roots: Sequence[x509.Certificate], trust_domain: str, now: datetime
) -> Identity:
    """Verify that `chain` (leaf first) leads to one of `roots` at `now`, and give the leaf's identity.

    Raises:
        Unauthenticated: the chain is empty, too long, expired, of another root, or without an identity.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise Unauthenticated(f"a chain of 1 to {MAX_CHAIN} certificates is expected, not {len(chain)}")
    verifier = PolicyBuilder().store(Store(list(roots))).time(now).build_client_verifier()
    try:
        verifier.verify(chain[0], list(chain[1:]))
    except (VerificationError, ValueError) as error:
        raise Unauthenticated(f"the certificate is not of this mesh, or not valid now: {error}") from error
    return identity_of(chain[0], trust_domain=trust_domain)


def fingerprint(certificate: x509.Certificate) -> str:
    """Give the hexadecimal SHA-256 of a certificate's DER: what join tokens pin."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def to_pem(certificate: x509.Certificate) -> str:
    """Give a certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def read_certificate(pem: str, *, where: str) -> x509.Certificate:
    """Read one certificate in PEM; `where` says in an error what was being read.

    Raises:
        ConfigError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise ConfigError(f"{where} holds no certificate in PEM: {error}") from error
