"""What certificates say, in the model's words. Pure; whether to believe them is others' question."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from registry.model.identity import NODE_EXTENSION, Identity, NodeIdentity, decode_node
from registry.model.revocation import BACKDATE, CertificateFacts

E = TypeVar("E", bound=x509.ExtensionType)

# What reading a certificate's extensions may raise; InvalidIdentity is a ValueError.
MALFORMED = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_NODE_EXTENSION = x509.ObjectIdentifier(NODE_EXTENSION)


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """Give the value of an extension, if the certificate has it."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def fingerprint(certificate: x509.Certificate) -> str:
    """Give the hexadecimal SHA-256 of the DER."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def read_roots(pems: Iterable[str]) -> list[x509.Certificate]:
    """Read root certificates, one or several to a text.

    Raises:
        ValueError: a text holds none.
    """
    return [each for pem in pems for each in x509.load_pem_x509_certificates(pem.encode())]


def facts_of(chain: Sequence[x509.Certificate], identity: Identity, *, trust_domain: str) -> CertificateFacts:
    """Give what revocations look at; `trust_domain` is ours.

    Raises:
        MALFORMED: an extension cannot be read.
    """
    ours = identity.trust_domain == trust_domain
    return CertificateFacts(
        identity=str(identity),
        # Another mesh's nodes are not ours, whatever they are called.
        node=_node_of(chain[0], identity) if ours else "",
        serials=tuple(each.serial_number for each in chain),
        # Only our own authority is known to date back by this much; RevocationList adds it.
        not_before=chain[0].not_valid_before_utc - (timedelta(0) if ours else BACKDATE),
    )


def issuer_of(chain: Sequence[x509.Certificate], roots: Iterable[x509.Certificate]) -> str:
    """Give the fingerprint of what signed the leaf: its intermediate, or else one of `roots`; or nothing."""
    if len(chain) > 1:
        return fingerprint(chain[1])
    for root in roots:
        try:
            chain[0].verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return fingerprint(root)
    return ""


def _node_of(leaf: x509.Certificate, identity: Identity) -> str:
    if isinstance(identity, NodeIdentity):
        return identity.name
    for each in leaf.extensions:
        if each.oid == _NODE_EXTENSION and isinstance(each.value, x509.UnrecognizedExtension):
            return decode_node(each.value.value)
    return ""
