"""Makes the mesh's certificates.

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

from registry.errors import ConfigError, InvalidResource
from registry.model.identity import (
    NODE_EXTENSION,
    Identity,
    encode_node,
)
from registry.model.revocation import BACKDATE

LEAF_LIFETIME = timedelta(hours=24)
SERVER_LIFETIME = timedelta(days=90)
# Long enough that its renewal is rare, short enough that renewal is no adventure when it comes.
INTERMEDIATE_LIFETIME = timedelta(days=365)
ROOT_LIFETIME = timedelta(days=3650)
# How long after a rotation a pinned older root still leads to the new one: configuration files on laptops,
# hosts that were off meanwhile.
CROSS_LIFETIME = timedelta(days=365)

# A P-256 request is about 500 bytes; nothing honest comes near this.
MAX_REQUEST = 16 << 10
# X.520's upper bound.
MAX_COMMON_NAME = 64


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
    # Every root of a mesh has this name, so that one certified by another is self-issued, and path lengths
    # do not count it (RFC 5280 section 6.1); key identifiers tell them apart.
    name = _common_name(f"nodemesh root {trust_domain}")
    builder = _builder(name, name, key.public_key(), serial, now, now + lifetime)
    return Signer(_authority(builder, trust_domain, path_length=1).sign(key, hashes.SHA256()), key)


def make_intermediate(
    root: Signer,
    key: ec.EllipticCurvePrivateKey,
    *,
    trust_domain: str,
    serial: int,
    now: datetime,
    lifetime: timedelta = INTERMEDIATE_LIFETIME,
) -> Signer:
    """Make an intermediate that issues leaves and no further authorities.

    Raises:
        ConfigError: the root has expired.
    """
    end = _end_within(root.certificate, now, lifetime)
    # Part of the serial, so that two of them are told apart by people, and by libraries that compare names.
    name = _common_name(f"nodemesh issuing {serial & 0xFFFFFFFF:08x} {trust_domain}")
    builder = _builder(name, root.certificate.subject, key.public_key(), serial, now, end)
    builder = _authority(builder, trust_domain, path_length=0).add_extension(
        _issued_by(root.certificate), critical=False
    )
    return Signer(builder.sign(root.key, hashes.SHA256()), key)


def cross_certify(old: Signer, new: x509.Certificate, *, serial: int, now: datetime) -> x509.Certificate:
    """Certify the root `new` by the root `old`, for those who know only `old`.

    Raises:
        ConfigError: `old` has expired.
    """
    end = min(_end_within(old.certificate, now, CROSS_LIFETIME), new.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(new.subject)
        .issuer_name(old.certificate.subject)
        .public_key(new.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(end)
    )
    for extension in new.extensions:
        if isinstance(extension.value, x509.AuthorityKeyIdentifier):
            continue
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.add_extension(_issued_by(old.certificate), critical=False).sign(old.key, hashes.SHA256())


def make_request(key: ec.EllipticCurvePrivateKey, *, trust_domain: str) -> str:
    """Make the request (PEM) by which an operator's own authority certifies an intermediate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        _common_name(f"nodemesh issuing {trust_domain}")
    )
    for value, critical in _authority_extensions(trust_domain, path_length=0):
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:MAX_COMMON_NAME])])


def _authority(
    builder: x509.CertificateBuilder, trust_domain: str, *, path_length: int
) -> x509.CertificateBuilder:
    for value, critical in _authority_extensions(trust_domain, path_length=path_length):
        builder = builder.add_extension(value, critical=critical)
    return builder


def _authority_extensions(trust_domain: str, *, path_length: int) -> list[tuple[x509.ExtensionType, bool]]:
    # The trust domain without a path is what SPIFFE asks of a signing certificate.
    uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_key_usage(signs_certificates=True), True),
        (x509.SubjectAlternativeName([uri]), False),
    ]


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
    node: str,
    serial: int,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
) -> x509.Certificate:
    """Certify that the holder of `key` is `identity`, for both ends of a tunnel, at the request of `node`.

    Raises:
        ConfigError: the signer itself has expired.
    """
    # An empty subject makes the critical alternative name the only name (RFC 5280 section 4.2.1.6).
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
    obtained_by = x509.UnrecognizedExtension(x509.ObjectIdentifier(NODE_EXTENSION), encode_node(node))
    return _issue(signer, key, names, usages, serial=serial, now=now, lifetime=lifetime, more=(obtained_by,))


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


def issue_etcd_client(
    signer: Signer,
    key: ec.EllipticCurvePublicKey,
    user: str,
    *,
    serial: int,
    now: datetime,
    lifetime: timedelta = LEAF_LIFETIME,
) -> x509.Certificate:
    """Certify an etcd user: etcd takes the common name for it.

    It names no identity, so that no peer of a tunnel takes it, and identities' certificates have no common
    name, so that etcd takes none of them for a user.

    Raises:
        ConfigError: the signer itself has expired.
    """
    usages = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)])
    return _issue(signer, key, None, usages, serial=serial, now=now, lifetime=lifetime, subject=name)


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
    names: x509.SubjectAlternativeName | None,
    usages: Sequence[x509.ObjectIdentifier],
    *,
    serial: int,
    now: datetime,
    lifetime: timedelta,
    more: Sequence[x509.ExtensionType] = (),
    subject: x509.Name | None = None,
) -> x509.Certificate:
    issuer = signer.certificate
    end = _end_within(issuer, now, lifetime)
    builder = (
        _builder(subject or x509.Name([]), issuer.subject, key, serial, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_issued_by(issuer), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=True)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer.key, hashes.SHA256())


def _end_within(issuer: x509.Certificate, now: datetime, lifetime: timedelta) -> datetime:
    # A certificate that outlives its issuer would fail before the date its holder plans renewal by.
    end = min(now + lifetime, issuer.not_valid_after_utc)
    if end <= now:
        raise ConfigError(f"the signing certificate expired at {issuer.not_valid_after_utc.isoformat()}")
    return end


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


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
