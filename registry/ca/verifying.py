"""Verifies certificates, and reads what verified ones say.

Pure: roots and the time come in as arguments. Source: SPIFFE X509-SVID specification; RFC 5280.
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from registry.clock import format_time
from registry.errors import InvalidResource, Unauthenticated
from registry.model.identity import (
    NODE_EXTENSION,
    Identity,
    InvalidIdentity,
    NodeIdentity,
    decode_node,
    parse_identity,
)
from registry.model.revocation import CertificateFacts

# Leaf, intermediate, an operator's authority above it (or the root as certified by the one before), root.
MAX_CHAIN = 4


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


def check_authority(certificate: x509.Certificate, *, what: str, now: datetime) -> None:
    """Check that a certificate is an authority's and valid now; whose, and by whom, is not asked.

    Raises:
        InvalidResource: it is not; `what` is named.
    """
    extensions = certificate.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound as error:
        raise _bad_authority(what, f"lacks the extension {error.oid.dotted_string}") from error
    if not constraints.value.ca or not constraints.critical:
        raise _bad_authority(what, "is no authority: its basic constraints do not say CA, critically")
    if not usage.key_cert_sign:
        raise _bad_authority(what, "may not sign certificates: its key usage lacks keyCertSign")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        raise _bad_authority(what, f"is valid from {format_time(begin)} to {format_time(end)}, not now")


def _bad_authority(what: str, reason: str) -> InvalidResource:
    return InvalidResource(
        where="certificate",
        path=what,
        reason=reason,
        mend="ask for a CA certificate: basicConstraints CA:TRUE critical, keyUsage keyCertSign, "
        "subjectKeyIdentifier",
    )


def facts_of(chain: Sequence[x509.Certificate], identity: Identity) -> CertificateFacts:
    """Give what revocations look at in a chain (leaf first) that was verified to be of `identity`."""
    return CertificateFacts(
        identity=str(identity),
        node=node_of(chain[0], identity),
        serials=tuple(certificate.serial_number for certificate in chain),
        not_before=chain[0].not_valid_before_utc,
    )


def node_of(leaf: x509.Certificate, identity: Identity) -> str:
    """Give the node a leaf was issued to, empty if it does not say."""
    if isinstance(identity, NodeIdentity):
        return identity.name
    try:
        value = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier(NODE_EXTENSION)).value
        return decode_node(value.public_bytes())
    except (x509.ExtensionNotFound, ValueError):
        return ""


def verify_chain(
    chain: Sequence[x509.Certificate], *, roots: Sequence[x509.Certificate], trust_domain: str, now: datetime
) -> Identity:
    """Verify that `chain` (leaf first) leads to one of `roots` at `now`, and give the leaf's identity.

    Raises:
        Unauthenticated: the chain is empty, too long, expired, of another root, or without an identity.
    """
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise Unauthenticated(f"a chain of 1 to {MAX_CHAIN} certificates is expected, not {len(chain)}")
    _check_dates(chain[0], now)
    verifier = PolicyBuilder().store(Store(list(roots))).time(now).build_client_verifier()
    try:
        verifier.verify(chain[0], list(chain[1:]))
    except (VerificationError, ValueError) as error:
        raise Unauthenticated(f"the certificate is not of this mesh, or not valid now: {error}") from error
    return identity_of(chain[0], trust_domain=trust_domain)


def _check_dates(leaf: x509.Certificate, now: datetime) -> None:
    """Say of a certificate outside its time since when, and by which clock: the commonest fault there is."""
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    clock = f"it is {format_time(now)} here"
    if now > end:
        raise Unauthenticated(
            f"the certificate expired at {format_time(end)}, {clock}; join again with a token"
        )
    if now < begin:
        raise Unauthenticated(
            f"the certificate is valid from {format_time(begin)} on, {clock}; check the clocks of both hosts"
        )
